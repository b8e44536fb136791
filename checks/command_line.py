"""What a mistyped command line is answered with: one message, and the key that was probably meant."""

import io
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import TracebackType

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from checks.assets import ROOT

_SAID_ELSEWHERE = {
    "cfg_scale": "guidance.guidance_scale",
    "guidance_scale": "guidance.guidance_scale",
    "learning_rate": "optimizer.lr",
    "steps": "trainer.max_steps",
    "max_train_steps": "trainer.max_steps",
    "prompt": "prompts",
    "class_word": "data.class_word",
    "batch_size": "datamodule.batch_size",
}
"""Keys of other programs, or that lie in several nodes, and the one that is meant."""

_QUOTING = (
    "a value with spaces, commas, parentheses or = is quoted twice, once for the shell and once for Hydra: "
    "\"data.root='/my photos'\""
)


def cause(error: BaseException) -> str:
    """The first cause's message in one line: Hydra wraps what a constructor raises."""
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give it on the command line ({error.full_key}=…)"
    return " ".join(str(error).split())


class CompositionErrors:
    """Context in which Hydra composes: what it prints of an error is put into one message with a suggestion.

    Hydra composes, prints and exits before the program is entered, so that its output is all there is to see. `end` is
    called by the program as it is entered.
    """

    def __init__(self) -> None:
        self._real = self._held = None  # type: io.StringIO | None

    def __enter__(self) -> None:
        self._real, self._held = sys.stderr, io.StringIO()  # type: ignore[assignment]
        sys.stderr = self._held

    def end(self) -> str:
        """Lets go of stderr, and returns what was held."""
        if self._held is None:
            return ""
        text = self._held.getvalue()
        sys.stderr, self._held = self._real, None
        return text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        text = self.end()
        if text and isinstance(error, SystemExit) and error.code:
            sys.exit(f"error: {explained(text, sys.argv[1:])}")
        sys.stderr.write(text)


composition_error_explained = CompositionErrors()


def explained(text: str, overrides: Sequence[str]) -> str:
    """Hydra's message `text` in one line, with what may have been meant by `overrides`."""
    lines = [line for line in text.splitlines() if "HYDRA_FULL_ERROR" not in line]
    if "mismatched input" in text or "token recognition error" in text or "no viable alternative" in text:
        return f"{' '.join(lines[0].split())}: {_QUOTING}"
    if match := re.search(r"Could not override '([^'@]+)", text):
        key = match[1]
        return f"{key} is no key of this run{_meant(key, keys(overrides))}"
    return " ".join(" ".join(lines).partition("Config search path")[0].split())


def keys(overrides: Sequence[str]) -> list[str]:
    """All keys of the config that the choices among `overrides` compose, "optimizer.lr"; of the default one failing
    that.
    """
    choices = [each for each in overrides if re.fullmatch(r"[a-z_/]+=[\w,\[\]]+", each)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for given in (choices, []):
            try:
                return list(_paths(OmegaConf.to_container(compose("config", given)), ""))
            except (HydraException, OmegaConfBaseException):
                continue
    return []


def suggestions(key: str, known: Iterable[str]) -> list[str]:
    """Up to three of the `known` keys that `key` may stand for, the likeliest first."""
    known = list(known)
    leaf = key.rpartition(".")[2]
    if _SAID_ELSEWHERE.get(leaf) in known:
        return [_SAID_ELSEWHERE[leaf]]
    if same := [each for each in known if each.rpartition(".")[2] == leaf]:
        return get_close_matches(key, same, n=3, cutoff=0) or same[:3]
    leaves = {each: each.rpartition(".")[2] for each in known}
    near = get_close_matches(leaf, leaves.values(), n=3, cutoff=0.75)
    if by_leaf := [each for each in known if leaves[each] in near]:
        return get_close_matches(key, by_leaf, n=3, cutoff=0)
    return [] if _beside(key, known) else get_close_matches(key, known, n=3, cutoff=0.75)


def _beside(key: str, known: Iterable[str]) -> list[str]:
    """The last parts of the `known` keys in the node of `key`."""
    node = key.rpartition(".")[0]
    beside = [each.rpartition(".")[2] for each in known if node and each.rpartition(".")[0] == node]
    return [name for name in beside if not name.startswith("_")]


def _paths(node: object, prefix: str) -> Iterable[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            path = f"{prefix}.{name}".strip(".")
            yield path
            yield from _paths(value, path)


def _meant(key: str, known: Sequence[str]) -> str:
    if found := suggestions(key, known):
        return f": did you mean {' or '.join(found)}?"
    if beside := _beside(key, known):
        return f": {key.rpartition('.')[0]} has {', '.join(beside)}"
    return "; --help lists the groups, --cfg job every key"
