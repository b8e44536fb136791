"""`RegularizedModule`: the only place that knows the order of a step, and whose loss is the sum of its plug-ins."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial, reduce
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import Needs, Step

_HOOKS = ("augmentation_probability", "sample_weight", "loss")


class RegularizedModule(L.LightningModule, ABC):
    """Draws a step, hands its frozen record to every plug-in, and sums their losses.

    Checkpoints hold what trains and nothing else: the pretrained weights are where they came from.

    Args:
        regularizers: plug-ins by config key, which becomes their name. One of weight 0 is left out, with its needs.
        optimizer: partial of a torch optimiser over parameters.
        lr_scheduler: partial of a torch scheduler over an optimiser, stepped with every optimiser step.

    Raises:
        ValueError: there is not exactly one primary term, a plug-in does nothing, or it needs what this module has not.
    """

    kind: ClassVar[str]
    """What a run of it is, "personalisation" or "classification"; read off the source by `checks`."""

    step_type: ClassVar[type]
    """What `make_step` returns."""

    serves: ClassVar[frozenset[str]]
    """The fields of `Needs` that a step of this module can fill."""

    def __init__(
        self,
        *,
        regularizers: Mapping[str, Regularizer],
        optimizer: partial[torch.optim.Optimizer],
        lr_scheduler: Callable[..., Any],
    ) -> None:
        super().__init__()
        self.strict_loading = False  # `load_state_dict` below is stricter
        self.regularizers = active_regularizers(regularizers)
        self.needs = reduce(Needs.__or__, (plugin.needs for plugin in self.regularizers.values()), Needs())
        self._refuse_unserved()
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._unchecked: list[tuple[int, Tensor, Mapping[str, Tensor], Any]] = []

    def _refuse_unserved(self) -> None:
        for name, plugin in self.regularizers.items():
            if plugin.step_type not in (None, self.step_type):
                raise ValueError(
                    f"regularizer.{name} reads a {plugin.step_type.__name__}, and {type(self).__name__} makes a "
                    f"{self.step_type.__name__}: it belongs to another kind of model"
                )
            asked = {field.name for field in fields(Needs) if getattr(plugin.needs, field.name)}
            if unserved := sorted(asked - self.serves):
                raise ValueError(
                    f"regularizer.{name} needs {', '.join(unserved)}, which a step of {type(self).__name__} does not "
                    "have: it belongs to another kind of model"
                )

    @abstractmethod
    def make_step(self, batch: Any) -> Step:
        """All randomness and all forwards of one step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        step = self.make_step(batch)
        with torch.autocast(self.device.type, enabled=False):  # the plug-ins' maths is float32
            step = replace(step, sample_weight=self._sample_weight(step))
            total, logs = self._sum_of_losses(step)
        is_logged = self.is_logged_step
        self._unchecked.append((self.trainer.global_step, total.detach(), step.draws, batch))
        if is_logged or not total.is_cuda:  # on an accelerator a look at the loss would wait for it
            self._refuse_non_finite()
        if is_logged:
            self.log_dict(logs, sync_dist=True)
            self.log_dict(self._metrics())
            # Not in every step: the progress bar would read it back, and wait for the accelerator.
            self.log("loss/total", total.detach(), prog_bar=True, sync_dist=True)
        return total

    @property
    def is_logged_step(self) -> bool:
        """Whether the current step goes into the logs: only then is anything read back or reduced over processes."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    @abstractmethod
    def describe(self, batch: Any) -> str:
        """Which pictures are in `batch`, for messages."""

    def on_train_end(self) -> None:
        if self._unchecked:
            self._refuse_non_finite()

    def _refuse_non_finite(self) -> None:
        finite = torch.stack([total for _, total, _, _ in self._unchecked]).isfinite().tolist()
        for (number, total, draws, batch), is_finite in zip(self._unchecked, finite, strict=True):
            if not is_finite:
                drawn = "".join(f"{name} {values.tolist()}, " for name, values in draws.items())
                raise FloatingPointError(
                    f"the loss became {total.item()} in step {number}, {drawn}{self.describe(batch)}: lower "
                    "optimizer.lr, or leave that picture out"
                )
        self._unchecked.clear()

    def _sample_weight(self, step: Step) -> Tensor | None:
        weights = [plugin.sample_weight(step) for plugin in self.regularizers.values()]
        given = [weight for weight in weights if weight is not None]
        return reduce(torch.mul, given) if given else None

    def _sum_of_losses(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        total, logs = torch.zeros((), device=self.device), {}
        for name, plugin in self.regularizers.items():
            if (term := plugin.loss(step)) is None:
                continue
            total = total + plugin.weight * term.loss
            logs[f"loss/{name}"] = term.loss.detach()
            logs |= {f"{name}/{key}": value for key, value in term.metrics.items()}
        return total, logs

    def _metrics(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name, plugin in self.regularizers.items():
            metrics = plugin.metrics()
            if twice := merged.keys() & metrics.keys():
                raise ValueError(
                    f"regularizer.{name} logs {min(twice)}, as another plug-in does: leave one of them out"
                )
            merged |= metrics
        return merged

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.trained_groups(self._optimizer.keywords))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._lr_scheduler(optimizer), "interval": "step"},
        }

    def trained_groups(self, optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What trains, in groups with settings of their own beside the `optimizer`'s."""
        return [{"params": [parameter for _, parameter in self._trained()]}]

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        state = super().state_dict(*args, **kwargs)
        names = {kwargs.get("prefix", "") + name for name, _ in self._trained()}
        return {name: value for name, value in state.items() if name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises:
        ValueError: the checkpoint does not hold exactly what this module trains.
        """
        trained = {(name, p.shape) for name, p in self._trained()}
        saved = {(name, value.shape) for name, value in state_dict.items()}
        if trained != saved:
            example = min(name for name, _ in trained ^ saved)
            raise ValueError(
                f"the checkpoint trains other weights than this run ({example}, …): keep the adapter's settings"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def active_regularizers(regularizers: Mapping[str, Regularizer]) -> dict[str, Regularizer]:
    """The plug-ins of non-zero weight, named and in the order of their names: the sum then has one order only."""
    for name, plugin in regularizers.items():
        if not isinstance(plugin, Regularizer):
            raise ValueError(f"regularizer.{name} is a {type(plugin).__name__}, no Regularizer: set its _target_")
        plugin.name = name
        if not any(getattr(type(plugin), hook) is not getattr(Regularizer, hook) for hook in _HOOKS):
            raise ValueError(f"regularizer.{name} overrides none of {', '.join(_HOOKS)}: it would do nothing")
    active = {name: plugin for name, plugin in sorted(regularizers.items()) if plugin.weight != 0}
    primary = [name for name, plugin in active.items() if plugin.primary]
    if len(primary) != 1:
        raise ValueError(
            f"exactly one primary term is needed, regularizer has {primary or 'none'}: add denoising, or drop one"
        )
    weighting = [name for name, plugin in active.items() if plugin.gives_sample_weight]
    if weighting and not active[primary[0]].takes_sample_weight:
        raise ValueError(
            f"{primary[0]} weights its rows itself, and regularizer.{weighting[0]} does too: leave it out, or switch "
            f"its weighting off where it has the option (regularizer.{weighting[0]}.weighting=false)"
        )
    return active
