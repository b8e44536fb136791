"""What is trained of the UNet, and how the frozen model is had beside it: `adapter=lora`, `full` or `none`."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import nn


class Adapter(ABC):
    """One way to train a UNet without losing the pretrained one."""

    trains_nothing: ClassVar[bool] = False
    """Then a run of it needs a learned token; read off the source by `checks`."""

    @abstractmethod
    def inject(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        """Marks what trains, adding it where needed, and returns the model that serves as the frozen one.

        That is `unet` itself where `disabled` gives it back, or a frozen twin.
        """

    @abstractmethod
    def disabled(self, unet: UNet2DConditionModel) -> AbstractContextManager[None]:
        """Context in which `inject`'s frozen model computes exactly what the pretrained one does."""

    @abstractmethod
    def save(self, unet: UNet2DConditionModel, run_dir: Path) -> Path:
        """Writes what was trained below `run_dir`, as diffusers reads it, and returns the folder."""

    @abstractmethod
    def load(self, pipeline: StableDiffusionPipeline, run_dir: Path) -> None:
        """Puts what `save` wrote into a pretrained `pipeline`, by diffusers' own loading."""


@contextmanager
def disabled_adapters(layers: Sequence[BaseTunerLayer]) -> Iterator[None]:
    """Context in which PEFT's `layers` are the pretrained ones; they are back on after an exception as well."""
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextmanager
def kept_requires_grad(module: nn.Module) -> Iterator[None]:
    """Context after which the same parameters train as before it: PEFT marks those that it switches on."""
    trains = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, is_trained in trains:
            parameter.requires_grad_(is_trained)


class LoRA(Adapter):
    """Low-rank adapters (arXiv:2106.09685) through PEFT, trained in float32.

    Args:
        rank: of the two factors.
        alpha: the update is scaled by `alpha / rank`.
        target_modules: names of the linear layers that get one.
    """

    folder = "adapter"

    def __init__(self, *, rank: int, alpha: int, target_modules: list[str]) -> None:
        self.config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules))

    def inject(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        unet.requires_grad_(False)
        unet.add_adapter(self.config)
        cast_training_params(unet)
        # Collected once: `unet.disable_adapters` looks for them among all submodules, twice a step.
        self._layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        return unet

    def disabled(self, unet: UNet2DConditionModel) -> AbstractContextManager[None]:
        return disabled_adapters(self._layers)

    def save(self, unet: UNet2DConditionModel, run_dir: Path) -> Path:
        # Without its metadata a LoRA whose alpha differs from the rank loads with the wrong scale.
        # PEFT keeps sets, whose order changes from process to process: equal runs then write equal files.
        metadata = unet.peft_config["default"].to_dict()
        metadata = {key: sorted(value) if isinstance(value, set) else value for key, value in metadata.items()}
        StableDiffusionPipeline.save_lora_weights(
            run_dir / self.folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=metadata,
        )
        return run_dir / self.folder

    def load(self, pipeline: StableDiffusionPipeline, run_dir: Path) -> None:
        pipeline.load_lora_weights(run_dir / self.folder)


class FullFineTuning(Adapter):
    """Every weight of the UNet trains; the frozen model is a twin of its own, one more copy in memory."""

    folder = "unet"

    def inject(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        # Both in float32: the losses of two precisions differ by more than the overfitting that is measured.
        twin = deepcopy(unet.float()).requires_grad_(False)
        unet.requires_grad_(True)
        return twin

    @contextmanager
    def disabled(self, unet: UNet2DConditionModel) -> Iterator[None]:
        yield

    def save(self, unet: UNet2DConditionModel, run_dir: Path) -> Path:
        unet.save_pretrained(run_dir / self.folder)
        return run_dir / self.folder

    def load(self, pipeline: StableDiffusionPipeline, run_dir: Path) -> None:
        unet = UNet2DConditionModel.from_pretrained(run_dir / self.folder, dtype=pipeline.dtype)
        pipeline.unet = unet.to(pipeline.device)


class NoAdapter(Adapter):
    """Nothing of the UNet trains, as in textual inversion: it is its own frozen model, and leaves no file."""

    trains_nothing: ClassVar[bool] = True

    def inject(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        return unet.requires_grad_(False)

    def disabled(self, unet: UNet2DConditionModel) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, unet: UNet2DConditionModel, run_dir: Path) -> Path:
        return run_dir

    def load(self, pipeline: StableDiffusionPipeline, run_dir: Path) -> None:
        pass


def load_merged(pipeline: StableDiffusionPipeline, run_dirs: Sequence[Path], *, weights: Sequence[float]) -> None:
    """Adds the runs' adapters to a pretrained `pipeline`, where their updates are summed, each times its weight."""
    names = [f"run_{number}" for number in range(len(run_dirs))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is asked for
        for name, run_dir in zip(names, run_dirs, strict=True):
            pipeline.load_lora_weights(run_dir / LoRA.folder, adapter_name=name)
    pipeline.set_adapters(names, list(weights))
