"""A run folder is never written over, and a checkpoint goes on as its own run; no torch, so that it is told at once."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from checks.moved import as_today

_DECIDES = (
    "name",
    "seed",
    "model",
    "data",
    "datamodule",
    "adapter",
    "token",
    "optimizer",
    "lr_scheduler",
    "module",
    "regularizer",
)
_MAY_CHANGE = (
    "datamodule.num_workers",
    "datamodule.val_batch_size",
    "model.inference_batch_size",
    "model.compile",
    "model.gradient_checkpointing",
    "class_image_dir",
    "export_dir",
)


def refuse_existing(run_dir: Path, ckpt_path: str | None) -> None:
    """A run is never written over; an unfinished one goes on in place, by its own checkpoint and `hydra.run.dir`."""
    continued = ckpt_path is not None and _run_of(ckpt_path) == run_dir.resolve()
    taken = "report.html" if continued else "config.yaml"
    if (run_dir / taken).exists():
        raise FileExistsError(f"{run_dir} holds a run already ({taken}): choose another hydra.run.dir")


def _run_of(ckpt_path: str) -> Path:
    """The folder of the run that a checkpoint lies in."""
    return Path(ckpt_path).resolve().parent.parent


def refuse_other_run(cfg: DictConfig) -> None:
    """A checkpoint goes on as the run that it is from: whatever decides the numbers must be as it was."""
    source = _run_of(cfg.ckpt_path) / "config.yaml" if cfg.ckpt_path else None
    if source is None or not source.is_file():
        return
    written: Any = OmegaConf.to_container(OmegaConf.load(source))
    if as_today(written) != written:
        raise ValueError(
            f"ckpt_path={cfg.ckpt_path} is of a run of holdfast 0.1.0 ({source}): resume it with that version; "
            "task=sample and task=evaluate take it as it is"
        )
    before, now = _flat(OmegaConf.create(written)), _flat(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    different = [
        key
        for key in sorted(before.keys() | now.keys())
        if key.partition(".")[0] in _DECIDES
        and key.removeprefix("module.") not in _MAY_CHANGE
        and not key.startswith("module.guidance.")  # of what is drawn
        and before.get(key) != now.get(key)
    ]
    if different:
        key = different[0]
        raise ValueError(
            f"{key} is {now.get(key)!r}, and {before.get(key)!r} in the run of ckpt_path ({source}): resume it under "
            f"its own settings (differing: {', '.join(different)})"
        )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not OmegaConf.is_dict(node):
        return {prefix: OmegaConf.to_container(node) if OmegaConf.is_list(node) else node}
    return {name: value for key in node for name, value in _flat(node[key], f"{prefix}.{key}".strip(".")).items()}


def refuse_used(out_dir: Path) -> None:
    """`task=sample|evaluate` write into a folder that holds nothing yet."""
    if used := [path.name for path in out_dir.iterdir()]:
        raise FileExistsError(f"{out_dir} is used already ({min(used)}): choose another hydra.run.dir")


class NoteNewFolders(Callback):
    """Hydra's callback that looks, before Hydra makes the run folder, which folders are not there yet."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # which the name of the folder reads
        run_dir = Path(str(config.hydra.run.dir)).absolute()
        _NEW.extend(each for each in (run_dir, *run_dir.parents) if not each.exists())


_NEW: list[Path] = []  # innermost first


def remove_if_new(run_dir: Path) -> None:
    """Takes away what Hydra made of an empty `run_dir`, for a run that was refused."""
    if run_dir.absolute() in _NEW:
        with suppress(OSError):  # something was written, and stays
            for each in _NEW:
                each.rmdir()


def is_first_process() -> bool:
    """Whether no other process of this run has been here: under DDP the others are started on the same command line."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
