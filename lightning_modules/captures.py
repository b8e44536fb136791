"""`Captures`: all that the plug-ins ask to see of one model's forward."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from callbacks.step import Needs
from models.attention import AttentionCapture, ClsAttentionCapture
from models.capture import Capture, SiteCapture


class Captures:
    """The captures that `needs` ask for, each under its field of `ModelPass`; without needs there is no hook.

    Args:
        model: adapters must be injected already, and it must not be compiled yet.
        needs: of all plug-ins together.
        symbolic: the family's patterns by symbolic name.
        slices: `text_columns` and `image_rows` of `AttentionCapture`, where not all keys and queries are meant.
    """

    def __init__(
        self,
        model: nn.Module,
        needs: Needs,
        symbolic: Mapping[str, Sequence[str]] | None = None,
        **slices: Callable[[str], slice],
    ) -> None:
        self._captures: dict[str, SiteCapture[Any]] = {
            "captured": Capture(model, needs.sites, symbolic),
            "attention": AttentionCapture(model, needs.attention, symbolic, **slices),
            "cls_logits": ClsAttentionCapture(model, needs.cls_logits),
        }

    @contextmanager
    def recording(self) -> Iterator[dict[str, Any]]:
        """Within the context a forward fills the fields of a `ModelPass` that are yielded, on leaving.

        Raises:
            RuntimeError: a site did not fire.
        """
        with ExitStack() as stack:
            yield {name: stack.enter_context(each.recording()) for name, each in self._captures.items()}
