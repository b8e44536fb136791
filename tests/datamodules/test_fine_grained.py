"""The five datasets, on trees of the official layout and the official counts, made of links to one tiny picture."""

import json
import os
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from datamodules.classification import read_image, read_mask
from tests.fine_grained_trees import WRITERS
from tests.tiny import ROOT

SIZES = ROOT.parent / "shared/data/fine_grained_class_sizes.json"
pytestmark = pytest.mark.skipif(not SIZES.is_file(), reason=f"{SIZES} is absent")

# Training pictures at 15, 30, 50 and 100 %, and test pictures.
COUNTS = {
    "cub200": (1000, 1800, 3000, 5994, 5794),
    "stanford_cars": (1310, 2531, 4123, 8144, 8041),
    "fgvc_aircraft": (1067, 2067, 3367, 6667, 3333),
    "stanford_dogs": (1800, 3600, 6000, 12000, 8580),
    "oxford_pets": (554, 1105, 1841, 3680, 3669),
}
FRACTIONS = (0.15, 0.3, 0.5, 1.0)


def read(name, root, **changes):
    node = yaml.safe_load((ROOT / f"conf/data/{name}.yaml").read_text())
    module, _, function = node.pop("_target_").rpartition(".")
    return getattr(import_module(module), function)(**node | {"root": str(root)} | changes)


