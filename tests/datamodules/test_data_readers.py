import inspect
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.captions import read_captions
from datamodules.dreambooth import LIVE_CLASSES, dreambooth, read_prompt_table
from datamodules.folder import folder
from datamodules.pictures import hold_out, picture_files, read_pictures
from datamodules.subject import prompt_pair

ROOT = Path(__file__).parents[2]
DATASET = Path(__file__).parents[3] / "shared/data/dreambooth/dataset"
READERS = {"dreambooth": dreambooth, "folder": folder}
needs_dataset = pytest.mark.skipif(not DATASET.is_dir(), reason=f"{DATASET} is absent")


def save(path, colour="red", **options):
    Image.new("RGB", (8, 6), colour).save(path, **options)
    return path


@pytest.fixture
def dogs(tmp_path):
    where = tmp_path / "my dogs"
    where.mkdir()
    for name in ("1.png", "2.jpg", "10.PNG"):
        save(where / name)
    return where


@pytest.fixture
def settings(dogs):
    return {
        "root": str(dogs),
        "instance_prompt": "a photo of {identifier} {class_word}",
        "class_word": "dog",
        "identifier": "sks",
        "replaces_class_word": False,
        "evaluation_prompts": ["a {identifier} {class_word} in the snow"],
        "num_heldout": 0,
        "skip_broken": False,
    }


@pytest.fixture
def small_dataset(tmp_path):
    (tmp_path / "bear").mkdir()
    for index in range(3):
        save(tmp_path / "bear" / f"{index:02}.jpg")
    (tmp_path / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nbear,stuffed animal\ncan,can\n\nPrompts\n\nObject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} on water'.format(unique_token, class_token)\n]\n\nLive Subject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} in a hat'.format(unique_token, class_token),\n"
        "'a red {0} {1}'.format(unique_token, class_token)\n]\n"
    )
    return tmp_path


def dreambooth_of(root, subject, **changes):
    defaults = yaml.safe_load((ROOT / "conf/data/dreambooth.yaml").read_text())
    del defaults["_target_"]
    return dreambooth(**defaults | {"root": str(root), "subject": subject} | changes)


# ---- pictures


def test_pictures_come_in_natural_order_and_only_by_suffix(dogs):
    for stray in ("notes.md", "._1.png"):
        (dogs / stray).write_text("no picture")
    (dogs / "3.png").mkdir()
    for name in ("11.webp", "12.bmp", "13.jpeg"):
        save(dogs / name)
    names = [path.name for path, _ in read_pictures(dogs, skip_broken=False)]
    assert names == ["1.png", "2.jpg", "10.PNG", "11.webp", "12.bmp", "13.jpeg"]


@pytest.mark.parametrize("mode, colour", [("L", 255), ("P", 255), ("CMYK", (0, 0, 0, 0)), ("1", 1)])
def test_every_mode_becomes_rgb(tmp_path, mode, colour):
    image = Image.new(mode, (4, 4), colour)
    if mode == "P":
        image.putpalette([255] * 768)
    image.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    [(_, read)] = read_pictures(tmp_path, skip_broken=False)
    assert read.mode == "RGB"
    assert np.asarray(read).min() >= 254


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 51))  # a fifth of black on white: 255 * 0.8
    image.save(tmp_path / "a.png")
    [(_, read)] = read_pictures(tmp_path, skip_broken=False)
    assert [read.getpixel((0, 0)), read.getpixel((1, 0))] == [(255, 255, 255), (204, 204, 204)]


