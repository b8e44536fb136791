"""A classification task from any folder that holds a folder of pictures per class, as torchvision's ImageFolder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from datamodules.classification import (
    TEST_STREAM,
    ClassificationData,
    LabelledPicture,
    hold_out_share,
    learned_and_held_out,
)
from datamodules.dreambooth import TABLE, read_prompt_table
from datamodules.pictures import picture_files


def image_folder(
    *,
    root: str,
    classes: Literal["folder", "dreambooth"],
    class_names: Mapping[str, str] | None,
    test_share: float,
    test_seed: int,
    fraction: float,
    validation_share: float,
    seed: int,
) -> ClassificationData:
    """The pictures in the folders of `root`, split picture by picture within each class, named after `root`.

    Args:
        root: holds a folder per class; the pictures lie in it, not deeper. Hidden folders are passed over.
        classes: "folder", each folder is a class; "dreambooth", each is a subject of the DreamBooth dataset, and its
            class is the subject's in `prompts_and_classes.txt`: several subjects may share one.
        class_names: what a folder's class is called, where its name does not say it ("n02099601": "golden retriever");
            folders of one name are one class. Only with classes=folder.
        test_share: share of each class's pictures to test on, rounded up; they depend on `test_seed` alone.
        test_seed: of what is tested on: runs of other seeds are then tested on the same pictures.
        fraction: share of each class's other pictures that is used, rounded up; a smaller one lies within a larger.
        validation_share: share of those that is held out of training, to choose settings on.
        seed: of the other splits; the run's own seed is at the top.

    Raises:
        FileNotFoundError: there is no such root; or no `prompts_and_classes.txt` in it.
        ValueError: a folder holds no picture, a class too few, there is only one class, or an argument is wrong.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"data.test_share={test_share} is a share of the pictures: above 0, below 1")
    where = Path(os.path.abspath(Path(root).expanduser()))  # "." has no name of its own
    class_of = _class_of_folder(where, classes, class_names)
    names = tuple(dict.fromkeys(class_of.values()))
    if len(names) < 2:
        raise ValueError(
            f"{where}: {len(names)} classes ({', '.join(names)}); at least 2 folders of pictures are needed"
        )
    pictures = [
        LabelledPicture(picture=path, label=names.index(name), name=f"{folder}/{path.name}")
        for folder, name in class_of.items()
        for path in picture_files(where / folder)
    ]
    labels = [each.label for each in pictures]
    for label, name in enumerate(names):
        if (count := labels.count(label)) < 2:
            raise ValueError(f"{where}: class {name!r} has {count} picture; one to learn and one to test on are needed")
    pool, test = hold_out_share(labels, share=test_share, seed=test_seed, stream=TEST_STREAM, key="data.test_share")
    train, validation = learned_and_held_out(
        [pictures[i] for i in pool], fraction=fraction, validation_share=validation_share, seed=seed
    )
    return ClassificationData(
        name=where.name, classes=names, train=train, validation=validation, test=tuple(pictures[i] for i in test)
    )


def _class_of_folder(where: Path, classes: str, class_names: Mapping[str, str] | None) -> dict[str, str]:
    if not where.is_dir():
        raise FileNotFoundError(f"data.root={where}: there is no such folder; set it to one with a folder per class")
    folders = sorted(path.name for path in where.iterdir() if path.is_dir() and not path.name.startswith("."))
    if classes == "folder":
        if unknown := sorted(set(class_names or {}) - set(folders)):
            raise ValueError(
                f"data.class_names: {where} has no folder {', '.join(unknown)}; correct or remove the name"
            )
        return {folder: (class_names or {}).get(folder, folder) for folder in folders}
    if classes != "dreambooth":
        raise ValueError(f"data.classes={classes!r}: set it to folder or dreambooth")
    if class_names:
        raise ValueError("data.class_names names the classes of data.classes=folder; with dreambooth leave it null")
    table = where / TABLE
    if not table.is_file():
        raise FileNotFoundError(f"{table} is not there; set data.root to the folder `dataset` of google/dreambooth")
    words = read_prompt_table(table).classes
    if strange := [folder for folder in folders if folder not in words]:
        raise ValueError(f"{table}: no row for the folders {', '.join(strange)}; add one, or move them elsewhere")
    return {folder: words[folder] for folder in folders}
