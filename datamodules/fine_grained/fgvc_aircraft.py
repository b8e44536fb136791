"""FGVC-Aircraft (Maji et al., 2013) in torchvision's layout: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft."""

from pathlib import Path

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.fine_grained.release import Listed, Release, read_release, read_rows

VARIANTS, TRAIN, TEST = (
    f"data/{name}.txt" for name in ("variants", "images_variant_trainval", "images_variant_test")
)  # fmt: skip

RELEASE = Release(
    name="fgvc_aircraft",
    folder="fgvc-aircraft-2013b",
    index=(VARIANTS, TRAIN, TEST),
    fetch="set data.download=true (first remove an incomplete fgvc-aircraft-2013b), or unpack https://"
    "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz into the folder data.root",
    num_classes=100,
    num_train=6667,
    num_test=3333,
)


def fgvc_aircraft(
    *, root: str, download: bool, fraction: float, validation_share: float, seed: int
) -> ClassificationData:
    """100 variants, 6667 pictures of the official training and validation sets to train on and 3333 to test on.

    Args:
        root: the folder that holds `fgvc-aircraft-2013b`, or that folder.
        download: fetch the dataset (2.75 GB) with torchvision where it is not there.
        fraction, validation_share, seed: see `datamodules.classification.learned_and_held_out`.

    Raises:
        FileNotFoundError: a folder, list or picture (named) is missing.
        OSError: the download failed.
        ValueError: a list is not the official one, or an argument is out of range.
    """
    return read_release(
        RELEASE, _listed, root, download=_download if download else None,
        fraction=fraction, validation_share=validation_share, seed=seed,
    )  # fmt: skip


def _listed(where: Path) -> Listed:
    classes = [line.strip() for line in (where / VARIANTS).read_text(encoding="utf-8").splitlines()]
    return Listed(classes, _pictures(where, TRAIN, classes), _pictures(where, TEST, classes))


def _pictures(where: Path, listed: str, classes: list[str]) -> list[LabelledPicture]:
    label = {name: index for index, name in enumerate(classes)}
    pictures = []
    for number, variant in read_rows(where / listed, columns=2):
        if variant not in label:
            raise ValueError(
                f"{where / listed}: {number} is {variant!r}, which {where / VARIANTS} lacks; {RELEASE.fetch}"
            )
        file = where / "data/images" / f"{number}.jpg"
        pictures.append(LabelledPicture(picture=file, label=label[variant], name=file.name))
    return pictures


def _download(root: Path) -> None:
    from torchvision.datasets import FGVCAircraft

    FGVCAircraft(root, download=True)
