"""`Regularizer`: the one kind of plug-in, a Lightning callback that may weight samples, augment them or add a loss."""

from abc import ABC
from typing import Any, ClassVar

from lightning.pytorch import Callback
from torch import Tensor, nn

from callbacks.step import Needs, TermOutput


class Regularizer(Callback, ABC):
    """Base of all plug-ins. A subclass declares `needs` and overrides at least one of the three methods.

    The module that owns it calls the methods inside its `training_step`; Lightning calls the ordinary callback hooks.
    What a plug-in wants logged it returns, and what it must remember it keeps in `state_dict` as plain Python values.
    A `step` is a `DiffusionStep` or a `ClassificationStep`: a plug-in is written for one of them, and says which.

    Args:
        weight: factor of `loss` in the total; with 0 the plug-in is left out altogether, its needs included.
    """

    primary: ClassVar[bool] = False
    """Whether `loss` is the data term, of which a module has exactly one."""

    takes_sample_weight: ClassVar[bool] = True
    """Of a primary term: whether other plug-ins may weight its rows."""

    step_type: ClassVar[type | None] = None
    """The record of a step that it is written for; None takes any."""

    needs: Needs = Needs()
    name: str = ""
    """The config key, given by the module."""

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    @property
    def state_key(self) -> str:
        # By the config key, so that two plug-ins of one class keep a state each.
        return f"regularizer/{self.name}"

    @property
    def gives_sample_weight(self) -> bool:
        """Whether `sample_weight` will give weights, told before the first step."""
        return type(self).sample_weight is not Regularizer.sample_weight

    def attach(self, model: nn.Module) -> None:
        """Asked once, after adapters were injected: read what is needed off the model (numbers of heads, …)."""

    def augmentation_probability(self, t: Tensor) -> Tensor | None:
        """Chance `[B]` in [0, 1] that a row drawn at `t` `[B]`, on the CPU, is augmented; asked before encoding.

        Asked once at the start as well: None says that this plug-in never augments.
        """
        return None

    def sample_weight(self, step: Any) -> Tensor | None:
        """Detached weights that multiply the primary loss of each row: the subject's rows, or all of a classifier's."""
        return None

    def loss(self, step: Any) -> TermOutput | None:
        """An unweighted scalar that is added to the total, `weight` times."""
        return None

    def metrics(self) -> dict[str, Any]:
        """Scalars to log after the step, under names that no other plug-in uses; the same in every process."""
        return {}
