"""What is trained of a ViT, and how the pretrained one is had beside it: full, linear probe or LoRA."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from models.adapters import disabled_adapters
from models.vit import heads


class ViTAdapter(ABC):
    """One way to train a ViT without losing the pretrained one. The ViT has its new head already."""

    @abstractmethod
    def inject(self, vit: nn.Module) -> nn.Module:
        """Marks what trains, adding it where needed, and returns the model that serves as the pretrained one."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Context in which `inject`'s pretrained model computes what it did before training."""

    @abstractmethod
    def save(self, vit: nn.Module, run_dir: Path, classes: Sequence[str]) -> Path:
        """Writes what was trained below `run_dir`, and returns the folder."""

    @abstractmethod
    def load(self, vit: nn.Module, run_dir: Path) -> nn.Module:
        """The trained model, from a pretrained `vit` with a new head and what `save` wrote."""


class FullFineTuning(ViTAdapter):
    """Every weight trains; the pretrained model is a twin of its own. Saved in timm's layout, by `save_for_hf`."""

    folder = "vit"

    def inject(self, vit: nn.Module) -> nn.Module:
        twin = deepcopy(vit).requires_grad_(False).eval()
        vit.requires_grad_(True)
        return twin

    def disabled(self) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, vit: nn.Module, run_dir: Path, classes: Sequence[str]) -> Path:
        config = {"label_names": list(classes), "num_classes": len(classes)}
        save_for_hf(vit, str(run_dir / self.folder), model_config=config, safe_serialization=True)
        return run_dir / self.folder

    def load(self, vit: nn.Module, run_dir: Path) -> nn.Module:
        vit.load_state_dict(load_file(run_dir / self.folder / "model.safetensors"))
        return vit


class LinearProbe(FullFineTuning):
    """Only the new head trains, so that the model is its own pretrained twin."""

    def inject(self, vit: nn.Module) -> nn.Module:
        vit.requires_grad_(False)
        for head in heads(vit):
            head.requires_grad_(True)
        return vit


class LoRA(ViTAdapter):
    """Low-rank adapters (arXiv:2106.09685) through PEFT, with the new head saved beside them.

    Loads with `PeftModel.from_pretrained(timm.create_model(…, num_classes=n), "<run>/adapter")`.

    Args:
        rank: of the two factors.
        alpha: the update is scaled by `alpha / rank`.
        target_modules: names of the linear layers that get one.
    """

    folder = "adapter"

    def __init__(self, *, rank: int, alpha: int, target_modules: list[str]) -> None:
        self.rank, self.alpha, self.target_modules = rank, alpha, list(target_modules)

    def inject(self, vit: nn.Module) -> nn.Module:
        trained = {id(head) for head in heads(vit)}
        names = [name for name, module in vit.named_modules() if id(module) in trained]
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=self.target_modules, modules_to_save=names
        )
        self._peft = get_peft_model(vit, config)  # changes `vit` in place, whose names stay as they are
        self._layers = [module for module in vit.modules() if isinstance(module, BaseTunerLayer)]
        return vit

    def disabled(self) -> AbstractContextManager[None]:
        return disabled_adapters(self._layers)

    def save(self, vit: nn.Module, run_dir: Path, classes: Sequence[str]) -> Path:
        self._peft.save_pretrained(str(run_dir / self.folder), safe_serialization=True)
        return run_dir / self.folder

    def load(self, vit: nn.Module, run_dir: Path) -> nn.Module:
        PeftModel.from_pretrained(vit, run_dir / self.folder, torch_device="cpu")  # changes `vit` in place
        return vit
