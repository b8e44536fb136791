"""What the command line refuses: one clear line, a non-zero exit, and before torch is imported."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs import train
from tests.tiny import ROOT

GOOD_FOLDER = ["data=folder", "data.class_word=dog"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def run_py(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python run.py <overrides>` where importing torch, which takes the time, is an error of its own."""
    given = any(each.startswith("hydra.run.dir=") for each in overrides)
    run_dir = [] if given else [f"hydra.run.dir={tmp_path}/run"]
    guard = tmp_path / "guard"
    guard.mkdir(exist_ok=True)
    (guard / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, "run.py", *run_dir, "logger=csv", *overrides],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(guard)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Non-zero exit, and one line that holds all `words`; a second one may say how to see more."""
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.stderr and len(lines) <= 5, result.stderr
    assert "torch was imported" not in result.stderr
    text = " ".join(lines)
    assert all(word in text for word in words), result.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.foo=1", ["data.foo"]),
        ("+data.foo=1", ["foo"]),
        ("+foo=1", ["foo"]),
        ("+module.foo=1", ["module.foo", "augmentation"]),
        ("+module.augmentation.foo=1", ["module.augmentation.foo", "max_zoom"]),
        ("+model.foo=1", ["model.foo"]),
        ("+adapter.foo=1", ["adapter.foo", "rank"]),
        ("+datamodule.foo=1", ["datamodule.foo"]),
        ("+regularizer.denoising.foo=1", ["regularizer.denoising.foo", "weight"]),
        ("+evaluation.foo=1", ["evaluation.foo"]),
        ("trainer.max_stepz=1", ["trainer.max_stepz"]),
        ("task=train", ["task=train", "fit", "evaluate", "sample"]),
        ("task=sample", ["run="]),
        ("run=somewhere", ["run=somewhere belongs to task=sample or task=evaluate"]),
        ("prompts=[a]", ["prompts=['a'] belongs to task=sample"]),
        ("task=evaluate run=somewhere prompts=[a]", ["prompts=['a'] belongs to task=sample"]),
        ("task=evaluate", ["run="]),
        ("experiment=nothing", ["nothing", "dreambooth"]),
        ("data.subject=nothing", ["nothing", "heart_face"]),
        ("model.pretrained=no/such/folder", ["no/such/folder"]),
        ("token=learned +token.foo=1", ["token.foo", "num_vectors"]),
        ("token=learned token.num_vectors=0", ["token.num_vectors=0"]),
        ("token=learned token.placeholder=sks", ["token.placeholder", "already"]),
        ("token=learned token.initializer=elephant", ["token.initializer", "tokens"]),
        ("token=learned +token.others.style.class_word=flat", ["token.others.style", "in no training prompt"]),
        ("adapter=none", ["adapter=none trains nothing"]),
        ("ckpt_path=/no/such.ckpt", ["/no/such.ckpt"]),
        ("run=/no/such/run task=sample", ["/no/such/run", "config.yaml"]),
    ],
)
def test_a_wrong_key_or_value_is_refused(tmp_path, override, words):
    result = run_py(tmp_path, *override.split())
    assert result.returncode != 0
    assert "torch was imported" not in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("guidance_scale=1.5", "did you mean guidance.guidance_scale?"),
        ("cfg_scale=1.5", "did you mean guidance.guidance_scale?"),
        ("evaluation.guidance_scale=1.5", "did you mean guidance.guidance_scale?"),
        ("guidance.w=1.5", "takes guidance_scale"),
        ("guidance.scale=1.5", "takes guidance_scale"),
        ("lr=1", "did you mean optimizer.lr?"),
        ("trainer.max_stepz=1", "did you mean trainer.max_steps?"),
        ("trainer=none", "Available options in 'trainer': default"),
        ("optimizer.foo=1", "optimizer has lr, weight_decay"),
        ("data.root=my photos (1)", "\"data.root='/my photos'\""),
        ("data.root=a=b", "\"data.root='/my photos'\""),
    ],
)
def test_what_was_meant_is_said(tmp_path, override, meant):
    assert_refused(run_py(tmp_path, override), meant)


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of all below `folder`, itself included."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


REFUSED = {
    "a bad key": ["+data.foo=1"],
    "a key that Hydra refuses": ["data.foo=1"],
    "a bad model folder": ["model.pretrained=no/such/folder"],
    "a bad task": ["task=train"],
    "a bad run": ["task=sample", "run=/no/such"],
    "nothing wrong but the folder": [],
}


@pytest.mark.parametrize("overrides", REFUSED.values(), ids=REFUSED)
def test_a_refused_run_leaves_a_run_s_folder_as_it_was(tmp_path, overrides):
    run_dir = tmp_path / "run"
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra/overrides.yaml").write_text("- seed=1")
    (run_dir / "config.yaml").write_text("name: earlier")
    before = state(run_dir)
    assert_refused(run_py(tmp_path, *overrides), "error: ")
    assert state(run_dir) == before


@pytest.mark.parametrize("overrides", list(REFUSED.values())[:-1], ids=list(REFUSED)[:-1])
def test_a_refused_run_makes_no_folder_and_removes_none(tmp_path, overrides):
    (tmp_path / "mine").mkdir()
    assert_refused(run_py(tmp_path, *overrides, f"hydra.run.dir={tmp_path}/a/b/run"), "error: ")
    assert not (tmp_path / "a").exists()
    assert_refused(run_py(tmp_path, *overrides, f"hydra.run.dir={tmp_path}/mine"), "error: ")
    assert (tmp_path / "mine").is_dir()


def test_a_path_with_everything_in_it(monkeypatch, tiny_sd, tmp_path, photos):
    odd = photos.rename(tmp_path / "my photos (1), a=b")
    run_dir = tmp_path / "a run (2), c=d"
    train(monkeypatch, tiny_sd, run_dir, "experiment=dreambooth", *GOOD_FOLDER, f"data.root='{odd}'", steps=1)
    assert (run_dir / "checkpoints/last.ckpt").is_file()


def test_help_has_the_groups_and_ten_commands():
    result = subprocess.run([sys.executable, "run.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = result.stdout.splitlines()
    commands = [line for line in lines if line.startswith("  holdfast ")]
    assert len(commands) == 10
    experiments = next(line for line in lines if line.startswith("experiment: "))
    named = {each for line in commands for each in re.findall(r"experiment=([\w,]+)", line)}
    assert {each for names in named for each in names.split(",")} <= set(experiments.split(": ")[1].split(", "))


def test_a_missing_folder(tmp_path):
    assert_refused(run_py(tmp_path, *GOOD_FOLDER, "data.root=/no/such/folder"), "/no/such/folder", "data.root")


def test_a_missing_dataset(tmp_path):
    result = run_py(tmp_path, "data=dreambooth", "data.root=/no/such", "data.subject=dog")
    assert_refused(result, "/no/such", "data.root")


def test_a_folder_without_a_readable_picture(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("no picture")
    assert_refused(run_py(tmp_path, *GOOD_FOLDER, f"data.root={folder}"), str(folder), "no readable picture")


def test_a_broken_picture_among_good_ones(tmp_path, photos):
    (photos / "broken.png").write_bytes((photos / "0.png").read_bytes()[:200])
    result = run_py(tmp_path, *GOOD_FOLDER, f"data.root={photos}")
    assert_refused(result, "broken.png", "data.skip_broken=true")


def test_a_prompt_without_the_class_word(tmp_path, photos):
    result = run_py(tmp_path, *GOOD_FOLDER, f"data.root={photos}", "data.instance_prompt=a photo of sks cat")
    assert_refused(result, "lacks the class word", "dog", "a photo of sks cat")


@pytest.mark.parametrize("part", ["model_index.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_a_model_folder_that_lacks_a_part(tmp_path, tiny_sd, part):
    model = tmp_path / "model"
    shutil.copytree(tiny_sd, model)
    (model / part).unlink()
    assert_refused(run_py(tmp_path, f"model.pretrained={model}"), part.split("/")[0], "model.pretrained")


def test_a_model_folder_without_its_vocabulary(tmp_path, tiny_sd):
    model = tmp_path / "model"
    shutil.copytree(tiny_sd, model)
    for name in ("tokenizer.json", "vocab.json"):
        (model / "tokenizer" / name).unlink(missing_ok=True)
    assert_refused(run_py(tmp_path, f"model.pretrained={model}"), "tokenizer/vocab.json", "model.pretrained")


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", None])
def test_weights_that_are_cut_off_or_a_pointer(tmp_path, tiny_sd, content):
    model = tmp_path / "model"
    shutil.copytree(tiny_sd, model)
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(content or weights.read_bytes()[:-10])
    assert_refused(run_py(tmp_path, f"model.pretrained={model}"), "unet", "no whole safetensors file")


def test_a_model_index_that_is_no_mapping(tmp_path, tiny_sd):
    model = tmp_path / "model"
    shutil.copytree(tiny_sd, model)
    (model / "model_index.json").write_text("[]")
    assert_refused(run_py(tmp_path, f"model.pretrained={model}"), "model_index.json", "no mapping")


@pytest.mark.parametrize(
    ("broken", "content", "words"),
    [
        (".", None, ["no such folder"]),
        ("config.json", None, ["lacks config.json"]),
        ("config.json", b"{", ["config.json", "no JSON"]),
        ("config.json", b"[]", ["config.json", "widths"]),
        ("model.safetensors", None, ["lacks model.safetensors"]),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1", ["no whole safetensors file"]),
    ],
)
def test_a_judge_that_is_missing_or_broken(tmp_path, broken, content, words):
    judge = tmp_path / "judge"
    if broken != ".":
        shutil.copytree(ROOT / "assets/sprites-judge", judge)
        (judge / broken).unlink()
    if content is not None:
        (judge / broken).write_bytes(content)
    assert_refused(run_py(tmp_path, f"evaluation.judge={judge}"), str(judge), "evaluation.judge", *words)


def test_an_identity_that_is_missing(tmp_path):
    assert_refused(run_py(tmp_path, f"evaluation.identity={tmp_path}"), "evaluation.identity", "lacks config.json")


@pytest.mark.parametrize(
    ("broken", "content", "words"),
    [
        ("identity/config.json", b"{}", ["identity/config.json", "vit and layers"]),
        ("sprites-vit", None, ["sprites-vit", "lacks config.json"]),
        ("sprites-vit/model.safetensors", None, ["sprites-vit", "lacks model.safetensors"]),
        ("sprites-vit/model.safetensors", b"version https://git-lfs.github.com", ["no whole safetensors file"]),
    ],
)
def test_an_identity_whose_vit_is_missing_or_broken(tmp_path, broken, content, words):
    shutil.copytree(ROOT / "assets/sprites-identity", tmp_path / "identity")
    if broken != "sprites-vit":
        shutil.copytree(ROOT / "assets/sprites-vit", tmp_path / "sprites-vit")
        (tmp_path / broken).unlink()
    if content is not None:
        (tmp_path / broken).write_bytes(content)
    assert_refused(run_py(tmp_path, f"evaluation.identity={tmp_path / 'identity'}"), "evaluation.identity", *words)


def test_a_metric_whose_weights_the_hub_cannot_give(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    result = run_py(tmp_path, "evaluation/metrics=[dino]")
    assert_refused(result, "evaluation.metrics.dino", "dino_vits16", "HF_HUB_OFFLINE", "hf download timm/")
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_required_value_is_named(tmp_path):
    result = run_py(tmp_path, "data=folder", "data.class_word=dog")
    assert_refused(result, "data.root is not set")


def assert_warned(action: Callable[[], object], pattern: str) -> None:
    """`pytest.warns` would raise again what Lightning warns of, out of reach of the filters by module."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    assert any(re.search(pattern, str(each.message)) for each in caught), [str(each.message) for each in caught]


