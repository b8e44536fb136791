"""Stanford Cars (Krause et al., 2013), in the layout of torchvision's `StanfordCars`; its authors serve it no more."""

from pathlib import Path

import numpy as np

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.fine_grained.release import Listed, Release, label_of, read_mat, read_release

TRAIN, TEST = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"
CLASSES = "devkit/cars_meta.mat"

RELEASE = Release(
    name="stanford_cars",
    folder="stanford_cars",
    index=(TRAIN, TEST, CLASSES),
    fetch="put cars_train/ and cars_test/ (of cars_train.tgz and cars_test.tgz), devkit/ (of car_devkit.tgz) and "
    "cars_test_annos_withlabels.mat into the folder stanford_cars inside data.root; the official site serves them no "
    "more: https://github.com/pytorch/vision/issues/7545 says where copies are",
    num_classes=196,
    num_train=8144,
    num_test=8041,
)


def stanford_cars(*, root: str, fraction: float, validation_share: float, seed: int) -> ClassificationData:
    """196 models with the official split, 8144 training and 8041 test pictures.

    Args:
        root: the folder that holds `stanford_cars`, or that folder.
        fraction, validation_share, seed: see `datamodules.classification.learned_and_held_out`.

    Raises:
        FileNotFoundError: a folder, list or picture (named) is missing.
        ValueError: a list is not the official one, or an argument is out of range.
    """
    return read_release(RELEASE, _listed, root, fraction=fraction, validation_share=validation_share, seed=seed)


def _listed(where: Path) -> Listed:
    names = read_mat(where / CLASSES, "class_names")["class_names"]
    return Listed(
        [str(name) for name in names],
        _pictures(where / TRAIN, where / "cars_train"),
        _pictures(where / TEST, where / "cars_test"),
    )


def _pictures(path: Path, folder: Path) -> list[LabelledPicture]:
    annotations = np.atleast_1d(read_mat(path, "annotations")["annotations"])
    if not {"class", "fname"} <= set(annotations.dtype.names or ()):  # cars_test_annos.mat has no classes
        raise ValueError(f"{path}: its annotations lack 'class' or 'fname'; {RELEASE.fetch}")
    return [
        LabelledPicture(picture=folder / name, label=label_of(int(number), RELEASE, path), name=f"{folder.name}/{name}")
        for name, number in zip(annotations["fname"], annotations["class"], strict=True)
    ]
