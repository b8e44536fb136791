"""Checks of a model's folder that need no torch, so that a bad one is refused before anything is loaded."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

INDEX = "model_index.json"
_WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}
"""What the libraries of a pipeline's parts call their weights."""

_OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that no run loads."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_pipeline_folder(pretrained: str, pipeline_class: str | None) -> None:
    """Refuses a local folder that is no complete pipeline of a class; a hub id passes.

    Args:
        pretrained: a folder or a hub id.
        pipeline_class: of diffusers, as the model's family names it; None takes any.

    Raises:
        FileNotFoundError: no such folder, and no hub id either.
        ValueError: another pipeline's folder, or a part of it is missing, named.
    """
    root = Path(pretrained).expanduser()
    if not root.is_dir():
        if not _HUB_ID.fullmatch(pretrained) or root.parts[0] == "assets":
            raise FileNotFoundError(f"model.pretrained={pretrained}: no such folder, and no hub id (owner/name) either")
        return
    if not (root / INDEX).is_file():
        raise ValueError(f"{root} is no diffusers pipeline: it lacks {INDEX} (model.pretrained)")
    index = _read_config(root / INDEX)
    if pipeline_class and index.get("_class_name") != pipeline_class:
        raise ValueError(
            f"{root / INDEX} is a {index.get('_class_name')}, and this model takes a {pipeline_class}: choose the "
            "model of that family, or another model.pretrained"
        )
    for name, (library, kind) in _parts(index).items():
        if kind.endswith("Scheduler"):
            _check_config_file(root / name / "scheduler_config.json")
        elif "Tokenizer" in kind:
            _check_config_file(root / name / "tokenizer_config.json")
            _check_vocabulary(root / name)
        elif library in _WEIGHTS:
            _check_config_file(root / name / "config.json")
            _check_weights(root / name)


def _parts(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Library and class of each part that a `model_index.json` names and a run loads."""
    pairs = {name: pair for name, pair in index.items() if isinstance(pair, list) and len(pair) == 2}
    return {name: (str(a), str(b)) for name, (a, b) in pairs.items() if a and b and name not in _OPTIONAL}


def _check_config_file(path: Path) -> None:
    if not path.is_file():
        raise _incomplete(path.parent, f"{path.name} is missing")
    _read_config(path)


def _incomplete(folder: Path, why: str) -> ValueError:
    return ValueError(f"{folder.parent} is incomplete: {folder.name}/{why} (model.pretrained)")


def _check_vocabulary(folder: Path) -> None:
    """Without a vocabulary every word would be the same token."""
    whole = ("tokenizer.json", "spiece.model", "tokenizer.model")
    if any((folder / name).is_file() for name in whole):
        return
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise _incomplete(folder, f"{name} is missing")


def _check_weights(folder: Path) -> None:
    """All weights, in one file or in shards."""
    files = set(folder.glob("*.safetensors"))
    for shards in folder.glob("*.safetensors.index.json"):
        files |= {folder / name for name in _read_config(shards).get("weight_map", {}).values()}
    if not files:
        raise ValueError(
            f"{folder.parent} is incomplete: {folder.name}/ has no .safetensors weights (model.pretrained)"
        )
    for file in sorted(files):
        if not file.is_file():
            raise _incomplete(folder, f"{file.name} is missing")
        check_safetensors(file)


def pipeline_weights(pretrained: str) -> dict[str, Path | None]:
    """The file of each part's weights, in the folder or in the hub's cache; None where there are several, or none."""
    index = _weights(pretrained, INDEX)
    parts = _parts(_read_config(index)) if index else {}
    networks = {
        name: _WEIGHTS[library]
        for name, (library, kind) in parts.items()
        if library in _WEIGHTS and not kind.endswith("Scheduler") and "Tokenizer" not in kind
    }
    return {name: _weights(pretrained, f"{name}/{file}") for name, file in networks.items()}


def _weights(pretrained: str, name: str) -> Path | None:
    if (folder := Path(pretrained).expanduser()).is_dir():
        return folder / name if (folder / name).is_file() else None
    cached = huggingface_hub.try_to_load_from_cache(pretrained, name)
    return Path(cached) if isinstance(cached, str) else None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error} (model.pretrained)") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, no mapping (model.pretrained)")
    return config


def check_safetensors(path: Path, *, key: str = "model.pretrained") -> None:
    """Compares the size with what the header says: a cut-off download or a git-lfs pointer is told before loading."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 0 < length < path.stat().st_size else b""
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError):
        expected = -1
    if expected != path.stat().st_size:
        raise ValueError(f"{path} is no whole safetensors file: fetch it again (git lfs pull) ({key})")