@pytest.mark.parametrize("mode, colour", [("P", 3), ("L", 3), ("RGB", (3, 3, 3))])
def test_a_colour_declared_transparent_is_white(tmp_path, mode, colour):
    image = Image.new(mode, (2, 2), colour)
    if mode == "P":
        image.putpalette([9] * 768)
    image.save(tmp_path / "a.png", transparency=colour)
    [(_, read)] = read_pictures(tmp_path, skip_broken=False)
    assert read.getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (2, 3))
    image.putpixel((0, 2), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: turn clockwise to show
    image.save(tmp_path / "a.png", exif=exif)
    [(_, read)] = read_pictures(tmp_path, skip_broken=False)
    assert read.size == (3, 2)
    assert read.getpixel((0, 0)) == (255, 0, 0)


def test_the_file_may_vanish_once_read(dogs):
    pictures = read_pictures(dogs, skip_broken=False)
    for path, _ in pictures:
        path.unlink()
    assert pictures[0][1].getpixel((0, 0)) == (255, 0, 0)


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such folder; set data\.root"):
        read_pictures(tmp_path / "nowhere", skip_broken=True)
    with pytest.raises(ValueError, match=r"a\.png: this is a file; set data\.root"):
        read_pictures(save(tmp_path / "a.png"), skip_broken=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no readable picture, .*\.webp, \.bmp; .*data.root"):
        read_pictures(tmp_path / "empty", skip_broken=True)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def _garble(path):
    path.write_bytes(b"this is no picture")


def _deepen(path):
    Image.new("I;16", (4, 4), 40000).save(path, "PNG")


@pytest.mark.parametrize("damage, reason", [(_truncate, ""), (_garble, "not an image"), (_deepen, "more than 8 bits")])
@pytest.mark.parametrize("name", ["1.png", "2.jpg"])
def test_a_broken_picture_is_named_or_skipped_with_a_warning(dogs, name, damage, reason):
    damage(dogs / name)
    with pytest.raises(ValueError, match=rf"cannot read {name} \(.*{reason}.*data\.skip_broken=true") as error:
        read_pictures(dogs, skip_broken=False)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match=f"skipped {name}") as caught:
        pictures = read_pictures(dogs, skip_broken=True)
    assert len(caught) == 1
    assert [path.name for path, _ in pictures] == [each for each in ("1.png", "2.jpg", "10.PNG") if each != name]


def test_nothing_but_broken_pictures_is_refused_even_when_skipping(dogs):
    for path in picture_files(dogs):
        _garble(path)
    with pytest.raises(ValueError, match=r"no readable picture, only 1\.png \(not an image\), 2\.jpg"):
        read_pictures(dogs, skip_broken=True)


def test_good_pictures_are_read_without_warnings(dogs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_pictures(dogs, skip_broken=True)) == 3


@pytest.mark.parametrize("num_heldout", [0, 1, 3])
def test_the_last_are_held_out_and_none_is_lost(num_heldout):
    train, heldout = hold_out("abcd", num_heldout=num_heldout, source=Path("x"))
    assert train + heldout == tuple("abcd")
    assert len(heldout) == num_heldout


@pytest.mark.parametrize("num_heldout", [-1, 4, 5])
def test_holding_out_must_leave_one_to_train_on(num_heldout):
    with pytest.raises(ValueError, match=rf"my/dir: data\.num_heldout={num_heldout} of 4 .* hold out 0 to 3"):
        hold_out("abcd", num_heldout=num_heldout, source=Path("my/dir"))


# ---- captions


def write_captions(where, source, captions):
    if source == "txt":
        for name, text in captions.items():
            (where / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    elif source == "json":
        (where / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    else:
        lines = [json.dumps({"file_name": name, source: text, "other": [1]}) for name, text in captions.items()]
        (where / "metadata.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("source", ["txt", "json", "text", "prompt"])
def test_every_source_gives_the_same_captions(dogs, source):
    write_captions(dogs, source, {"1.png": "a  red\u2028sks\tdog", "10.PNG": "sks dog à la plage"})
    assert read_captions(dogs) == {"1.png": "a red sks dog", "10.PNG": "sks dog à la plage"}


def test_no_captions_is_no_error(dogs):
    assert read_captions(dogs) == {}


def test_sources_may_agree_and_complete_one_another(dogs):
    write_captions(dogs, "txt", {"1.png": "one"})
    write_captions(dogs, "json", {"1.png": "one", "2.jpg": "two"})
    write_captions(dogs, "text", {"10.PNG": "ten"})
    assert read_captions(dogs) == {"1.png": "one", "2.jpg": "two", "10.PNG": "ten"}


@pytest.mark.parametrize("first, second", [("txt", "json"), ("txt", "text"), ("prompt", "json")])
def test_sources_that_disagree_are_refused(dogs, first, second):
    write_captions(dogs, first, {"1.png": "one"})
    write_captions(dogs, second, {"1.png": "another"})
    with pytest.raises(ValueError, match=r"'another' of 1\.png differs from 'one' in|'one' of 1\.png differs from"):
        read_captions(dogs)


@pytest.mark.parametrize("source", ["txt", "json", "text"])
def test_a_caption_without_its_picture_is_refused(dogs, source):
    write_captions(dogs, source, {"7.png": "lost"})
    with pytest.raises(
        ValueError, match=r"7\.txt: a caption for no picture|a caption for '7\.png', which is no picture"
    ):
        read_captions(dogs)


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "1.png", "text": "one"',
        '["1.png", "one"]',
        '{"file_name": "1.png"}',
        '{"text": "one"}',
        '{"file_name": "1.png", "text": 3}',
        '{"file_name": "1.png", "text": "one", "text": "two"}',
        '{"file_name": "2.jpg", "text": "another"}',
        '{"file_name": "1.png", "text": "one", "prompt": "two"}',
    ],
)
def test_a_malformed_line_is_named_by_its_number(dogs, line):
    good = '{"file_name": "2.jpg", "text": "two"}'
    (dogs / "metadata.jsonl").write_text(f"{good}\n\n{line}\n")
    with pytest.raises(ValueError, match=r"metadata\.jsonl:3: "):
        read_captions(dogs)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", r"captions\.json: a JSON object"),
        ('{"1.png": 1}', r"captions\.json: the caption of '1\.png' is 1"),
        ('{"1.png": "a", "1.png": "b"}', r"captions\.json: '1\.png' stands twice"),
        ('{\n"1.png" "a"}', r"captions\.json: not valid JSON .*line 2, column 9"),
    ],
)
def test_malformed_captions_json_is_refused(dogs, text, message):
    (dogs / "captions.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_captions(dogs)


def test_captions_are_utf8_with_or_without_byte_order_mark(dogs):
    (dogs / "1.txt").write_bytes(b"\xef\xbb\xbfa caf\xc3\xa9")
    assert read_captions(dogs) == {"1.png": "a café"}
    (dogs / "1.txt").write_bytes(b"a caf\xe9")
    with pytest.raises(ValueError, match=r"1\.txt: not UTF-8 .* at byte 5"):
        read_captions(dogs)


# ---- a folder as subject


def test_a_folder_is_a_subject(settings):
    subject = folder(**settings | {"num_heldout": 1})
    assert (subject.name, subject.class_prompt) == ("my dogs", "a photo of dog")
    assert [picture.name for picture in subject.train] == ["1.png", "2.jpg"]
    assert [picture.name for picture in subject.heldout] == ["10.PNG"]
    assert {picture.prompts.instance for picture in subject.train} == {"a photo of sks dog"}
    assert [each.prior for each in subject.evaluation_prompts] == ["a dog in the snow"]


def test_captions_replace_the_instance_prompt_where_present(settings, dogs):
    write_captions(dogs, "txt", {"2.jpg": "sks dog asleep", "10.PNG": "a {identifier} {class_word} at sea"})
    subject = folder(**settings)
    assert [picture.prompts.instance for picture in subject.train] == [
        "a photo of sks dog",
        "sks dog asleep",
        "a sks dog at sea",
    ]
    assert [picture.prompts.prior for picture in subject.train] == ["a photo of dog", "dog asleep", "a dog at sea"]
    assert subject.class_prompt == "a photo of dog"


@pytest.mark.parametrize("caption, lack", [("a sks cat", "class word 'dog'"), ("a dog", "identifier 'sks'"), ("", "")])
def test_a_caption_needs_class_word_and_identifier(settings, dogs, caption, lack):
    write_captions(dogs, "json", {"2.jpg": caption})
    with pytest.raises(ValueError, match=rf"2\.jpg: prompt {caption!r} lacks the {lack}"):
        folder(**settings)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"evaluation_prompts": ["a {identifier} {class_word}", "a dog"]},
            r"data\.evaluation_prompts\[1\]: .*identifier",
        ),
        ({"instance_prompt": "a {token} dog"}, r"data\.instance_prompt: .*only \{identifier\}"),
        ({"identifier": ""}, "lacks the identifier ''"),
        ({"class_word": " "}, "lacks the class word ' '"),
        ({"identifier": "Dog"}, "'Dog' is a part of the class word 'dog'"),
        ({"num_heldout": 3}, "hold out 0 to 2"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_the_key(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        folder(**settings | changes)


def test_the_current_folder_has_a_name(settings, dogs, monkeypatch):
    monkeypatch.chdir(dogs)
    assert folder(**settings | {"root": "."}).name == "my dogs"


@pytest.mark.parametrize(
    "template", ["a {identifier.x} dog", "a {identifier[x]} dog", "a {0} dog", "a {identifier dog"]
)
def test_a_strange_placeholder_is_a_value_error(template):
    with pytest.raises(ValueError, match="may stand in braces"):
        prompt_pair(template, identifier="sks", class_word="dog", replaces_class_word=False)


# ---- the DreamBooth dataset


def test_a_subject_of_the_layout(small_dataset):
    subject = dreambooth_of(small_dataset, "bear", num_heldout=1)
    assert (subject.name, subject.class_word, subject.class_prompt) == (
        "bear",
        "stuffed animal",
        "a photo of stuffed animal",
    )
    assert [len(subject.train), len(subject.heldout)] == [2, 1]
    assert [(each.instance, each.prior) for each in subject.evaluation_prompts] == [
        ("a sks stuffed animal on water", "a stuffed animal on water")
    ]


@pytest.mark.parametrize("subject, lack", [("wolf", "no row in"), ("can", "no folder in")])
def test_an_unknown_subject_lists_what_is_there(small_dataset, subject, lack):
    with pytest.raises(ValueError, match=rf"data\.subject='{subject}' has {lack} .*; set it to one of: bear$"):
        dreambooth_of(small_dataset, subject)


def test_a_root_without_the_table_is_refused(small_dataset):
    with pytest.raises(FileNotFoundError, match=r"prompts_and_classes\.txt is not there; set data\.root"):
        dreambooth_of(small_dataset / "bear", "bear")


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "'a {0} {1} on water'.format(unique_token, class_token)",
            "__import__('os').abort()",
            ":12: .* is not a prompt",
        ),
        ("'a red {0} {1}'", "'a red {1}'", ":19: .* is not a prompt"),
        ("bear,stuffed animal", "bear", ":4: 'bear' is not of the form"),
        ("Classes", "Klassen", ":1: 'Klassen' stands before any heading"),
        ("'a {0} {1} on water'.format(unique_token, class_token)", "", "nothing under the heading 'Object Prompts'"),
    ],
)
def test_a_malformed_table_is_refused_not_run(small_dataset, old, new, message):
    path = small_dataset / "prompts_and_classes.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_prompt_table(path)


