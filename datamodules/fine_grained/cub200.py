"""CUB-200-2011, birds (Wah et al., 2011): https://www.vision.caltech.edu/datasets/cub_200_2011."""

from pathlib import Path

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.fine_grained.release import Listed, Release, label_of, read_release, read_rows

RELEASE = Release(
    name="cub200",
    folder="CUB_200_2011",
    index=("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    fetch="unpack https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz into the folder data.root, "
    "which then holds CUB_200_2011/images.txt and CUB_200_2011/images/",
    num_classes=200,
    num_train=5994,
    num_test=5794,
)


def cub200(*, root: str, fraction: float, validation_share: float, seed: int) -> ClassificationData:
    """200 species with the official split, 5994 training and 5794 test pictures.

    Args:
        root: the folder that holds `CUB_200_2011`, or that folder.
        fraction, validation_share, seed: see `datamodules.classification.learned_and_held_out`.

    Raises:
        FileNotFoundError: a folder, list or picture (named) is missing.
        ValueError: a list is not the official one, or an argument is out of range.
    """
    return read_release(RELEASE, _listed, root, fraction=fraction, validation_share=validation_share, seed=seed)


def _listed(where: Path) -> Listed:
    labels = where / "image_class_labels.txt"
    label = dict(read_rows(labels, columns=2))
    is_train = dict(read_rows(where / "train_test_split.txt", columns=2))
    train: list[LabelledPicture] = []
    test: list[LabelledPicture] = []
    for number, name in read_rows(where / "images.txt", columns=2):
        if number not in label or number not in is_train:
            lacking = "image_class_labels.txt" if number not in label else "train_test_split.txt"
            raise ValueError(f"{where / lacking}: no line for image {number}, {name}; {RELEASE.fetch}")
        picture = where / "images" / name
        (train if is_train[number] == "1" else test).append(
            LabelledPicture(picture=picture, label=label_of(label[number], RELEASE, labels), name=name)
        )
    names = [name for _, name in read_rows(where / "classes.txt", columns=2)]  # "001.Black_footed_Albatross"
    return Listed([name.split(".", 1)[-1].replace("_", " ") for name in names], train, test)
