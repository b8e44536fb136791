"""What a classification run learns from: labelled pictures, and how a set of them is thinned out and split.

Imports neither torch nor Lightning, so that bad data is refused before anything slow starts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from datamodules.pictures import check_picture, read_picture, reason

BACKGROUND = 2  # of a trimap
VALIDATION_STREAM, TEST_STREAM = 1, 2  # what is held out is drawn apart from the subset, and apart from each other
SHOWN = 5  # unreadable files that a message names


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One picture and its class.

    Args:
        picture: a file, or a picture in memory (of the embedded world).
        label: index of its class.
        name: what messages and the report call it.
        mask: where the object is, for the localisation metric: a trimap's file, or an array `[H, W]`.
    """

    picture: Path | Image.Image
    label: int
    name: str
    mask: Path | NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class ClassificationData:
    """A classification task.

    Args:
        name: what the report calls it.
        classes: their names, in the order of the labels.
        train: the pictures to learn from.
        validation: held out of the training pictures, to choose settings on; empty unless asked for.
        test: never looked at while training.

    Raises:
        ValueError: a label is out of range, or a class has no training picture.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[LabelledPicture, ...]
    validation: tuple[LabelledPicture, ...]
    test: tuple[LabelledPicture, ...]

    def __post_init__(self) -> None:
        for each in (*self.train, *self.validation, *self.test):
            if not 0 <= each.label < len(self.classes):
                raise ValueError(
                    f"{self.name}: {each.name} has label {each.label}, outside 0 to {len(self.classes) - 1}; correct "
                    "its label or the list of classes"
                )
        learned = {each.label for each in self.train}
        for label, name in enumerate(self.classes):
            if label not in learned:
                raise ValueError(f"{self.name}: class {name!r} has no training picture; add some, or leave it out")


def nested_subset(labels: Sequence[int], *, fraction: float, seed: int) -> list[int]:
    """Sorted indices of `ceil(n_c * fraction)` pictures of every class `c`, drawn at random from `seed`.

    With the same seed a smaller fraction's subset lies within a larger one's.

    Raises:
        ValueError: `fraction` is not in (0, 1], or `seed` is negative.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"data.fraction={fraction} is a share of the training pictures: above 0, at most 1")
    kept = [shuffled[: _ceil(len(shuffled), fraction)] for shuffled in _shuffled(labels, seed).values()]
    return sorted(index for each in kept for index in each)


