"""Checks of the judges' folders that need no torch: a missing one is refused before training, not at its end."""

import json
from pathlib import Path

from lightning_modules.pipeline_folder import check_safetensors


def check_judge(judge: str) -> None:
    """Refuses a folder that holds no whole `SpritesJudge`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file of it is missing or broken, named.
    """
    root = Path(judge).expanduser()
    mend = "train one with experiment=pretrain_sprites_judge, or set data.judge=null for a run without its figures"
    if not root.is_dir():
        raise FileNotFoundError(f"data.judge={judge}: no such folder; {mend}")
    for name in ("config.json", "model.safetensors"):
        if not (root / name).is_file():
            raise ValueError(f"{root} is no judge: it lacks {name} (data.judge); {mend}")
    try:
        config = json.loads((root / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{root / 'config.json'} is no JSON: {error} (data.judge); {mend}") from None
    if not isinstance(config, dict) or set(config) != {"widths", "hidden"}:
        raise ValueError(f"{root / 'config.json'} is no judge's: it needs widths and hidden (data.judge); {mend}")
    check_safetensors(root / "model.safetensors", key="data.judge")


def check_identity(identity: str) -> None:
    """Refuses a folder that holds no `Identity`.

    Raises:
        FileNotFoundError: a file of it is missing, named.
        ValueError: its weights are no whole file.
    """
    root = Path(identity).expanduser()
    for name in ("config.json", "whitening.safetensors"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"data.identity={identity} lacks {name}: set data.identity=null for a run without")
    check_safetensors(root / "whitening.safetensors", key="data.identity")
