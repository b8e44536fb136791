"""What a benchmark's pictures show: identity and adherence of every one of them, read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image

from benchmarks.shared.command import ROOT
from benchmarks.shared.lanes import compose_run
from benchmarks.shared.rendered_as_asked import rendered_as_asked
from datamodules.sprites.embedded_subject import keeps_paint
from datamodules.subject import Picture, Subject
from metrics.backbone import Backbone
from metrics.nearest_training_similarity import nearest_training_similarity
from metrics.sprites.attribute_adherence import all_answers, attribute_adherence, share_right
from metrics.sprites.identity import Identity
from metrics.sprites.sprites_judge import SpritesJudge

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RunScores:
    """Of the pictures in one or several folders (a run's steps), `[folders, prompts, copies]` each.

    Args:
        identity: cosine to the subject; NaN where the prompt gives it another paint.
        adherence: 1 where the picture shows all that the prompt asks for, else 0.
        shares: share of what the prompt asks for that the picture has right, as `adherence_stopping` reads it.
        nearest: `nearest_training_similarity` of the whole picture; 1 is a copy.
    """

    identity: Array
    adherence: Array
    shares: Array
    nearest: Array

    def curve(self, copies: slice = slice(None)) -> tuple[Array, Array]:
        """Mean identity and adherence `[folders]` of these copies of every prompt."""
        return np.nanmean(self.identity[..., copies], (1, 2)), self.adherence[..., copies].mean((1, 2))


class Scores:
    """Reads pictures with the world's judge and its identity, each run once."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts
        self._subjects: dict[str, Subject] = {}
        self._read: dict[tuple[Path, ...], RunScores] = {}

    @cached_property
    def judge(self) -> SpritesJudge:
        return SpritesJudge.from_pretrained(ROOT / "assets/sprites-judge")

    @cached_property
    def backbone(self) -> Backbone:
        return Backbone(backbone=str(ROOT / "assets/sprites-vit"), weights=None, device=torch.device("cpu"))

    @cached_property
    def identity(self) -> Identity:
        return Identity.from_pretrained(ROOT / "assets/sprites-identity")

    def subject(self, name: str) -> Subject:
        if name not in self._subjects:
            self._subjects[name] = instantiate(compose_run(["logger=csv", f"data.subject={name}"]).data)
        return self._subjects[name]

    def of(self, folders: Sequence[Path], subject: str, copies: int) -> RunScores:
        """Those of the pictures `<folder>/<prompt>-<copy>.png` of every folder."""
        key = tuple(folders)
        if key not in self._read:
            self._read[key] = self._scores(folders, self.subject(subject), copies)
        return self._read[key]

    def _scores(self, folders: Sequence[Path], data: Subject, copies: int) -> RunScores:
        pairs = data.evaluation_prompts[: self.prompts]
        names = [f"{prompt:02d}-{copy}.png" for prompt in range(len(pairs)) for copy in range(copies)]
        pictures = [np.asarray(Image.open(folder / name)) for folder in folders for name in names]
        shape = (len(folders), len(pairs), copies)
        heldout = self._compare(pictures, data.heldout)
        verdicts = all_answers(
            self.judge, pictures, [pair.prior for pair in pairs for _ in range(copies)] * len(folders)
        )
        right = [each["all"] for each in verdicts]
        shares = [share_right(each) for each in verdicts]
        keeps = np.array([keeps_paint(pair) for pair in pairs])[None, :, None]
        return RunScores(
            identity=np.where(keeps, heldout.mean(1).reshape(shape), np.nan),
            adherence=np.array(right, float).reshape(shape),
            shares=np.reshape(shares, shape),
            nearest=self._nearest(pictures, data).reshape(shape),
        )

    def _compare(self, pictures: Sequence[NDArray[np.uint8]], others: Sequence[Picture]) -> Array:
        """`Identity.pairwise` `[N, M]` with pictures of a subject."""
        masks = [each.mask for each in others]
        return np.asarray(self.identity.pairwise(pictures, arrays(others), masks))

    def _nearest(self, pictures: Sequence[NDArray[np.uint8]], data: Subject) -> Array:
        """`nearest_training_similarity` `[N]` to the subject's training pictures."""
        drawn, train = (
            self.backbone.embed([Image.fromarray(each) for each in group], batch_size=64)
            for group in (pictures, arrays(data.train))
        )
        return nearest_training_similarity(drawn, train).numpy()

    def ceilings(self, subjects: Sequence[str]) -> dict[str, float]:
        """Means over the subjects of what real pictures have.

        `identity` of the training pictures; `adherence` of the subject as rendered under every prompt, ten times each;
        `nearest` of the held-out pictures.
        """
        data = [self.subject(name) for name in subjects]
        prompts, rendered = rendered_as_asked(subjects, num_prompts=self.prompts)
        return {
            "identity": float(np.mean([self._compare(arrays(each.train), each.heldout).mean() for each in data])),
            "adherence": attribute_adherence(self.judge, rendered, prompts)["all"],
            "nearest": float(np.mean([self._nearest(arrays(each.heldout), each).mean() for each in data])),
        }


def arrays(pictures: Sequence[Picture]) -> list[NDArray[np.uint8]]:
    """`[H, W, 3]` each."""
    return [np.asarray(each.image) for each in pictures]
