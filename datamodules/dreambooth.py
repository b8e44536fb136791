"""A subject of the DreamBooth dataset (Ruiz et al., 2023): https://github.com/google/dreambooth, folder `dataset`."""

import re
from dataclasses import dataclass
from pathlib import Path

from datamodules.folder import folder
from datamodules.subject import Subject

TABLE = "prompts_and_classes.txt"

# The table gives two lists of prompts but not who takes which. The paper counts 21 objects and 9 live subjects; the
# table's rows of these two classes are nine. Their list dresses the subject (hats, outfits) where the other floats it.
LIVE_CLASSES = frozenset({"cat", "dog"})

_HEADINGS = ("Classes", "Object Prompts", "Live Subject Prompts")
_FRAME = ("", "Prompts", "subject_name,class", "prompt_list = [", "]")  # lines that carry no data
_ROW = re.compile(r"(?P<subject>[^,]+),(?P<class_word>[^,]+)")
_PROMPT = re.compile(r"'(?P<template>[^'\\]+)'\.format\(unique_token, class_token\),?")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTable:
    """`prompts_and_classes.txt`: each subject's class, and two lists of templates as `prompt_pair` takes them."""

    classes: dict[str, str]
    object_prompts: tuple[str, ...]
    live_prompts: tuple[str, ...]


def dreambooth(
    *,
    root: str,
    subject: str,
    identifier: str | None,
    replaces_class_word: bool,
    instance_prompt: str,
    num_heldout: int,
    skip_broken: bool,
) -> Subject:
    """One subject of the dataset, with the paper's 25 evaluation prompts for its kind.

    Args:
        root: the folder that holds `prompts_and_classes.txt` and one folder for each subject.
        subject: the name of such a folder, "bear_plushie".
        identifier, replaces_class_word, instance_prompt, num_heldout, skip_broken: as `datamodules.folder.folder` takes
            them.

    Raises:
        FileNotFoundError: `root` holds no `prompts_and_classes.txt`.
        ValueError: the table is malformed, it or `root` lacks the subject, or the subject's folder cannot be used.
    """
    where = Path(root).expanduser()
    path = where / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; set data.root to the folder `dataset` of google/dreambooth")
    table = read_prompt_table(path)
    present = [name for name in table.classes if (where / name).is_dir()]
    if subject not in present:
        lack = f"no folder in {where}" if subject in table.classes else f"no row in {path}"
        raise ValueError(f"data.subject={subject!r} has {lack}; set it to one of: {', '.join(present) or '(none)'}")
    class_word = table.classes[subject]
    return folder(
        root=str(where / subject),
        instance_prompt=instance_prompt,
        class_word=class_word,
        identifier=identifier,
        replaces_class_word=replaces_class_word,
        evaluation_prompts=table.live_prompts if class_word in LIVE_CLASSES else table.object_prompts,
        num_heldout=num_heldout,
        skip_broken=skip_broken,
    )


def read_prompt_table(path: Path) -> PromptTable:
    """`prompts_and_classes.txt`, whose prompt lists are Python source: read as text, never run.

    Raises:
        ValueError: a line (named by its number) is neither a row nor a prompt, or a section is empty.
    """
    sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
    rows: list[tuple[str, str]] | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line in sections:
            rows = sections[line]
        elif line not in _FRAME:
            if rows is None:
                raise ValueError(f"{path}:{number}: {line!r} stands before any heading; restore the original file")
            rows.append((line, f"{path}:{number}"))
    for heading, found in sections.items():
        if not found:
            raise ValueError(f"{path}: nothing under the heading {heading!r}; restore the original file")
    classes, objects, live = sections.values()
    return PromptTable(
        classes=dict(_row(*each) for each in classes),
        object_prompts=tuple(_template(*each) for each in objects),
        live_prompts=tuple(_template(*each) for each in live),
    )


def _row(line: str, where: str) -> tuple[str, str]:
    if not (match := _ROW.fullmatch(line)):
        raise ValueError(f"{where}: {line!r} is not of the form subject_name,class; restore the original file")
    return match["subject"].strip(), match["class_word"].strip()


def _template(line: str, where: str) -> str:
    match = _PROMPT.fullmatch(line)
    if not match or set(re.findall(r"\{.*?\}", match["template"])) != {"{0}", "{1}"}:
        raise ValueError(f"{where}: {line!r} is not a prompt with {{0}} and {{1}}; restore the original file")
    return match["template"].replace("{0}", "{identifier}").replace("{1}", "{class_word}")
