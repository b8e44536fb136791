"""README, CONTRIBUTING, docs: links lead somewhere, commands compose, examples run, the drawing is the contracts'."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, get_origin, get_type_hints
from xml.etree import ElementTree

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

import run  # noqa: F401  whose resolvers and groups conf/ uses
from checks.config import check
from tests.runs import compose as whole

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("assets/*/README.md")]
)
EXAMPLES = [ROOT / "README.md", ROOT / "docs/extend.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAM = re.compile(r"(?:^|[\s/])(?:python run\.py|holdfast) +(.*)")
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]+)\)")
PLACEHOLDER = re.compile(r"<(?!subject>|scene>|style>|dog>)[^<>]+>")  # those are learned words
OWN = re.compile(r"placeholder|^(task|run|ckpt_path|adapters|data\.root)=|^model=sd|_vit$|_target_=")
SHELL = {"&&", "|", ">", "2>&1", ";"}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(text: str) -> list[str]:
    """What follows `python run.py` or `holdfast` in a page's code, in the order of the page, one a line."""
    fenced = [code.replace("\\\n", " ") for _, code in FENCE.findall(text)]
    code = [line for each in fenced for line in each.splitlines()] + INLINE.findall(FENCE.sub("", text))
    return [match[1] for line in code if (match := PROGRAM.search(line))]


def has_joblib_launcher() -> bool:
    """Whether the extra `sweep` is installed."""
    try:
        return bool(version("hydra-joblib-launcher"))
    except PackageNotFoundError:
        return False


def overrides(command: str) -> list[list[str]]:
    """Hydra's overrides of a command's jobs, of which a sweep has many; none of a command that starts no run.

    `<run>` and the like become a word, but for what is a learned word. A command with "…" is not complete: none.
    """
    if "…" in command:
        return []
    given = shlex.split(PLACEHOLDER.sub("placeholder", command), comments=True)
    if stop := [number for number, word in enumerate(given) if word in SHELL]:
        given = given[: stop[0]]
    if {"--help", "-sc", "--hydra-help"} & set(given):
        return []
    for option in ("--cfg", "--package", "--config-dir"):
        if option in given:
            del given[(at := given.index(option)) : at + 2]
    if not has_joblib_launcher():
        given = [each for each in given if not each.startswith(("hydra/launcher=", "hydra.launcher."))]
    if "-m" not in given:
        return [given]
    given.remove("-m")
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), max_batch_size=None)
    return [list(job) for batch in jobs for job in batch]


def written_on(page: Path) -> Iterator[str]:
    """The commands of a page, without those on the files that it tells the reader to write."""
    return (each for each in commands(page.read_text(encoding="utf-8")) if "--config-dir" not in each)


def refuse(command: str) -> None:
    """Composes every job of `command`.

    Raises:
        HydraException: one does not compose.
    """
    for job in overrides(command):
        composed(tuple(job))


@cache
def composed(job: tuple[str, ...]) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose("config", overrides=list(job))


