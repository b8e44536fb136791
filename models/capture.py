"""Capturing submodules' outputs: hooks that are registered once, before compiling, and switched by a flag.

Hooks that come and go with each step silently stop firing under torch.compile; a flag costs two graphs instead.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn


def matching_submodules(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the submodules that match any of the glob patterns ("*" crosses dots), in the model's order.

    Raises:
        ValueError: a pattern that matches nothing, named, with some names that exist.
    """
    names = [name for name, _ in model.named_modules() if name]
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise ValueError(
                f"site {pattern!r} matches no submodule of {type(model).__name__}; its names are like "
                f"{', '.join(names[len(names) // 2 :: max(1, len(names) // 8)][:4])}"
            )
        matched |= found
    return [name for name in names if name in matched]


class Capture:
    """Records the outputs of `sites` while `recording` is open.

    Args:
        model: adapters must be injected already: a hook put on a layer before stays on the base layer.
        sites: glob patterns, see `matching_submodules`. With none, no hook is registered.
    """

    def __init__(self, model: nn.Module, sites: Iterable[str]) -> None:
        self.names = matching_submodules(model, sites)
        self._recording = False
        self._outputs: dict[str, Tensor] = {}
        for name in self.names:
            model.get_submodule(name).register_forward_hook(self._hook(name))

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Within the context a forward fills the yielded dict, on leaving, by name of the submodule.

        The flag is off during the backward pass, in which gradient checkpointing fires the hooks again.

        Raises:
            RuntimeError: a site did not fire.
        """
        captured: dict[str, Tensor] = {}
        self._outputs.clear()
        self._recording = bool(self.names)
        try:
            yield captured
        finally:
            self._recording = False
            captured.update(self._outputs)
            self._outputs.clear()
        if silent := [name for name in self.names if name not in captured]:
            raise RuntimeError(f"{silent[0]} was not called in this forward, so nothing was captured there")

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def record(module: nn.Module, args: object, output: Tensor) -> None:
            if self._recording:
                self._outputs[name] = output

        return record