def test_a_broken_picture_can_be_skipped(monkeypatch, tiny_sd, tmp_path, photos):
    (photos / "broken.png").write_bytes((photos / "0.png").read_bytes()[:200])
    overrides = ["experiment=dreambooth", *GOOD_FOLDER, f"data.root='{photos}'", "data.skip_broken=true"]
    assert_warned(lambda: train(monkeypatch, tiny_sd, tmp_path / "run", *overrides), r"skipped broken\.png")
    assert (tmp_path / "run/adapter/pytorch_lora_weights.safetensors").is_file()


def test_an_identifier_of_several_tokens_is_warned_about(monkeypatch, tiny_sd, tmp_path):
    overrides = ["experiment=dreambooth", "data.identifier=xqzv"]
    pattern = r"'xqzv' is \d tokens.*data\.identifier=sks"
    assert_warned(lambda: train(monkeypatch, tiny_sd, tmp_path / "run", *overrides), pattern)


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch, tiny_sd, tmp_path):
    with pytest.raises(FloatingPointError, match=r"step \d+, t .*pictures"):
        train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", "optimizer.lr=1e30", steps=8)


def test_a_caption_that_the_text_encoder_would_cut_off_is_refused(monkeypatch, tiny_sd, tmp_path):
    prompt = "a photo of a {identifier} {class_word}" + " on the left" * 40
    with pytest.raises(ValueError, match=r"has \d+ tokens, \d+ are read"):
        train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", f"data.instance_prompt='{prompt}'")
