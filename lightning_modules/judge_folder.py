"""Checks of the judges' folders that need no torch: a missing one is refused before training, not at its end."""

import json
from pathlib import Path
from typing import Any

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
    _check_config(root / "config.json", ("widths", "hidden"), key="data.judge", mend=mend)
    check_safetensors(root / "model.safetensors", key="data.judge")


def check_identity(identity: str) -> None:
    """Refuses a folder that holds no `Identity`, or names a ViT that is not whole.

    Raises:
        FileNotFoundError: a file of it is missing, or of the ViT that it names; named.
        ValueError: its config or weights are no whole file, or the ViT's are not.
    """
    root, key, mend = Path(identity).expanduser(), "data.identity", "set data.identity=null for a run without"
    for name in ("config.json", "whitening.safetensors"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"data.identity={identity} lacks {name}: {mend}")
    config = _check_config(root / "config.json", ("vit", "layers"), key=key, mend=mend)
    check_safetensors(root / "whitening.safetensors", key=key)
    vit = (root / config["vit"]).resolve()
    for name in ("config.json", "model.safetensors"):
        if not (vit / name).is_file():
            raise FileNotFoundError(
                f"data.identity={identity} looks with the ViT in {vit}, which lacks {name}: bring it there, name "
                f"another in {root / 'config.json'}, or {mend}"
            )
    check_safetensors(vit / "model.safetensors", key=f"the ViT of {key}")


def _check_config(file: Path, needed: tuple[str, str], *, key: str, mend: str) -> dict[str, Any]:
    """What `file` holds, which are the keys `needed` and no others."""
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error} ({key}); {mend}") from None
    if not isinstance(config, dict) or set(config) != set(needed):
        raise ValueError(f"{file} is no {key.partition('.')[2]}'s: it needs {' and '.join(needed)} ({key}); {mend}")
    return config