def split_validation(labels: Sequence[int], *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Sorted indices to train on and to validate on; `share` of every class is held out, as `hold_out_share` does.

    Raises:
        ValueError: `share` is not in [0, 1), a class has too few pictures for it, or `seed` is negative.
    """
    if not 0 <= share < 1:
        raise ValueError(f"data.validation_share={share} is a share of the training pictures: at least 0, below 1")
    return hold_out_share(labels, share=share, seed=seed, stream=VALIDATION_STREAM, key="data.validation_share")


def learned_and_held_out(
    pictures: Sequence[LabelledPicture], *, fraction: float, validation_share: float, seed: int
) -> tuple[tuple[LabelledPicture, ...], tuple[LabelledPicture, ...]]:
    """What a task trains on and validates on, of all its training pictures.

    Args:
        pictures: all of them.
        fraction: share of each class's training pictures that is used, rounded up; a smaller one lies within a larger.
        validation_share: share of those that is held out of training, to choose settings on.
        seed: of the subset; the run's own seed is at the top.

    Raises:
        ValueError: a share is out of range, a class has too few pictures for it, or `seed` is negative.
    """
    used = [pictures[i] for i in nested_subset([each.label for each in pictures], fraction=fraction, seed=seed)]
    learned, held_out = split_validation([each.label for each in used], share=validation_share, seed=seed)
    return tuple(used[i] for i in learned), tuple(used[i] for i in held_out)


def hold_out_share(
    labels: Sequence[int], *, share: float, seed: int, stream: int, key: str
) -> tuple[list[int], list[int]]:
    """Sorted indices of what stays and of what is held out: `ceil(n_c * share)` of every class, but not all of it.

    Args:
        labels: each picture's class.
        share: of every class, in [0, 1); with 0 nothing is held out.
        seed: what is held out is drawn from it,
        stream: and from this number, which sets one use of the seed apart from another.
        key: of the share, for the message.

    Raises:
        ValueError: a class has one picture, and something is to be held out; or `seed` is negative.
    """
    stay: list[int] = []
    held_out: list[int] = []
    for label, shuffled in _shuffled(labels, seed, stream).items():
        if share and len(shuffled) < 2:
            raise ValueError(
                f"class {label} has one picture, and {key}={share} holds one out: add some, or set it to 0"
            )
        cut = min(_ceil(len(shuffled), share), len(shuffled) - 1)
        held_out += shuffled[:cut]
        stay += shuffled[cut:]
    return sorted(stay), sorted(held_out)


def read_image(picture: LabelledPicture) -> Image.Image:
    """The picture in RGB, upright (EXIF), transparency laid on white.

    Raises:
        ValueError: its file cannot be read.
    """
    if isinstance(picture.picture, Image.Image):
        return picture.picture.convert("RGB")
    try:
        return read_picture(picture.picture)
    except Exception as error:  # on broken bytes Pillow raises OSError, SyntaxError, ValueError, struct.error, …
        raise ValueError(f"{picture.picture}: cannot be read ({reason(error)}); replace it") from None


def read_mask(picture: LabelledPicture) -> NDArray[np.bool_]:
    """Where the object is, `[H, W]` of the upright picture.

    A file is a trimap as Oxford-IIIT Pets has them: 1 is the object, 2 the background, 3 the border between them, which
    is hair and outline more than background and so counts as the object.

    Raises:
        ValueError: the picture has no mask, or one of another size or with other values; or a file cannot be read.
    """
    if isinstance(picture.mask, np.ndarray) and isinstance(picture.picture, Image.Image):
        mask, size = picture.mask, picture.picture.size
    elif isinstance(picture.mask, Path) and isinstance(picture.picture, Path):
        try:
            mask, size = _read_trimap(picture.mask, of=picture.picture)
        except Exception as error:
            raise ValueError(f"{picture.mask}: cannot be read ({reason(error)}); replace it") from None
    else:
        raise ValueError(f"{picture.name}: the picture has no mask; measure the localisation on data with masks")
    if mask.shape[::-1] != size:
        raise ValueError(f"{picture.name}: its mask is {mask.shape[::-1]} pixels, the picture {size}; replace one")
    return mask


def check_readable(pictures: Sequence[LabelledPicture], description: str) -> None:
    """Decodes every file and mask once, in threads, so that a broken one does not end a run at night.

    Args:
        pictures: those in memory are passed over.
        description: of the progress bar that is shown where there are many.

    Raises:
        ValueError: files that cannot be read: how many, and the first few with the reason.
    """
    from concurrent.futures import ThreadPoolExecutor

    from rich.progress import track

    files = [each for each in pictures if isinstance(each.picture, Path)]
    with ThreadPoolExecutor() as pool:
        faults = pool.map(_fault, files)
        shown = track(faults, description, total=len(files), disable=len(files) < 500)
        broken = [fault for fault in shown if fault]
    if broken:
        more = ", …" if len(broken) > SHOWN else ""
        raise ValueError(
            f"{len(broken)} of {len(files)} pictures cannot be read: {', '.join(broken[:SHOWN])}{more}; fetch them "
            "again, or in a folder of your own remove them"
        )


def _fault(picture: LabelledPicture) -> str:
    assert isinstance(picture.picture, Path)
    try:
        check_picture(picture.picture)
    except Exception as error:
        return f"{picture.picture} ({reason(error)})"
    try:
        if picture.mask is not None:
            read_mask(picture)
    except ValueError as error:
        return f"{picture.picture} ({error})"
    return ""


def _read_trimap(path: Path, *, of: Path) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The mask and the picture's size, width first, both upright."""
    with Image.open(of) as picture, Image.open(path) as trimap:
        if trimap.size != picture.size:
            raise ValueError(f"it is {trimap.size} pixels, the picture {picture.size}")
        # A camera's orientation is told in the picture alone.
        trimap.getexif()[ExifTags.Base.Orientation] = picture.getexif().get(ExifTags.Base.Orientation, 1)
        values = np.asarray(ImageOps.exif_transpose(trimap))
    if values.ndim != 2 or not np.isin(values, (1, BACKGROUND, 3)).all():
        raise ValueError("it is no trimap: only the values 1, 2 and 3 may occur, in one channel")
    return values != BACKGROUND, (values.shape[1], values.shape[0])


def _shuffled(labels: Sequence[int], seed: int, *stream: int) -> dict[int, list[int]]:
    """The indices of each class in random order, which depends on no other class."""
    if seed < 0:
        raise ValueError(f"data.seed={seed}: a seed is 0 or more")
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    return {c: np.random.default_rng([seed, c, *stream]).permutation(members[c]).tolist() for c in sorted(members)}


def _ceil(count: int, share: float) -> int:
    # Exact, as the share is written: in floating point .07 * 100 is 7.000000000000001, whose ceiling is 8.
    return math.ceil(count * Fraction(str(share)))
