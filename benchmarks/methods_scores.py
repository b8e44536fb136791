"""What the pictures of `benchmarks/methods.py` show: identity and adherence of every one of them, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image

from benchmarks.lanes import compose_run
from datamodules.sprites.attributes import answers, asked
from metrics.background_adherence import read_background
from metrics.identity import Identity
from metrics.sprites_judge import SpritesJudge

ROOT = Path(__file__).parents[1]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class RunScores:
    """Of one run, `[steps, prompts, copies]` each.

    Args:
        identity: cosine to the subject; NaN where the prompt gives it another paint.
        adherence: 1 where the picture shows all that the prompt asks for, else 0.
        nearest: cosine to the nearest training picture, as `identity`; 1 is a copy.
    """

    identity: Array
    adherence: Array
    nearest: Array

    def curve(self, copies: slice = slice(None)) -> tuple[Array, Array]:
        """Mean identity and adherence `[steps]` of these copies of every prompt."""
        return np.nanmean(self.identity[..., copies], (1, 2)), self.adherence[..., copies].mean((1, 2))


class Scores:
    """Reads pictures with the world's judge and its identity, each run once."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts
        self._subjects: dict[str, Any] = {}
        self._runs: dict[Path, RunScores] = {}

    @cached_property
    def judge(self) -> SpritesJudge:
        return SpritesJudge.from_pretrained(ROOT / "assets/sprites-judge")

    @cached_property
    def identity(self) -> Identity:
        return Identity.from_pretrained(ROOT / "assets/sprites-identity")

    def subject(self, name: str) -> Any:
        if name not in self._subjects:
            self._subjects[name] = instantiate(compose_run(["logger=csv", f"data.subject={name}"]).data)
        return self._subjects[name]

    def of(self, folder: Path, subject: str, steps: Sequence[int], copies: int) -> RunScores:
        """Those of the pictures `<folder>/<step>/<prompt>-<copy>.png`."""
        if folder not in self._runs:
            self._runs[folder] = self._read(folder, self.subject(subject), steps, copies)
        return self._runs[folder]

    def _read(self, folder: Path, data: Any, steps: Sequence[int], copies: int) -> RunScores:
        pairs = data.evaluation_prompts[: self.prompts]
        names = [f"{prompt:02d}-{copy}.png" for prompt in range(len(pairs)) for copy in range(copies)]
        pictures = [np.asarray(Image.open(folder / f"{step}" / name)) for step in steps for name in names]
        shape = (len(steps), len(pairs), copies)
        embedded = self.identity.embed(pictures)
        references, train = (
            self.identity.embed([np.asarray(picture.image) for picture in group])
            for group in (data.heldout, data.train)
        )
        wanted = [asked(pair.prior) for pair in pairs for _ in range(copies)] * len(steps)
        right = [
            answers(question, seen, read_background(picture))["all"]
            for question, seen, picture in zip(wanted, self.judge.read(pictures), pictures, strict=True)
        ]
        keeps = np.array([pair.keeps_paint for pair in pairs])[None, :, None]
        return RunScores(
            identity=np.where(keeps, (embedded @ references.T).mean(1).numpy().reshape(shape), np.nan),
            adherence=np.array(right, float).reshape(shape),
            nearest=np.where(keeps, (embedded @ train.T).amax(1).numpy().reshape(shape), np.nan),
        )

    def ceiling(self, subjects: Sequence[str]) -> tuple[float, float]:
        """Identity of the subjects' training pictures to their held-out ones, and of held-out ones to each other."""
        seen, unseen = [], []
        for name in subjects:
            data = self.subject(name)
            train, heldout = (
                self.identity.embed([np.asarray(p.image) for p in group]) for group in (data.train, data.heldout)
            )
            seen.append(float((train @ heldout.T).mean()))
            others = heldout @ heldout.T
            unseen.append(float((others.sum() - others.trace()) / (len(heldout) * (len(heldout) - 1))))
        return float(np.mean(seen)), float(np.mean(unseen))