@needs_dataset
def test_the_official_table():
    table = read_prompt_table(DATASET / "prompts_and_classes.txt")
    assert [len(table.classes), len(table.object_prompts), len(table.live_prompts)] == [30, 25, 25]
    assert sum(each in LIVE_CLASSES for each in table.classes.values()) == 9
    assert len(set(table.object_prompts) & set(table.live_prompts)) == 15
    assert table.live_prompts[0] == "a {identifier} {class_word} in the jungle"


@needs_dataset
def test_the_official_subjects():
    dog = dreambooth_of(DATASET, "dog")
    bear = dreambooth_of(DATASET, "bear_plushie", num_heldout=2)
    dog_prompts = {each.instance for each in dog.evaluation_prompts}
    assert "a sks dog in a chef outfit" in dog_prompts and len(dog_prompts) == 25
    assert "a stuffed animal floating in an ocean of milk" in {each.prior for each in bear.evaluation_prompts}
    assert bear.class_word == "stuffed animal"
    assert [picture.name for picture in dog.train] == [f"0{index}.jpg" for index in range(5)]
    assert [picture.name for picture in bear.heldout] == ["03.jpg", "04.jpg"]


# ---- configuration and cost


@pytest.mark.parametrize("name", READERS)
def test_the_node_lists_every_parameter_and_code_has_no_default(name):
    node = yaml.safe_load((ROOT / f"conf/data/{name}.yaml").read_text())
    assert node.pop("_target_") == f"datamodules.{name}.{name}"
    parameters = inspect.signature(READERS[name]).parameters
    assert set(node) == set(parameters)
    assert {each.kind for each in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {each.default for each in parameters.values()} == {inspect.Parameter.empty}


def test_the_default_evaluation_prompts_fit(dogs):
    hydra = pytest.importorskip("hydra")
    node = yaml.safe_load((ROOT / "conf/data/folder.yaml").read_text())
    subject = hydra.utils.instantiate(node, root=str(dogs), class_word="dog")
    assert len({each.instance for each in subject.evaluation_prompts}) == 8


def test_reading_imports_no_torch_and_refuses_at_once(tmp_path):
    code = (
        "import sys, datamodules.pictures, datamodules.captions, datamodules.dreambooth, datamodules.folder\n"
        "assert not {'torch', 'lightning', 'pytorch_lightning', 'torchvision'} & set(sys.modules)\n"
        f"datamodules.pictures.read_pictures(datamodules.pictures.Path({str(tmp_path)!r}), skip_broken=False)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "no readable picture" in done.stderr.splitlines()[-1]
    assert time.perf_counter() - began < 5  # a fraction of a second alone; torch's import costs more even here