def check_vit(pretrained: str, checkpoint: str | None) -> None:
    """Refuses a local folder that is no timm model, and weights that are not there; names of timm and the hub pass.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a file of the model is missing or broken, named.
    """
    root = Path(pretrained).expanduser()
    if root.is_dir():
        config = root / "config.json"
        if not config.is_file():
            raise ValueError(f"{root} is no timm model: it lacks config.json (model.pretrained)")
        try:
            architecture = json.loads(config.read_text()).get("architecture")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{config} is no JSON mapping: {error} (model.pretrained)") from None
        if not architecture:
            raise ValueError(f"{config} names no architecture, so timm cannot build it (model.pretrained)")
        if checkpoint is None:
            if not (root / "model.safetensors").is_file():
                raise ValueError(f"{root} is incomplete: it has no model.safetensors (model.pretrained)")
            check_safetensors(root / "model.safetensors")
    elif root.parts[0] == "assets" or root.is_absolute() or pretrained.startswith("."):
        raise FileNotFoundError(f"model.pretrained={pretrained}: no such folder, and no name of timm or the hub either")
    if checkpoint is not None:
        file = Path(checkpoint).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"model.checkpoint={checkpoint}: no such file")
        if file.suffix != ".safetensors":
            raise ValueError(f"model.checkpoint={checkpoint}: only .safetensors are read, which cannot run code")
        check_safetensors(file, key="model.checkpoint")


def check_judge(judge: str) -> None:
    """Refuses a folder that holds no whole `SpritesJudge`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file of it is missing or broken, named.
    """
    root = Path(judge).expanduser()
    mend = "train one with experiment=pretrain_sprites_judge, or set evaluation.judge=null for none of its figures"
    if not root.is_dir():
        raise FileNotFoundError(f"evaluation.judge={judge}: no such folder; {mend}")
    for name in ("config.json", "model.safetensors"):
        if not (root / name).is_file():
            raise ValueError(f"{root} is no judge: it lacks {name} (evaluation.judge); {mend}")
    _check_config(root / "config.json", ("widths", "hidden"), key="evaluation.judge", mend=mend)
    check_safetensors(root / "model.safetensors", key="evaluation.judge")


def check_identity(identity: str) -> None:
    """Refuses a folder that holds no `Identity`, or names a ViT that is not whole.

    Raises:
        FileNotFoundError: a file of it is missing, or of the ViT that it names; named.
        ValueError: its config or weights are no whole file, or the ViT's are not.
    """
    root, key = Path(identity).expanduser(), "evaluation.identity"
    mend = "set evaluation.identity=null for a run without"
    for name in ("config.json", "whitening.safetensors"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"evaluation.identity={identity} lacks {name}: {mend}")
    config = _check_config(root / "config.json", ("vit", "layers"), key=key, mend=mend)
    check_safetensors(root / "whitening.safetensors", key=key)
    vit = (root / config["vit"]).resolve()
    for name in ("config.json", "model.safetensors"):
        if not (vit / name).is_file():
            raise FileNotFoundError(
                f"evaluation.identity={identity} looks with the ViT in {vit}, which lacks {name}: bring it there, name "
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
