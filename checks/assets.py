"""Models that come with the code are found from any working folder; no torch."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

ROOT = Path(__file__).parents[1]
_PREFIX = "assets/"
_WRITTEN = "export_dir"


def asset(path: str) -> str:
    """`path`, or where it is "assets/…" and not below the working folder, the one beside the code if that is there."""
    found = ROOT / path
    return str(found) if path.startswith(_PREFIX) and not Path(path).exists() and found.exists() else path


def with_assets(cfg: DictConfig) -> DictConfig:
    """A copy of `cfg` in which every "assets/…" that is read can be opened; `export_dir` is written, and stays.

    Configs are saved without this, so that a run folder can be taken to another machine.
    """
    cfg = deepcopy(cfg)
    _replace(cfg)
    return cfg


def _replace(node: DictConfig | ListConfig) -> None:
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        if key == _WRITTEN or OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            _replace(value)
        elif isinstance(value, str) and (found := asset(value)) != value:
            node[key] = found