@contextmanager
def edited(path, change):
    """`path` with other contents, until the end of the block; removed where `change` is None."""
    before = path.read_bytes()
    path.unlink()  # the file itself may be linked elsewhere
    try:
        if change:
            path.write_bytes(change(before))
        yield
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Makes the tree of a dataset at its first use."""
    made = {}

    def make(name):
        if name not in made:
            root = made[name] = tmp_path_factory.mktemp(name)
            Image.new("RGB", (3, 2), "red").save(root / "tiny.jpg")
            trimap = np.array([[1, 2, 3], [2, 2, 1]], np.uint8)
            Image.fromarray(trimap).save(root / "tiny.png")

            def link(folder, names):
                for parent in {(folder / each).parent for each in names}:
                    parent.mkdir(parents=True, exist_ok=True)
                for each in names:
                    os.link(root / f"tiny{each[-4:]}", folder / each)

            sizes = json.loads(SIZES.read_text())[name]
            train = [c for c, count in enumerate(sizes["train_per_class"]) for _ in range(count)]
            test = [i % sizes["classes"] for i in range(sizes["test_total"])]
            WRITERS[name](root, train, test, link)
        return made[name]

    return make


# ---- what is read


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_methods_table_and_nested_subsets(tree, name):
    read_at = [read(name, tree(name), fraction=fraction) for fraction in FRACTIONS]
    *train, test = COUNTS[name]
    assert [len(data.train) for data in read_at] == train
    for smaller, larger in pairwise(read_at):
        assert set(smaller.train) < set(larger.train)
        assert smaller.test == larger.test and smaller.classes == larger.classes
    assert len(read_at[-1].test) == test and not read_at[-1].validation
    per_class = np.bincount([each.label for each in read_at[-1].train])
    assert per_class.tolist() == json.loads(SIZES.read_text())[name]["train_per_class"]


@pytest.mark.parametrize("name", COUNTS)
def test_validation_comes_out_of_the_subset(tree, name):
    whole = read(name, tree(name), fraction=0.3)
    split = read(name, tree(name), fraction=0.3, validation_share=0.2)
    assert {each.label for each in split.validation} == set(range(len(split.classes)))
    assert {*split.train} | {*split.validation} == {*whole.train}
    assert len(split.train) + len(split.validation) == len(whole.train)
    assert split.test == whole.test
    assert read(name, tree(name), fraction=0.3, seed=1).train != whole.train


@pytest.mark.parametrize(
    "name, first, second, picture",
    [
        ("cub200", "Black footed 0", "Black footed 1", "001.Black_footed_0/1.jpg"),
        ("stanford_cars", "Make Model 0", "Make Model 1", "cars_train/00001.jpg"),
        ("fgvc_aircraft", "A 300-0", "A 300-1", "1000000.jpg"),
        ("stanford_dogs", "Maltese dog-0", "Maltese dog-1", "n00000000-Maltese_dog-0/train_0.jpg"),
        ("oxford_pets", "American Bulldog0", "American Bulldog1", "american_bulldog0_trainval0.jpg"),
    ],
)
def test_names_and_pictures(tree, name, first, second, picture):
    data = read(name, tree(name))
    assert (data.name, *data.classes[:2]) == (name, first, second)
    assert (data.train[0].name, data.train[0].label) == (picture, 0)
    assert read_image(data.train[0]).size == read_image(data.test[0]).size == (3, 2)


def test_root_may_be_the_folder_itself(tree):
    data = read("cub200", tree("cub200"))
    assert read("cub200", tree("cub200") / "CUB_200_2011") == data


def test_pets_have_masks(tree):
    data = read("oxford_pets", tree("oxford_pets"))
    for picture in (data.train[0], data.test[-1]):
        np.testing.assert_array_equal(read_mask(picture), [[True, False, True], [False, False, True]])


# ---- what is refused


@pytest.mark.parametrize("name", COUNTS)
def test_missing_root(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"data.root=.*/away: there is no such folder; .*(unpack|put)"):
        read(name, tmp_path / "away")


@pytest.mark.parametrize(
    "name, index",
    [
        ("cub200", "CUB_200_2011/train_test_split.txt"),
        ("stanford_cars", "stanford_cars/cars_test_annos_withlabels.mat"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt"),
        ("stanford_dogs", "test_list.mat"),
        ("oxford_pets", "oxford-iiit-pet/annotations/test.txt"),
    ],
)
def test_missing_list(tree, name, index):
    root = tree(name)
    with (
        edited(root / index, None),
        pytest.raises(FileNotFoundError, match=rf"lacks .*{index.rpartition('/')[2]} of {name}; .*(unpack|put) .*http"),
    ):
        read(name, root)


@pytest.mark.parametrize("name", COUNTS)
def test_missing_pictures_are_named_and_counted(tree, name):
    root = tree(name)
    data = read(name, root)
    gone, also = data.train[0].picture, data.test[-1].picture
    with (
        edited(gone, None),
        edited(also, None),
        pytest.raises(FileNotFoundError, match=rf"^2 of \d+ files of {name} are missing: {gone}, {also}; "),
    ):
        read(name, root, fraction=0.15)


@pytest.mark.parametrize("name", COUNTS)
def test_pictures_that_no_list_names(tree, name):
    root = tree(name)
    stray = read(name, root).train[0].picture.with_name("stray.jpg")
    os.link(root / "tiny.jpg", stray)
    try:
        if name == "oxford_pets":  # whose archive holds some itself
            read(name, root)
        else:
            with pytest.raises(ValueError, match=rf"1 pictures in .* are in no list of {name}: {stray}; "):
                read(name, root)
    finally:
        stray.unlink()


def test_missing_trimap(tree):
    root = tree("oxford_pets")
    gone = read("oxford_pets", root).test[0].mask
    with edited(gone, None), pytest.raises(FileNotFoundError, match=rf"^1 of 14698 files .* missing: {gone}; "):
        read("oxford_pets", root)


def drop_last(text):
    return b"".join(text.splitlines(keepends=True)[:-1])


def repeat_last(text):
    return text + text.splitlines(keepends=True)[-1]


def second_twice(text):
    lines = text.splitlines(keepends=True)
    return b"".join([lines[1], *lines[1:]])


PETS_TEST, AIRCRAFT_TRAIN = (
    "oxford-iiit-pet/annotations/test.txt",
    "fgvc-aircraft-2013b/data/images_variant_trainval.txt",
)


@pytest.mark.parametrize(
    "name, index, change, message",
    [
        ("oxford_pets", PETS_TEST, drop_last, r"lists 3668 test pictures, oxford_pets has 3669; "),
        ("oxford_pets", PETS_TEST, repeat_last, r"lists 3670 test pictures, oxford_pets has 3669; "),
        ("oxford_pets", PETS_TEST, second_twice, r"lists american_bulldog1_test1\.jpg 2 times; restore"),
        ("oxford_pets", PETS_TEST, lambda text: b"a 38 1 1\n" + text, r"test\.txt: class '38', where .* has 1 to 37; "),
        ("oxford_pets", PETS_TEST, lambda text: b"a x 1 1\n" + text, r"test\.txt: class 'x', where"),
        ("oxford_pets", PETS_TEST, lambda text: b"a 3\n" + text, r"test\.txt:1: 'a 3' has fewer than 4 columns; "),
        ("fgvc_aircraft", AIRCRAFT_TRAIN, drop_last, r"lists 6666 training pictures, fgvc_aircraft has 6667; "),
        ("fgvc_aircraft", AIRCRAFT_TRAIN, lambda text: b"1 B 1\n" + text, r"trainval\.txt: 1 is 'B 1', which"),
        ("cub200", "CUB_200_2011/images.txt", drop_last, r"lists 5793 test pictures, cub200 has 5794; .*\.tgz"),
        ("cub200", "CUB_200_2011/classes.txt", drop_last, r"lists 199 classes, cub200 has 200; "),
        ("cub200", "CUB_200_2011/image_class_labels.txt", drop_last, r"class_labels\.txt: no line for image 11788, 1"),
        ("cub200", "CUB_200_2011/train_test_split.txt", drop_last, r"test_split\.txt: no line for image 11788, 1"),
        ("stanford_dogs", "test_list.mat", lambda _: b"MATLAB", r"test_list\.mat: not readable as a MATLAB file"),
    ],
)  # fmt: skip
def test_a_changed_list(tree, name, index, change, message):
    root = tree(name)
    with edited(root / index, change), pytest.raises(ValueError, match=message):
        read(name, root)


def test_a_stray_dog(tree):
    """Lists of other origin name one picture more."""
    root = tree("stanford_dogs")
    train = read("stanford_dogs", root).train
    files, labels = [each.name for each in train], [each.label + 1 for each in train]
    path = root / "train_list.mat"
    with edited(path, lambda before: before):
        savemat(
            path, {"file_list": np.array([*files, "n00000000-Maltese_dog-0/b.jpg"], object), "labels": [*labels, 1]}
        )
        with pytest.raises(ValueError, match=r"lists 12001 training pictures, stanford_dogs has 12000; .*lists\.tar"):
            read("stanford_dogs", root)
        savemat(path, {"file_list": np.array(files, object), "labels": labels[1:]})
        with pytest.raises(ValueError, match=r"train_list\.mat: 12000 files, 11999 labels"):
            read("stanford_dogs", root)
        savemat(path, {"labels": labels})
        with pytest.raises(ValueError, match=r"train_list\.mat: holds no variable 'file_list'"):
            read("stanford_dogs", root)


def test_cars_without_test_labels(tree):
    path = tree("stanford_cars") / "stanford_cars/cars_test_annos_withlabels.mat"
    unlabelled = np.array([[("1.jpg",)]], dtype=[("fname", object)])
    with edited(path, lambda before: before):
        savemat(path, {"annotations": unlabelled})
        with pytest.raises(ValueError, match=r"withlabels\.mat: its annotations lack 'class'"):
            read("stanford_cars", tree("stanford_cars"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fraction": 0.0}, r"data\.fraction=0\.0 "),
        ({"validation_share": 1.0}, r"data\.validation_share=1\.0 "),
        ({"seed": -1}, r"data\.seed=-1"),
    ],
)
def test_bad_arguments(tree, change, message):
    with pytest.raises(ValueError, match=message):
        read("oxford_pets", tree("oxford_pets"), **change)


# ---- download


@pytest.mark.parametrize("name, of", [("oxford_pets", "OxfordIIITPet"), ("fgvc_aircraft", "FGVCAircraft")])
def test_download_only_what_is_not_there(tree, tmp_path, monkeypatch, name, of):
    asked = []

    def offline(root, *, download):
        asked.append((root, download))
        raise OSError("no route to host")

    monkeypatch.setattr(f"torchvision.datasets.{of}", offline)
    read(name, tree(name), download=True)
    [folder] = [path for path in tree(name).iterdir() if path.is_dir()]
    read(name, folder, download=True)
    with pytest.raises(FileNotFoundError, match=r"set data\.download=true"):
        read(name, tmp_path, download=False)
    assert not asked
    with pytest.raises(OSError, match=rf"{name}: the download failed \(no route to host\); .*unpack"):
        read(name, tmp_path, download=True)
    assert asked == [(tmp_path, True)]
    (tmp_path / folder.name).mkdir()  # what an interrupted download leaves
    with pytest.raises(FileNotFoundError, match=rf"first remove an incomplete {folder.name}"):
        read(name, tmp_path, download=True)
