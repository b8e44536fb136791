"""The official layouts of the fine-grained datasets, written for given labels of the training and test pictures.

`link(folder, names)` makes the pictures.
"""

import numpy as np
from scipy.io import savemat


def write_cub200(root, train, test, link):
    names = [f"{c + 1:03}.Black_footed_{c}" for c in range(200)]
    rows = [(c, True) for c in train] + [(c, False) for c in test]
    files = [f"{names[c]}/{i}.jpg" for i, (c, _) in enumerate(rows, 1)]
    lists = {
        "classes.txt": [f"{c} {name}" for c, name in enumerate(names, 1)],
        "images.txt": [f"{i} {file}" for i, file in enumerate(files, 1)],
        "image_class_labels.txt": [f"{i} {c + 1}" for i, (c, _) in enumerate(rows, 1)],
        "train_test_split.txt": [f"{i} {int(is_train)}" for i, (_, is_train) in enumerate(rows, 1)],
    }
    link(root / "CUB_200_2011/images", files)
    for name, lines in lists.items():
        (root / "CUB_200_2011" / name).write_text("\n".join(lines) + "\n")


def write_stanford_cars(root, train, test, link):
    where = root / "stanford_cars"
    (where / "devkit").mkdir(parents=True)
    names = np.array([f"Make Model {c}" for c in range(196)], dtype=object)
    savemat(where / "devkit/cars_meta.mat", {"class_names": names[None]})
    for folder, labels, mat in (
        ("cars_train", train, "devkit/cars_train_annos.mat"),
        ("cars_test", test, "cars_test_annos_withlabels.mat"),
    ):
        files = [f"{i:05}.jpg" for i in range(1, len(labels) + 1)]
        link(where / folder, files)
        rows = [(np.uint8(c + 1), file) for c, file in zip(labels, files, strict=True)]
        savemat(where / mat, {"annotations": np.array([rows], dtype=[("class", object), ("fname", object)])})


def write_fgvc_aircraft(root, train, test, link):
    data = root / "fgvc-aircraft-2013b/data"
    data.mkdir(parents=True)
    names = [f"A 300-{c}" for c in range(100)]
    (data / "variants.txt").write_text("\n".join(names) + "\n")
    for split, labels in (("trainval", train), ("test", test)):
        numbers = (
            [f"{i:07}" for i in range(len(labels))] if split == "test" else [f"1{i:06}" for i in range(len(labels))]
        )
        link(data / "images", [f"{number}.jpg" for number in numbers])
        rows = [f"{number} {names[c]}" for number, c in zip(numbers, labels, strict=True)]
        (data / f"images_variant_{split}.txt").write_text("\n".join(rows) + "\n")


def write_stanford_dogs(root, train, test, link):
    for split, labels in (("train", train), ("test", test)):
        files = [f"n{c:08}-Maltese_dog-{c}/{split}_{i}.jpg" for i, c in enumerate(labels)]
        link(root / "Images", files)
        column = np.array(files, dtype=object)[:, None]
        savemat(root / f"{split}_list.mat", {"file_list": column, "labels": np.array(labels, float)[:, None] + 1})


def write_oxford_pets(root, train, test, link):
    where = root / "oxford-iiit-pet"
    (where / "annotations").mkdir(parents=True)
    for split, labels in (("trainval", train), ("test", test)):
        names = [f"american_bulldog{c}_{split}{i}" for i, c in enumerate(labels)]
        link(where / "images", [f"{name}.jpg" for name in names])
        link(where / "annotations/trimaps", [f"{name}.png" for name in names])
        rows = [f"{name} {c + 1} 1 1" for name, c in zip(names, labels, strict=True)]
        (where / f"annotations/{split}.txt").write_text("\n".join(rows) + "\n")


WRITERS = {
    "cub200": write_cub200,
    "stanford_cars": write_stanford_cars,
    "fgvc_aircraft": write_fgvc_aircraft,
    "stanford_dogs": write_stanford_dogs,
    "oxford_pets": write_oxford_pets,
}
