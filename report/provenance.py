"""What a run was made with: git commit, package versions and command line."""

import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "hydra-core", "numpy", "torchvision")


def provenance() -> dict[str, Any]:
    """`git_commit` of this checkout ("-dirty" when it has changes, None outside git) and `packages` with versions."""
    return {"git_commit": _git_commit(), "packages": {name: _version(name) for name in _PACKAGES}}


def write_provenance(run_dir: Path) -> None:
    """Writes `provenance.json` into `run_dir`."""
    (run_dir / "provenance.json").write_text(json.dumps(provenance(), indent=2))


def write_command_line(cfg: DictConfig, run_dir: Path) -> None:
    """Writes `.hydra/` into `run_dir`, the three files that Hydra itself would write before a run is checked."""
    folder = run_dir / ".hydra"
    folder.mkdir(exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": HydraConfig.get()}), folder / "hydra.yaml")
    OmegaConf.save(HydraConfig.get().overrides.task, folder / "overrides.yaml")


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
