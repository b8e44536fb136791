"""Holdfast's one entry point, `python run.py experiment=apt_dreambooth` or, installed, `holdfast experiment=…`."""

import os
import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from checks import resolvers  # noqa: F401  which conf/ uses
from checks.command_line import cause, composition_error_explained
from checks.finished_run import refuse_other_tasks_keys
from checks.run_folder import remove_if_new
from tasks.evaluate import evaluate
from tasks.fit import fit
from tasks.sample import sample

# lightning 2.6 copies an old torch.utils._pytree, which every Trainer warns of.
warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)

TASKS = {"fit": fit, "evaluate": evaluate, "sample": sample}
CONF = Path(__file__).parent.resolve() / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(cfg: DictConfig) -> None:
    """Dispatches to the task; any error becomes one message."""
    composition_error_explained.end()
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    try:
        if cfg.task not in TASKS:
            raise ValueError(f"task={cfg.task}: choose one of {', '.join(TASKS)}")
        refuse_other_tasks_keys(cfg)
        TASKS[cfg.task](cfg, run_dir)
    except KeyboardInterrupt:
        sys.exit(f"stopped; what was written lies in {run_dir}")
    except (ValueError, OSError, FloatingPointError, InstantiationException, OmegaConfBaseException) as error:
        is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if not is_sweep:
            remove_if_new(run_dir)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = f"error: {cause(error)}\n(HYDRA_FULL_ERROR=1 shows where)"
        if is_sweep:  # the other jobs go on; Hydra fails at the end
            print(message, file=sys.stderr)
            raise
        sys.exit(message)


def main() -> None:
    with composition_error_explained:
        run()


if __name__ == "__main__":
    main()
