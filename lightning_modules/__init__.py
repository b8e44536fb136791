"""The methods by their names, imported when they are asked for: `from lightning_modules import APTDiffusionModule`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.apt import APTDiffusionModule
    from lightning_modules.classification import ClassificationModule
    from lightning_modules.dco_rescale import DCORescaleModule
    from lightning_modules.diffusion import DiffusionModule
    from lightning_modules.gta_vit import GTAViTModule

__all__ = ["APTDiffusionModule", "ClassificationModule", "DCORescaleModule", "DiffusionModule", "GTAViTModule"]

_FILES = {
    "APTDiffusionModule": "apt",
    "ClassificationModule": "classification",
    "DCORescaleModule": "dco_rescale",
    "DiffusionModule": "diffusion",
    "GTAViTModule": "gta_vit",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
