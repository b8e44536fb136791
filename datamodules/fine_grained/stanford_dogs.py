"""Stanford Dogs (Khosla et al., 2011), from ImageNet: http://vision.stanford.edu/aditya86/ImageNetDogs."""

from pathlib import Path

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.fine_grained.release import Release, assemble, label_of, locate, read_mat

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
        fraction: share of each class's training pictures that is used, rounded up; a smaller one lies within a larger.
        validation_share: share of those that is held out of training, to choose settings on.
        seed: of the subset; the run's own seed is at the top.

    Raises:
        FileNotFoundError: a folder, list or picture (named) is missing.
        ValueError: a list is not the official one, or an argument is out of range.
    """
    where = locate(RELEASE, root)
    train = _pictures(where / "train_list.mat", where / "Images")
    test = _pictures(where / "test_list.mat", where / "Images")
    # Every picture lies in its breed's folder, "n02085936-Maltese_dog": ImageNet's number, then the name.
    folders = {each.label: each.name.split("/")[0] for each in (*test, *train)}
    return assemble(
        RELEASE,
        where,
        classes=[folders[label].split("-", 1)[-1].replace("_", " ") for label in sorted(folders)],
        train=train,
        test=test,
        fraction=fraction,
        validation_share=validation_share,
        seed=seed,
    )


def _pictures(path: Path, folder: Path) -> list[LabelledPicture]:
    variables = read_mat(path, "file_list")
    names, labels = variables["file_list"], variables.get("labels", ())
    if len(names) != len(labels):
        raise ValueError(f"{path}: {len(names)} files, {len(labels)} labels; {RELEASE.fetch}")
    return [
        LabelledPicture(picture=folder / str(name), label=label_of(int(number), RELEASE, path), name=str(name))
        for name, number in zip(names, labels, strict=True)
    ]
