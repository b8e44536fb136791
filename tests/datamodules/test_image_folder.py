import pytest
import yaml
from PIL import Image

from datamodules.image_folder import image_folder
from tests.tiny import PHOTOS, ROOT


def saved(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)


@pytest.fixture
def root(tmp_path):
    for folder, count in (("n01-cat", 5), ("n02-dog", 10), (".hidden", 1)):
        for index in range(count):
            saved(tmp_path / "pets" / folder / f"{index}.jpg")
    return tmp_path / "pets"


def folders(root, **changes):
    node = yaml.safe_load((ROOT / "conf/data/image_folder.yaml").read_text())
    assert node.pop("_target_") == "datamodules.image_folder.image_folder"
    return image_folder(**node | {"root": str(root)} | changes)


def test_a_folder_is_a_class(root):
    data = folders(root)
    assert (data.name, data.classes) == ("pets", ("n01-cat", "n02-dog"))
    assert [sum(each.label == label for each in data.test) for label in (0, 1)] == [2, 3]
    assert [sum(each.label == label for each in data.train) for label in (0, 1)] == [3, 7]
    assert {each.name for each in (*data.train, *data.test)} == {
        *(f"n01-cat/{i}.jpg" for i in range(5)), *(f"n02-dog/{i}.jpg" for i in range(10))
    }  # fmt: skip
    assert all(each.name.startswith(data.classes[each.label]) for each in data.train)


def test_the_test_pictures_do_not_depend_on_the_fraction(root):
    whole, part = folders(root, validation_share=0.2), folders(root, fraction=0.4)
    assert whole.test == part.test and len(whole.validation) == 1 + 2
    assert {*part.train} < {*whole.train, *whole.validation}
    assert folders(root, seed=1).test == whole.test != folders(root, test_seed=1).test


def test_class_names(root):
    assert folders(root, class_names={"n02-dog": "dog"}).classes == ("n01-cat", "dog")
    for index in range(2):
        saved(root / "n03-dog" / f"{index}.jpg")
    merged = folders(root, class_names={"n02-dog": "dog", "n03-dog": "dog", "n01-cat": "cat"})
    assert merged.classes == ("cat", "dog") and sum(each.label for each in merged.test) == 4  # of 12


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"class_names": {"n09": "owl"}}, "data.class_names: .*/pets has no folder n09"),
        ({"classes": "subject"}, "data.classes='subject': set it to folder or dreambooth"),
        ({"classes": "dreambooth", "class_names": {"n02-dog": "dog"}}, "with dreambooth leave it null"),
        ({"test_share": 0.0}, "data.test_share=0.0"),
        ({"test_share": 1.0}, "data.test_share=1.0"),
        ({"fraction": 1.5}, "data.fraction=1.5"),
        ({"validation_share": 1.0}, "data.validation_share=1.0"),
    ],
)
def test_bad_image_folder_arguments(root, changes, message):
    with pytest.raises(ValueError, match=message):
        folders(root, **changes)


def test_bad_image_folders(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*/away: there is no such folder"):
        folders(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"prompts_and_classes\.txt is not there"):
        folders(root, classes="dreambooth")
    with pytest.raises(ValueError, match=r"n02-dog: 0 classes \(\); at least 2"):
        folders(root / "n02-dog")
    saved(root / "lone" / "0.jpg")
    with pytest.raises(ValueError, match="class 'lone' has 1 picture"):
        folders(root)
    (root / "lone/0.jpg").unlink()
    with pytest.raises(ValueError, match="lone: no readable picture"):
        folders(root)


def test_a_subject_without_a_row(root):
    (root / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nn01-cat,cat\n\nPrompts\n\nObject Prompts\n\nprompt_list = [\n"
        "'a {0} {1}'.format(unique_token, class_token)\n]\n\nLive Subject Prompts\n\nprompt_list = [\n"
        "'a {0} {1}'.format(unique_token, class_token)\n]\n"
    )
    with pytest.raises(ValueError, match=r"prompts_and_classes\.txt: no row for the folders n02-dog"):
        folders(root, classes="dreambooth")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"{PHOTOS} is absent")
def test_dreambooth_subjects_share_classes():
    data = folders(PHOTOS, classes="dreambooth")
    dogs = data.classes.index("dog")
    shown = {each.name.split("/")[0] for each in (*data.train, *data.test) if each.label == dogs}
    assert shown == {path.name for path in PHOTOS.glob("dog*")} and len(shown) > 1
    assert {each.label for each in data.test} == set(range(len(data.classes)))
    assert "stuffed animal" in data.classes and len(set(data.classes)) == len(data.classes)
