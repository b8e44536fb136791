"""What conf/ needs of Hydra beyond its own: imported before a config is composed."""

import math

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

# A node with this among its defaults takes any key, and its class is asked for it later: `guidance.key=…` may be meant
# for a finished run, whose guidance Hydra does not know.
ConfigStore.instance().store("any_key", OmegaConf.create({}, flags={"struct": False}))
OmegaConf.register_new_resolver("share", lambda share, whole: round(share * whole), replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
OmegaConf.register_new_resolver("run_name", lambda task, name: name if task == "fit" else task, replace=True)
