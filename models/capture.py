"""Capturing what submodules put out: hooks that are registered once, before compiling, and switched by a flag.

Hooks that come and go with each step silently stop firing under torch.compile; a flag costs two graphs instead.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

T = TypeVar("T")

LAST = "[last]"
"""Ends a pattern that takes the last of its matches only: "blocks.*.attn[last]"."""


def resolve_sites(sites: Iterable[str], symbolic: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The glob patterns that each of `sites` stands for: those of a family's symbolic name, or the pattern itself.

    Args:
        sites: symbolic names ("text") and glob patterns ("up_blocks.*.attn2").
        symbolic: a family's own patterns by name.
    """
    return {site: tuple(symbolic.get(site, (site,))) for site in sites}


def matching_submodules(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the submodules that match any of the glob patterns ("*" crosses dots), in the model's order.

    Args:
        patterns: with "[last]" at its end, a pattern takes the last match only.

    Raises:
        ValueError: a pattern that matches nothing, named, with some names that exist.
    """
    names = [name for name, _ in model.named_modules() if name]
    matched: set[str] = set()
    for pattern in patterns:
        glob = pattern.removesuffix(LAST)
        found = [name for name in names if fnmatchcase(name, glob)]
        if not found:
            raise ValueError(
                f"site {glob!r} matches no submodule of {type(model).__name__}; its names are like "
                f"{', '.join(names[len(names) // 2 :: max(1, len(names) // 8)][:4])}"
            )
        matched.update(found[-1:] if pattern.endswith(LAST) else found)
    return [name for name in names if name in matched]


class Captured(dict[str, T]):
    """What one forward left, by the submodules' full names, in the model's order.

    Args:
        values: by full name.
        sites: the full names that each site stands for which was asked for.
    """

    def __init__(self, values: Mapping[str, T] | None = None, sites: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(values or {})
        self._sites = sites or {}

    def at(self, sites: Iterable[str]) -> dict[str, T]:
        """What was captured at `sites`, as they were asked for, by full name and each once, in the model's order."""
        wanted = {name for site in sites for name in self._sites[site]}
        return {name: value for name, value in self.items() if name in wanted}


class SiteCapture(Generic[T]):
    """Base of the captures: which submodules, and the flag.

    Args:
        model: adapters must be injected already: a hook put on a layer before stays on the base layer. It must not be
            compiled yet.
        sites: symbolic names and glob patterns, see `resolve_sites`. With none, no hook is registered.
        symbolic: a family's own patterns by name.

    Raises:
        ValueError: a site matches nothing.
    """

    def __init__(
        self, model: nn.Module, sites: Iterable[str], symbolic: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        resolved = resolve_sites(sites, symbolic or {})
        self.sites = {site: tuple(matching_submodules(model, patterns)) for site, patterns in resolved.items()}
        wanted = {name for names in self.sites.values() for name in names}
        self.names = [name for name, _ in model.named_modules() if name in wanted]
        self._recording = False
        self._found: dict[str, T] = {}
        self._hooks: list[RemovableHandle] = []

    @contextmanager
    def recording(self) -> Iterator[Captured[T]]:
        """Within the context a forward fills what is yielded, on leaving.

        The flag is off during the backward pass, in which gradient checkpointing fires the hooks again.

        Raises:
            RuntimeError: a site did not fire.
        """
        captured: Captured[T] = Captured(sites=self.sites)
        self._clear()
        self._recording = bool(self.names)
        try:
            yield captured
        finally:
            self._recording = False
            self._finish()
            captured.update((name, self._found[name]) for name in self.names if name in self._found)
            self._clear()
        self._check(captured)

    def remove(self) -> None:
        """Takes the hooks off again, of a capture that was for one drawing."""
        for hook in self._hooks:
            hook.remove()

    def _check(self, captured: Captured[T]) -> None:
        if silent := [name for name in self.names if name not in captured]:
            raise RuntimeError(f"{silent[0]} was not called in this forward, so nothing was captured there")

    def _finish(self) -> None:
        """Asked when the forward is over: the last chance to fill `_found`."""

    def _clear(self) -> None:
        self._found.clear()


class Capture(SiteCapture[Tensor]):
    """Records the outputs of `sites` while `recording` is open; see `SiteCapture`."""

    def __init__(
        self, model: nn.Module, sites: Iterable[str], symbolic: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(model, sites, symbolic)
        for name in self.names:
            self._hooks.append(model.get_submodule(name).register_forward_hook(self._hook(name)))

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def record(module: nn.Module, args: object, output: Tensor) -> None:
            if self._recording:
                self._found[name] = output

        return record
