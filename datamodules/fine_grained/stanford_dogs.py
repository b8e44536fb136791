"""Stanford Dogs (Khosla et al., 2011), from ImageNet: http://vision.stanford.edu/aditya86/ImageNetDogs."""

from pathlib import Path

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.fine_grained.release import Listed, Release, label_of, read_mat, read_release

RELEASE = Release(
    name="stanford_dogs",
    folder="stanford_dogs",
    index=("train_list.mat", "test_list.mat"),
    fetch="unpack images.tar and lists.tar of http://vision.stanford.edu/aditya86/ImageNetDogs into the folder "
    "data.root, which then holds Images/ and train_list.mat; lists of other origin may name one picture more",
    num_classes=120,
    num_train=12000,
    num_test=8580,
)


def stanford_dogs(*, root: str, fraction: float, validation_share: float, seed: int) -> ClassificationData:
    """120 breeds with the official split, 12000 training and 8580 test pictures.

    Args:
        root: the folder that holds `Images` and the lists, or the one that holds them in `stanford_dogs`.
        fraction, validation_share, seed: see `datamodules.classification.learned_and_held_out`.

    Raises:
        FileNotFoundError: a folder, list or picture (named) is missing.
        ValueError: a list is not the official one, or an argument is out of range.
    """
    return read_release(RELEASE, _listed, root, fraction=fraction, validation_share=validation_share, seed=seed)


def _listed(where: Path) -> Listed:
    train, test = (_pictures(where / f"{split}_list.mat", where / "Images") for split in ("train", "test"))
    # Every picture lies in its breed's folder, "n02085936-Maltese_dog": ImageNet's number, then the name.
    folders = {each.label: each.name.split("/")[0] for each in (*test, *train)}
    return Listed([folders[label].split("-", 1)[-1].replace("_", " ") for label in sorted(folders)], train, test)


def _pictures(path: Path, folder: Path) -> list[LabelledPicture]:
    variables = read_mat(path, "file_list")
    names, labels = variables["file_list"], variables.get("labels", ())
    if len(names) != len(labels):
        raise ValueError(f"{path}: {len(names)} files, {len(labels)} labels; {RELEASE.fetch}")
    return [
        LabelledPicture(picture=folder / str(name), label=label_of(int(number), RELEASE, path), name=str(name))
        for name, number in zip(names, labels, strict=True)
    ]
