"""Oxford-IIIT Pet (Parkhi et al., 2012): https://www.robots.ox.ac.uk/~vgg/data/pets, as torchvision lays it out."""

from pathlib import Path

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.fine_grained.release import Listed, Release, label_of, read_release, read_rows

TRAIN, TEST = "annotations/trainval.txt", "annotations/test.txt"

RELEASE = Release(
    name="oxford_pets",
    folder="oxford-iiit-pet",
    index=(TRAIN, TEST),
    fetch="set data.download=true (first remove an incomplete oxford-iiit-pet), or unpack images.tar.gz and "
    "annotations.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/pets/data/ into the folder oxford-iiit-pet inside "
    "data.root",
    num_classes=37,
    num_train=3680,
    num_test=3669,
    has_unlisted=True,  # 41 of its 7390 pictures
)


def oxford_pets(
    *, root: str, download: bool, fraction: float, validation_share: float, seed: int
) -> ClassificationData:
    """37 breeds with the official split, 3680 training and 3669 test pictures, and where the pet is (trimaps).

    Args:
        root: the folder that holds `oxford-iiit-pet`, or that folder.
        download: fetch the dataset (0.8 GB) with torchvision where it is not there.
        fraction, validation_share, seed: see `datamodules.classification.learned_and_held_out`.

    Raises:
        FileNotFoundError: a folder, list, picture or trimap (named) is missing.
        OSError: the download failed.
        ValueError: a list is not the official one, or an argument is out of range.
    """
    return read_release(
        RELEASE, _listed, root, download=_download if download else None,
        fraction=fraction, validation_share=validation_share, seed=seed,
    )  # fmt: skip


def _listed(where: Path) -> Listed:
    train, test = _pictures(where, TRAIN), _pictures(where, TEST)
    # "american_bulldog_12.jpg": the breed, and a number within it.
    breeds = {each.label: each.name.rsplit("_", 1)[0] for each in (*test, *train)}
    return Listed([breeds[label].replace("_", " ").title() for label in sorted(breeds)], train, test)


def _pictures(where: Path, listed: str) -> list[LabelledPicture]:
    return [
        LabelledPicture(
            picture=where / "images" / f"{name}.jpg",
            label=label_of(number, RELEASE, where / listed),
            name=f"{name}.jpg",
            mask=where / "annotations/trimaps" / f"{name}.png",
        )
        for name, number, _, _ in read_rows(where / listed, columns=4)
    ]


def _download(root: Path) -> None:
    from torchvision.datasets import OxfordIIITPet

    OxfordIIITPet(root, download=True)
