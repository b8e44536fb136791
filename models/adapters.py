"""What is trained of a pretrained model, and how the frozen one is had beside it: the choices of `adapter`."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Protocol

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


class Adaptable(Protocol):
    """A pretrained model of which one network trains: the denoiser of a pipeline, or a ViT. It knows its own files."""

    lora_targets: ClassVar[tuple[str, ...]]
    """Names of the linear layers that get a LoRA where `adapter.target_modules` is null."""

    @property
    def network(self) -> Any:
        """The module that trains."""

    @property
    def network_name(self) -> str:
        """Of the folder that a fully tuned network is written to: "unet", "transformer", "vit"."""

    def heads(self) -> list[nn.Module]:
        """What is new in the network, so that it trains in every case: a classifier's heads, none of a denoiser."""

    def add_lora(self, config: LoraConfig) -> None:
        """Freezes the network and adds low-rank adapters that train, float32 ones, in place."""

    def save_lora(self, folder: Path) -> None:
        """Writes what `add_lora` added, and the heads."""

    def load_lora(self, folder: Path) -> None:
        """Puts what `save_lora` wrote into the pretrained network."""

    def save_full(self, folder: Path) -> None:
        """Writes the whole network."""

    def load_full(self, folder: Path) -> None:
        """Puts what `save_full` wrote in the pretrained network's place."""


class Adapter(ABC):
    """One way to train a network without losing the pretrained one."""

    moves_features: ClassVar[bool] = True
    """Whether what the network computes can drift from the pretrained one at all."""

    trains_nothing: ClassVar[bool] = False
    """Then a run of it needs a learned token; read off the source by `checks`."""

    @abstractmethod
    def inject(self, model: Adaptable) -> Any:
        """Marks what trains, adding it where needed, and returns the network that serves as the frozen one.

        That is the trained one itself where `disabled` gives it back, or a frozen twin.
        """

    def disabled(self) -> AbstractContextManager[None]:
        """Context in which `inject`'s frozen network computes exactly what the pretrained one does."""
        return nullcontext()

    @abstractmethod
    def save(self, model: Adaptable, run_dir: Path) -> Path:
        """Writes what was trained below `run_dir`, as published libraries read it, and returns the folder."""

    @abstractmethod
    def load(self, model: Adaptable, run_dir: Path) -> None:
        """Puts what `save` wrote into a pretrained `model`, by those libraries' own loading."""


class LoRA(Adapter):
    """Low-rank adapters (arXiv:2106.09685) through PEFT, trained in float32.

    Args:
        rank: of the two factors.
        alpha: the update is scaled by `alpha / rank`.
        target_modules: names of the linear layers that get one; None takes the model's own `lora_targets`.
    """

    folder = "adapter"

    def __init__(self, *, rank: int, alpha: int, target_modules: list[str] | None) -> None:
        self.rank, self.alpha, self.target_modules = rank, alpha, target_modules

    def inject(self, model: Adaptable) -> Any:
        new = {id(head) for head in model.heads()}
        self.config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(model.lora_targets if self.target_modules is None else self.target_modules),
            modules_to_save=[name for name, module in model.network.named_modules() if id(module) in new] or None,
        )
        model.add_lora(self.config)
        # Collected once: diffusers' `disable_adapters` looks for them among all submodules, twice a step.
        self._layers = [module for module in model.network.modules() if isinstance(module, BaseTunerLayer)]
        return model.network

    def disabled(self) -> AbstractContextManager[None]:
        return disabled_adapters(self._layers)

    def save(self, model: Adaptable, run_dir: Path) -> Path:
        model.save_lora(run_dir / self.folder)
        return run_dir / self.folder

    def load(self, model: Adaptable, run_dir: Path) -> None:
        model.load_lora(run_dir / self.folder)


class FullFineTuning(Adapter):
    """Every weight trains; the frozen network is a twin of its own, one more copy in memory."""

    def inject(self, model: Adaptable) -> Any:
        # Both in float32: the losses of two precisions differ by more than the overfitting that is measured.
        twin = deepcopy(model.network.float()).requires_grad_(False).eval()
        model.network.requires_grad_(True)
        return twin

    def save(self, model: Adaptable, run_dir: Path) -> Path:
        model.save_full(run_dir / model.network_name)
        return run_dir / model.network_name

    def load(self, model: Adaptable, run_dir: Path) -> None:
        model.load_full(run_dir / model.network_name)


class LinearProbe(FullFineTuning):
    """Only a classifier's new head trains, so that the network is its own pretrained twin."""

    moves_features = False

    def inject(self, model: Adaptable) -> Any:
        """Raises:
        ValueError: the model has no head.
        """
        if not (heads := model.heads()):
            raise ValueError(
                f"adapter=linear_probe trains a classifier's head, and {type(model).__name__} has none: adapter=lora "
                "or adapter=full"
            )
        model.network.requires_grad_(False)
        for head in heads:
            head.requires_grad_(True)
        return model.network


class NoAdapter(Adapter):
    """Nothing of the network trains, as in textual inversion: it is its own frozen model, and leaves no file."""

    moves_features = False
    trains_nothing = True

    def inject(self, model: Adaptable) -> Any:
        return model.network.requires_grad_(False)

    def save(self, model: Adaptable, run_dir: Path) -> Path:
        return run_dir

    def load(self, model: Adaptable, run_dir: Path) -> None:
        pass


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


def load_merged(pipeline: Any, run_dirs: Sequence[Path], *, weights: Sequence[float]) -> None:
    """Adds the runs' LoRAs to a pretrained diffusers `pipeline`: their updates are summed, each times its weight."""
    names = [f"run_{number}" for number in range(len(run_dirs))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is asked for
        for name, run_dir in zip(names, run_dirs, strict=True):
            pipeline.load_lora_weights(run_dir / LoRA.folder, adapter_name=name)
    pipeline.set_adapters(names, list(weights))
