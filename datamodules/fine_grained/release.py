"""What the fine-grained datasets share: the official files are found, counted, and thinned out to a subset."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.classification import ClassificationData, LabelledPicture, learned_and_held_out
from datamodules.pictures import SUFFIXES, visible_files

SHOWN = 5  # missing files that a message names


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A dataset as its authors published it.

    Args:
        name: what the report calls it.
        folder: of the dataset, inside `data.root`; `data.root` may also be that folder itself.
        index: files that list the pictures, inside the folder.
        fetch: what to download and where to put it, for messages.
        num_classes, num_train, num_test: how much there is.
        has_unlisted: whether the archive itself holds pictures that no list names.
    """

    name: str
    folder: str
    index: tuple[str, ...]
    fetch: str
    num_classes: int
    num_train: int
    num_test: int
    has_unlisted: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """What the lists of a release name: the classes in the order of the labels, and the pictures of either split."""

    classes: Sequence[str]
    train: Sequence[LabelledPicture]
    test: Sequence[LabelledPicture]


def read_release(
    release: Release,
    read_lists: Callable[[Path], Listed],
    root: str,
    *,
    fraction: float,
    validation_share: float,
    seed: int,
    download: Callable[[Path], object] | None = None,
) -> ClassificationData:
    """A subset of the training pictures, part of it held out for validation, and all test pictures.

    Args:
        release: what is looked for.
        read_lists: called with the folder that holds the files of `release.index`.
        root, download: see `locate`.
        fraction, validation_share, seed: see `datamodules.classification.learned_and_held_out`.

    Raises:
        FileNotFoundError: there is no such root, or listed files are missing (how many, the first few by name).
        OSError: the download failed.
        ValueError: counts differ, a picture is listed twice or not at all, or a share is out of range.
    """
    where = locate(release, root, download=download)
    listed = read_lists(where)
    _check_lists(release, where, listed)
    _check_files(release, where, [*listed.train, *listed.test])
    train, validation = learned_and_held_out(
        listed.train, fraction=fraction, validation_share=validation_share, seed=seed
    )
    return ClassificationData(
        name=release.name,
        classes=tuple(listed.classes),
        train=train,
        validation=validation,
        test=tuple(listed.test),
    )


def locate(release: Release, root: str, *, download: Callable[[Path], object] | None = None) -> Path:
    """The folder with the files that list the pictures.

    Args:
        release: what is looked for.
        root: `data.root`.
        download: called with the root where nothing of the dataset is there; None forbids it.

    Raises:
        FileNotFoundError: there is no such root, or a file is missing in it.
        OSError: the download failed.
    """
    where = Path(root).expanduser()
    if download and not (where / release.folder).is_dir() and not _present(release, where):
        try:
            download(where)
        except (OSError, RuntimeError) as error:  # of the network, or for a wrong check sum
            raise OSError(f"{release.name}: the download failed ({error}); {release.fetch}") from None
    if not where.is_dir():
        raise FileNotFoundError(f"data.root={root}: there is no such folder; {release.fetch}")
    if (where / release.folder).is_dir():
        where /= release.folder
    if missing := sorted(set(release.index) - _present(release, where)):
        raise FileNotFoundError(f"{where} lacks {', '.join(missing)} of {release.name}; {release.fetch}")
    return where


def read_rows(path: Path, *, columns: int) -> list[list[str]]:
    """The lines of a list whose columns stand apart by blanks; the last column may hold blanks.

    Raises:
        ValueError: a line (named by its number) has fewer columns.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = line.split(maxsplit=columns - 1)
        if len(row) != columns:
            raise ValueError(f"{path}:{number}: {line!r} has fewer than {columns} columns; restore the original file")
        rows.append([each.strip() for each in row])
    return rows


def label_of(number: str | int, release: Release, path: Path) -> int:
    """The label, from 0, of a class that the list `path` numbers from 1.

    Raises:
        ValueError: the release has no class of that number.
    """
    if not str(number).isdecimal() or not 1 <= int(number) <= release.num_classes:
        raise ValueError(
            f"{path}: class {number!r}, where {release.name} has 1 to {release.num_classes}; restore the original file"
        )
    return int(number) - 1


def read_mat(path: Path, variable: str) -> dict[str, Any]:
    """A MATLAB file's variables, each an array without axes of length 1.

    Raises:
        ValueError: it is damaged, or lacks `variable`.
    """
    from scipy.io import loadmat

    try:
        variables: dict[str, Any] = loadmat(path, squeeze_me=True)
    except Exception as error:  # on broken bytes scipy raises ValueError, TypeError, zlib.error, …
        raise ValueError(f"{path}: not readable as a MATLAB file ({error}); fetch it again") from None
    if variable not in variables:
        raise ValueError(f"{path}: holds no variable {variable!r}; restore the original file")
    return variables


def _check_lists(release: Release, where: Path, listed: Listed) -> None:
    for kind, found, expected in (
        ("classes", len(listed.classes), release.num_classes),
        ("training pictures", len(listed.train), release.num_train),
        ("test pictures", len(listed.test), release.num_test),
    ):
        if found != expected:
            raise ValueError(f"{where} lists {found} {kind}, {release.name} has {expected}; {release.fetch}")
    picture, times = Counter(each.name for each in (*listed.train, *listed.test)).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{where} lists {picture} {times} times; restore the original lists: {release.fetch}")


def _check_files(release: Release, where: Path, pictures: Sequence[LabelledPicture]) -> None:
    files = [file for each in pictures for file in (each.picture, each.mask) if isinstance(file, Path)]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} files of {release.name} are missing: {_first(missing)}; {release.fetch}"
        )
    if not release.has_unlisted and (extra := _unlisted(pictures)):
        raise ValueError(
            f"{len(extra)} pictures in {where} are in no list of {release.name}: {_first(extra)}; the folder is a "
            "mixture, so move them away, or unpack the archive afresh"
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])])


def _unlisted(pictures: Sequence[LabelledPicture]) -> list[str]:
    """Pictures beside the listed ones."""
    listed = {each.picture for each in pictures if isinstance(each.picture, Path)}
    folders = sorted({path.parent for path in listed})
    return [str(path) for folder in folders for path in visible_files(folder, SUFFIXES) if path not in listed]


def _present(release: Release, where: Path) -> set[str]:
    return {name for name in release.index if (where / name).is_file()}
