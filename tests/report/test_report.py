"""The report holds all it shows, shows text as text, and says what is missing."""

import base64
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.metrics_csv import MetricsCSV
from report.page import write_report
from report.plots import bin_curves, curve, smooth

EVIL = "</pre></title><script>alert('x')</script><img src=https://example.org/x>"


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def _picture(path: Path, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def _bare(folder: Path) -> Path:
    logger = MetricsCSV(folder)
    for step in range(30):
        logger.log_metrics({"loss/denoising": 1 / (step + 1), "lr": 1e-4}, step)
    logger.finalize("success")
    (folder / "config.yaml").write_text(f"prompt: {EVIL}\n")
    return folder


def _samples(folder: Path, entries: list) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "samples.json").write_text(json.dumps(entries))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A run folder with nothing but the two files that every run has."""
    return _bare(tmp_path)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return full_run(tmp_path)


def full_run(folder: Path) -> Path:
    """A run folder with everything, and with markup wherever a user may write."""
    _bare(folder)
    logger = MetricsCSV(folder, resume_step=30)
    logger.log_metrics({f"gamma/bin_{i:02d}": i / 10 for i in range(10)}, 30)
    logger.log_metrics({"heldout/relative_loss/bin_00": 1.1, "heldout/relative_loss/bin_09": math.nan}, 30)
    logger.log_metrics({"train/relative_loss/bin_00": 0.9, "train/prediction_difference": 0.05}, 30)
    logger.log_metrics({"train/gamma/bin_00": 0.2}, 30)
    logger.log_metrics({f"val/{EVIL}": 1.0}, 30)
    logger.finalize("success")
    _picture(folder / "references" / f"{EVIL.replace('/', '')}.png")
    _picture(folder / "references" / "heldout" / "00.png")
    entry = {"prompt": f"a sks {EVIL}", "prior_prompt": f"a {EVIL}", "base": [], "tuned": []}
    for model in ("base", "tuned"):
        for i in range(2):
            _picture(folder / "samples" / model / f"00-{i}.png")
            entry[model].append(f"{model}/00-{i}.png")
    _samples(folder, [entry])
    _picture(folder / "samples" / "trajectory" / "00.png", size=(960, 300))
    _picture(folder / "samples" / "token_attention" / "00.png", size=(1650, 330))
    _picture(folder / "samples" / "guidance_grid.png", size=(476, 600))
    _picture(folder / "samples" / "training.png", size=(612, 404))
    guidance = {"prompts": [EVIL], "effective_cfg_scale": [[7.5, 7.0, 6.5]], "cosine": [[0.1, 0.2, 0.3]]}
    (folder / "samples" / "guidance.json").write_text(json.dumps(guidance))
    grid = {"prompt": EVIL, "seed": 0, "rows": ["w_con=1"], "columns": ["s=1"], "own": [0, 0]}
    (folder / "samples" / "guidance_grid.json").write_text(json.dumps(grid))
    metric = {"tuned": 0.12345, "base": None, "reference": -1.0, "description": EVIL, "unknown": []}
    summary = {
        "experiment": EVIL,
        "subject": EVIL,
        "steps": 30,
        "seconds": {"fit": 3725.0, "evaluation": 75.0},
        "stopping": {"chosen_step": 20, "reason": f"keeps step 20, {EVIL}"},
        "metrics": {EVIL: metric},
    }
    (folder / "metrics.json").write_text(json.dumps(summary | {"unknown": 1}))
    (folder / "provenance.json").write_text(json.dumps({"git_commit": EVIL, "packages": {EVIL: EVIL}}))
    return folder


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return classifier_run(tmp_path)


def classifier_run(folder: Path) -> Path:
    """A classifier's run folder, with markup wherever a class's name may stand."""
    _bare(folder)
    _picture(folder / "attention" / "grid.png", size=(1650, 560))
    metrics = {
        "test/accuracy": {"tuned": 0.75, "base": None, "reference": None, "description": f"{EVIL}, 40 pictures"},
        f"test/jaccard/{EVIL}": {"tuned": 0.5, "base": 0.4321},
    }
    summary = {"experiment": "gta_vit", "subject": "the data", "title": EVIL, "classes": [EVIL, "cat"]}
    (folder / "metrics.json").write_text(json.dumps(summary | {"steps": 30, "metrics": metrics}))
    return folder


def test_text_from_users_is_shown_and_never_run(full: Path) -> None:
    page = _Page(write_report(full, force=False))
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    # Title 2, heading 2, commit, metric 2, prompts 2, guidance grid, below two grids 2 each, why a step was kept,
    # curve, config, package 2.
    assert page.text.count(EVIL) == 19


def test_nothing_is_fetched(full: Path) -> None:
    page = _Page(write_report(full, force=False))
    addresses = [
        attributes[name] for _, attributes in page.tags for name in ("src", "href", "srcset") if name in attributes
    ]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert "url(" not in page.text
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_is_embedded_whole_with_alt_and_caption(full: Path) -> None:
    page = _Page(write_report(full, force=False))
    pictures = page.pictures()
    # 1 reference, 1 held out, 2 base, 2 tuned, 4 grids; 2 of guidance, 3 against the frozen model, 3 curves, 4 families
    # of bins.
    assert len(pictures) == 22
    assert all(picture["alt"] for picture in pictures)
    assert sum(tag == "figcaption" for tag, _ in page.tags) == len(pictures)
    sprite = next(picture for picture in pictures if picture["alt"].startswith("Held-out picture 1 of 1"))
    shown = Image.open(io.BytesIO(base64.b64decode(sprite["src"].partition(",")[2])))
    with Image.open(full / "references" / "heldout" / "00.png") as original:
        assert np.array_equal(np.asarray(shown), np.asarray(original))
    assert (sprite["width"], sprite["class"]) == ("128", "pixelated")


def test_a_photo_is_scaled_down(bare: Path) -> None:
    _picture(bare / "references" / "photo.png", size=(1024, 512))
    photo = _Page(write_report(bare, force=False)).pictures()[0]
    shown = Image.open(io.BytesIO(base64.b64decode(photo["src"].partition(",")[2])))
    assert shown.size == (512, 256)
    assert (photo["width"], photo["height"], photo.get("class")) == ("256", "128", None)


def test_numbers_of_the_summary_are_shown(full: Path) -> None:
    text = _Page(write_report(full, force=False)).text
    assert all(shown in text for shown in ("0.1235", "−1", "1 h 2 min", "1 min 15 s"))


def test_what_is_missing_is_said(bare: Path) -> None:
    text = _Page(write_report(bare, force=False)).text
    for line in ("No samples were drawn.", "No metrics were computed.", "The run folder has no training pictures."):
        assert line in text


def test_a_classifier_s_page_shows_its_attention_as_it_is_and_nothing_of_a_subject(classifier: Path) -> None:
    page = _Page(write_report(classifier, force=False))
    grid = page.pictures()[0]
    shown = Image.open(io.BytesIO(base64.b64decode(grid["src"].partition(",")[2])))
    assert (shown.size, grid["width"], grid["height"]) == ((1650, 560), "1650", "560")
    assert "column for each picture" in grid["alt"]
    assert ("div", "scroll whole") in [(tag, attributes.get("class")) for tag, attributes in page.tags]
    for text in ("Attention", "0.75", "0.4321", "base: the pretrained source", "2 classes", "cat"):
        assert text in page.text
    for text in ("Pictures of the subject", "Samples", "No samples were drawn.", "real", "the data"):
        assert text not in page.text


def test_why_there_is_no_real_figure_is_shown_and_never_run(bare: Path) -> None:
    metrics = {"a": {"tuned": 0.1, "reference": None, "no_reference": EVIL}, "b": {"tuned": 0.2, "reference": 0.9}}
    (bare / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    page = _Page(write_report(bare, force=False))
    assert f"no real figure: {EVIL}" in page.text and "script" not in {tag for tag, _ in page.tags}


def test_names_of_classes_are_shown_and_never_run(classifier: Path) -> None:
    page = _Page(write_report(classifier, force=False))
    assert "script" not in {tag for tag, _ in page.tags}
    # Title, heading, metric with its description, config and the list of classes.
    assert page.text.count(EVIL) == 6


def test_a_classifier_s_page_shows_what_else_there_is(classifier: Path) -> None:
    _picture(classifier / "references" / "00.png")
    (classifier / "metrics.json").write_text('{"metrics": {"a": {"tuned": 0.1, "reference": 0.9}}}')
    (classifier / "attention" / "grid.png").unlink()
    text = _Page(write_report(classifier, force=False)).text
    for line in ("Classifier · unnamed experiment", "No attention maps were drawn.", "Training", "real", "0.9"):
        assert line in text


def test_a_report_is_a_function_of_its_folder_and_replaced_only_by_force(full: Path) -> None:
    page = write_report(full, force=False)
    first = page.read_bytes()
    with pytest.raises(FileExistsError, match=r"report\.html"):
        write_report(full, force=False)
    assert write_report(full, force=True).read_bytes() == first


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv"])
def test_a_folder_of_no_run_is_refused(bare: Path, name: str) -> None:
    (bare / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        write_report(bare, force=False)


@pytest.mark.parametrize(
    ("picture", "message"),
    [("base/99-0.png", r"99-0\.png"), ("../config.yaml", "no path below"), ("/etc/passwd", "no path below")],
)
def test_a_picture_missing_or_outside_is_refused_by_name(full: Path, picture: str, message: str) -> None:
    _samples(full, [{"prompt": "p", "prior_prompt": "q", "base": [picture], "tuned": []}])
    with pytest.raises(ValueError, match=message):
        write_report(full, force=False)
    assert not (full / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{", "not JSON"),
        ("metrics.json", "[]", "dict was expected"),
        ("metrics.json", '{"metrics": {"a": {"tuned": "x"}}}', r"metrics\.a\.tuned"),
        ("metrics.json", '{"seconds": {"fit": "x"}}', r"seconds\.fit"),
        ("metrics.json", '{"classes": ["cat", 1]}', "'classes' is no list of names"),
        ("provenance.json", '{"packages": []}', "packages"),
        ("samples/samples.json", '[{"prompt": "a"}]', "entry 0 .*prior_prompt"),
        ("samples/guidance_grid.json", "{}", "not the record of a guidance grid"),
        ("references/00.png", "no picture", r"00\.png"),
        ("attention/grid.png", "no picture", r"grid\.png"),
    ],
)
def test_a_bad_file_is_refused_by_name(full: Path, name: str, content: str, message: str) -> None:
    (full / name).parent.mkdir(exist_ok=True)
    (full / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        write_report(full, force=False)
    assert name.rpartition("/")[2] in str(error.value)


def test_the_moving_mean_is_that_of_the_window_s_part_within() -> None:
    assert smooth([0, 3, 6, 0], window=3).tolist() == [1.5, 3.0, 3.0, 3.0]
    assert set(smooth([0.1] * 50, window=7)) == {0.1}


@pytest.mark.parametrize("points", [[], [(0, math.nan)], [(0, math.inf), (4, 2.5)], [(i, 1.0) for i in range(50)]])
def test_plots_bear_any_values_and_count_what_they_leave_out(points: list[tuple[int, float]]) -> None:
    missing = sum(not math.isfinite(value) for _, value in points)
    for plot in (curve("a", points), bin_curves("gamma", {0: [(0, 1.0)], 9: points})):
        assert plot.uri.startswith("data:image/svg+xml;base64,")
        assert plot.note == (f"left out, not finite: {missing}" if missing else "")
