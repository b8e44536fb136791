"""A folder of pictures, read with Pillow alone."""

import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

T = TypeVar("T")


def picture_files(folder: Path, *, key: str = "data.root") -> list[Path]:
    """The pictures in `folder` itself, by suffix, in natural order ("2.png" before "10.png"); at least one.

    Args:
        folder: searched without its subfolders.
        key: the one that names the folder, for messages.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a folder, or holds no picture.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder; set {key} to the folder that holds the pictures")
    if not folder.is_dir():
        raise ValueError(f"{folder}: this is a file; set {key} to the folder that holds the pictures")
    if not (files := visible_files(folder, SUFFIXES)):
        suffixes = ", ".join(SUFFIXES)
        raise ValueError(f"{folder}: no readable picture, for no file ends in {suffixes}; add some or change {key}")
    return files


def visible_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files in `folder` itself with one of the lower-case `suffixes`, in natural order."""
    # macOS leaves "._01.jpg" beside "01.jpg" on foreign disks: the suffix of a picture, but none inside.
    visible = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted((path for path in visible if path.suffix.lower() in suffixes), key=_natural)


def read_pictures(folder: Path, *, skip_broken: bool) -> list[tuple[Path, Image.Image]]:
    """Every picture of `folder` in natural order, upright (EXIF), decoded, RGB; transparency is laid on white.

    Args:
        folder: searched without its subfolders.
        skip_broken: leave out a file that cannot be read, with a warning, instead of refusing the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a folder, holds no readable picture, or holds a broken one (named).
    """
    good: list[tuple[Path, Image.Image]] = []
    broken: list[str] = []
    for path in picture_files(folder):
        try:
            good.append((path, read_picture(path)))
        except Exception as error:  # on broken bytes Pillow raises OSError, SyntaxError, ValueError, struct.error, …
            broken.append(f"{path.name} ({reason(error)})")
    named = ", ".join(broken)
    if not good:
        raise ValueError(f"{folder}: no readable picture, only {named}; replace them or change data.root")
    if broken and not skip_broken:
        raise ValueError(f"{folder}: cannot read {named}; replace or remove it, or set data.skip_broken=true")
    for each in broken:
        warnings.warn(f"{folder}: skipped {each}, as data.skip_broken=true allows", stacklevel=2)
    return good


def read_picture(path: Path) -> Image.Image:
    """One picture, upright (EXIF), decoded, RGB; transparency is laid on white.

    Raises:
        Exception: whatever Pillow raises on broken bytes; `reason` puts it into words.
        ValueError: its samples have more than 8 bits.
    """
    with Image.open(path) as image:
        _refuse_deep(image)
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def check_picture(path: Path) -> None:
    """Raises what `read_picture` would, for less: a JPEG is decoded at an eighth of its size, but to its last byte."""
    with Image.open(path) as image:
        _refuse_deep(image)
        image.draft("L", (1, 1))
        image.load()


def reason(error: Exception) -> str:
    """Why a file could not be read, for a message."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else str(error)


def hold_out(items: Sequence[T], *, num_heldout: int, source: Path) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """`items` split into those to train on and the last `num_heldout`; `source` is for the message.

    Raises:
        ValueError: `num_heldout` is negative, or leaves nothing to train on.
    """
    if not 0 <= num_heldout < len(items):
        raise ValueError(
            f"{source}: data.num_heldout={num_heldout} of {len(items)} pictures; "
            f"hold out 0 to {len(items) - 1}, so that at least one is left to train on"
        )
    cut = len(items) - num_heldout  # not [:-num_heldout], which is empty for 0
    return tuple(items[:cut]), tuple(items[cut:])


def _refuse_deep(image: Image.Image) -> None:
    if image.mode.startswith(("I", "F")):  # Pillow would clip their range to 255, which is mostly white
        raise ValueError(f"its samples have more than 8 bits, mode {image.mode!r}: save it as 8-bit RGB")


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name.lower())  # text and digits alternate, so like is compared with like
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