def trainings() -> list[tuple[str, ...]]:
    """What trains as it stands, one job of a sweep: nothing of the reader's own is named.

    ViTs are left out: their data take seconds to paint.
    """
    jobs = [overrides(command)[:1] for page in PAGES for command in written_on(page)]
    return sorted({tuple(job) for (job,) in filter(None, jobs) if not any(OWN.search(each) for each in job)})


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links and pictures of `page` that lead to no file of the checkout, or to no heading of it."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_pictures_are_there(page):
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](missing.md) ![b](missing.png) [c](#here) [d](#there) [e](https://x.org) [f](page.md)\n"
    )
    assert broken_links(page) == ["missing.md", "missing.png", "#there"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_compose(page):
    for command in written_on(page):
        try:
            refuse(command)
        except Exception as error:
            pytest.fail(f"{named(page)}: python run.py {command}\n{error}")


def test_commands_are_found_and_a_wrong_one_is_refused():
    code = "python run.py a=1 \\\n    b=2  # why\n.venv/bin/python run.py c=3 && ls\n"
    page = f"```text\n{code}```\n`holdfast d=<x y>` `run.py`"
    assert [job for command in commands(page) for job in overrides(command)] == [
        ["a=1", "b=2"],
        ["c=3"],
        ["d=placeholder"],
    ]
    assert overrides("-m a=1,2 b=3") == [["a=1", "b=3"], ["a=2", "b=3"]]
    assert overrides("--help") == overrides("task=sample run=…") == []
    for wrong in ("optimizer.learning_rate=1", "experiment=no_such", "-m seed=0 no_such_group=1,2"):
        with pytest.raises(Exception, match=r"learning_rate|no_such"):
            refuse(wrong)
    assert sum(len(list(written_on(page))) for page in PAGES) > 60


def test_trainings_pass_the_checks(tmp_path):
    """A command may compose and be refused all the same."""
    jobs = trainings()
    assert len(jobs) > 20 and any("<scene>" in each for job in jobs for each in job)
    for job in jobs:
        try:
            check(whole(tmp_path, *job))
        except Exception as error:
            pytest.fail(f"python run.py {' '.join(job)}\n{error}")


@pytest.mark.parametrize("page", EXAMPLES, ids=named)
def test_examples_run(page, tmp_path, monkeypatch):
    """Each Python block is a file of its own, which its command names."""
    found = blocks(page, "python")
    text = page.read_text(encoding="utf-8")
    assert found and len(found) == text.count("```python")
    monkeypatch.syspath_prepend(tmp_path)
    for code in found:
        name = re.match(r"# (\w+)\.py\n", code)
        assert name, code
        (tmp_path / f"{name[1]}.py").write_text(code)
        spec = importlib.util.spec_from_file_location(f"example_{name[1]}", tmp_path / f"{name[1]}.py")
        assert spec and spec.loader
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        targets = re.findall(rf"_target_[=:] ?{name[1]}\.(\w+)", text)
        assert targets and all(callable(getattr(module, each)) for each in targets)
        assert all(not getattr(getattr(module, each), "__abstractmethods__", ()) for each in targets)


def test_examples_config_composes(tmp_path):
    page = ROOT / "docs/extend.md"
    for code in blocks(page, "yaml"):
        name = re.search(r"^# my_conf/(\S+)\n", code, re.MULTILINE)
        assert name, code
        (tmp_path / name[1]).parent.mkdir(exist_ok=True)
        (tmp_path / name[1]).write_text(code)
    given = [each for each in commands(page.read_text(encoding="utf-8")) if "--config-dir" in each]
    assert len(given) == len(blocks(page, "yaml"))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for command in given:
            for job in overrides(command):
                compose("config", overrides=[f"hydra.searchpath=['{tmp_path}']", *job])


def test_readme_is_short_and_shows_the_example_of_the_docs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert blocks(ROOT / "README.md", "python") == blocks(ROOT / "docs/extend.md", "python")[:1]


def test_readme_and_docs_name_every_experiment():
    names = {path.stem for path in ROOT.glob("conf/experiment/*.yaml") if not path.stem.startswith("pretrain_")}
    assert names <= set(INLINE.findall((ROOT / "README.md").read_text(encoding="utf-8")))


def test_files_that_the_docs_name_are_there():
    """Of the tables "which file do I open" and "extend": but for the reader's own `mine`."""
    for page in (ROOT / "docs/architecture.md", ROOT / "docs/extend.md"):
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        paths = [each for each in INLINE.findall(text) if re.fullmatch(r"[\w./]+/[\w./]*", each) and "mine" not in each]
        assert len(paths) > 3
        assert not [each for each in paths if not any((ROOT / room / each).exists() for room in (".", "conf"))]


def test_extend_names_all_that_a_family_fills_in():
    from models.family import DiffusionFamily  # with diffusers, which no other test here needs

    section = (ROOT / "docs/extend.md").read_text(encoding="utf-8").split("## A family")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named_there = INLINE.findall(" ".join(rows))
    hints = get_type_hints(DiffusionFamily)  # its bases' too
    declared = {name for name, kind in hints.items() if get_origin(kind) is ClassVar}
    assert sorted(named_there) == sorted(declared | DiffusionFamily.__abstractmethods__)


def test_the_drawing_shows_the_floors_of_the_contracts():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(each["layers"] for each in tool["contracts"] if each["name"] == "floors")
    svg = ElementTree.parse(ROOT / "docs/pictures/rooms.svg")
    heights = {each.text: float(each.attrib["y"]) for each in svg.iter() if each.attrib.get("class") == "room"}
    floors = [[heights[name] for name in layer.split(" | ")] for layer in layers]
    assert all(len(set(floor)) == 1 for floor in floors)
    assert [floor[0] for floor in floors] == sorted({each for floor in floors for each in floor})
