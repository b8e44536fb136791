"""Where a backbone's weights are; no torch, so that a missing one is told before anything slow starts."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

INCEPTION = "inception_v3"  # FID's and KID's own
# https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0
_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSource:
    """A picture model and the file of its weights.

    Args:
        name: as it was asked for.
        library: "timm", "open_clip" or "torch_fidelity".
        model: what that library calls it; "local-dir:<folder>" where a folder describes itself.
        repository: of the HF hub; None where `weights` are local.
        weights: a local file, or the file's name in `repository`.
    """

    name: str
    library: str
    model: str
    repository: str | None
    weights: Path


def _hub(name: str, library: str, model: str, repository: str, file: str) -> BackboneSource:
    return BackboneSource(name=name, library=library, model=model, repository=repository, weights=Path(file))


_CLIP = "open_clip_model.safetensors"
HUB = {
    each.name: each
    for each in (
        _hub(
            "dino_vits16", "timm", "vit_small_patch16_224.dino", "timm/vit_small_patch16_224.dino", "model.safetensors"
        ),
        _hub(
            "dinov2_vits14",
            "timm",
            "vit_small_patch14_dinov2.lvd142m",
            "timm/vit_small_patch14_dinov2.lvd142m",
            "model.safetensors",
        ),
        _hub("clip_vit_b32", "open_clip", "ViT-B-32-quickgelu", "timm/vit_base_patch32_clip_224.openai", _CLIP),
        _hub("clip_vit_l14", "open_clip", "ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai", _CLIP),
    )
}
_LAYOUTS = {"open_clip_config.json": ("open_clip", _CLIP), "config.json": ("timm", "model.safetensors")}


def backbone_source(backbone: str, weights: str | None) -> BackboneSource:
    """What `backbone` names, with weights that are here, or that the hub has.

    Args:
        backbone: a name of `HUB`, `inception_v3`, or a folder in the layout of timm or open_clip; a folder that has
            both is open_clip's.
        weights: a local file for a backbone that goes by name; None for a folder, which has its own, and for the hub's.

    Raises:
        FileNotFoundError: no such folder or file, or the hub is off (`HF_HUB_OFFLINE`) and has not been asked before.
        ValueError: the folder is of neither library, or `weights` do not fit the backbone; or a package is missing.
    """
    if backbone == INCEPTION:
        return _inception(weights)
    if backbone in HUB:
        source = HUB[backbone]
        if weights is None:
            _check_hub(source)
            return source
        return BackboneSource(
            name=source.name,
            library=source.library,
            model=source.model,
            repository=None,
            weights=_local(backbone, weights, ".safetensors"),
        )
    folder = Path(backbone).expanduser()
    if weights is not None:
        raise ValueError(f"backbone={backbone} is a folder with weights of its own: weights={weights} would be ignored")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"backbone={backbone} is neither a folder nor one of {', '.join([*HUB, INCEPTION])}: download a model of "
            "timm or open_clip into a folder, and name that"
        )
    for config, (library, file) in _LAYOUTS.items():
        if (folder / config).is_file():
            if not (folder / file).is_file():
                raise FileNotFoundError(f"backbone={backbone} lacks {file}, which {library} reads beside {config}")
            return BackboneSource(
                name=folder.resolve().name,
                library=library,
                model=f"local-dir:{folder}",
                repository=None,
                weights=folder / file,
            )
    raise ValueError(f"backbone={backbone} is no model of timm or open_clip: it holds none of {', '.join(_LAYOUTS)}")


def fetch(source: BackboneSource) -> Path:
    """The file of the weights, downloaded into the hub's cache where it is not there yet.

    Raises:
        FileNotFoundError: it cannot be had, with what to do.
    """
    if source.repository is None:
        return source.weights
    try:
        return Path(huggingface_hub.hf_hub_download(source.repository, str(source.weights)))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(_cannot_be_had(source, type(error).__name__)) from None


def _check_hub(source: BackboneSource) -> None:
    assert source.repository is not None
    cached = huggingface_hub.try_to_load_from_cache(source.repository, str(source.weights))
    if constants.HF_HUB_OFFLINE and not isinstance(cached, str):
        raise FileNotFoundError(_cannot_be_had(source, "HF_HUB_OFFLINE is set"))


def _cannot_be_had(source: BackboneSource, why: str) -> str:
    return (
        f"backbone={source.name} is not in the Hugging Face cache and cannot be fetched ({why}): where there is a "
        f"network, run `hf download {source.repository} {source.weights}` and give that file as weights, take another "
        "backbone, or leave this metric out"
    )


def _local(backbone: str, weights: str, suffix: str) -> Path:
    file = Path(weights).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"weights={weights}: no such file, for backbone={backbone}")
    if file.suffix != suffix:
        raise ValueError(f"weights={weights}: a {suffix} file is needed for backbone={backbone}")
    return file


def _inception(weights: str | None) -> BackboneSource:
    if find_spec("torch_fidelity") is None:
        raise ValueError(
            f"backbone={INCEPTION} is torch-fidelity's, which is not installed: pip install torch-fidelity, or take "
            "another backbone, which gives a figure that no paper reports"
        )
    if weights is None:
        raise ValueError(f"backbone={INCEPTION} needs weights=<{_INCEPTION_FILE} of torch-fidelity's release 0.2.0>")
    file = _local(INCEPTION, weights, ".pth")
    return BackboneSource(name=INCEPTION, library="torch_fidelity", model=INCEPTION, repository=None, weights=file)
