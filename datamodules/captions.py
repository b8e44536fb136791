"""Captions of a folder's pictures: a `.txt` beside each, `metadata.jsonl` or `captions.json`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.pictures import picture_files, visible_files

METADATA = "metadata.jsonl"  # the convention of Hugging Face's imagefolder
CAPTIONS = "captions.json"

Found = tuple[str, str, str]  # picture's file name, caption, where it was found


def read_captions(folder: Path) -> dict[str, str]:
    """The captions found in `folder`, keyed by the picture's file name; empty where there are none.

    Three sources are read, and may be mixed as long as they agree: `01.txt` for `01.jpg`; `metadata.jsonl`, with
    `{"file_name": "01.jpg", "text": …}` (or "prompt") on each line; `captions.json`, `{"01.jpg": …}`. Runs of white
    space in a caption become one space.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no picture, two captions of one picture differ, a file or line (named) is malformed, or a
            caption's picture is not there.
    """
    names = [path.name for path in picture_files(folder)]
    captions: dict[str, str] = {}
    origin: dict[str, str] = {}
    for name, caption, source in _found(folder, names):
        caption = " ".join(caption.split())
        if name not in names:
            raise ValueError(f"{folder / source}: a caption for {name!r}, which is no picture in {folder}; correct it")
        if captions.setdefault(name, caption) != caption:
            raise ValueError(
                f"{folder / source}: caption {caption!r} of {name} differs from {captions[name]!r} in {origin[name]}; "
                "keep one of them"
            )
        origin.setdefault(name, source)
    return captions


def _found(folder: Path, names: Iterable[str]) -> Iterator[Found]:
    yield from _from_texts(folder, names)
    if (folder / METADATA).exists():
        yield from _from_metadata(folder / METADATA)
    if (folder / CAPTIONS).exists():
        yield from _from_json(folder / CAPTIONS)


def _from_texts(folder: Path, names: Iterable[str]) -> Iterator[Found]:
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(Path(name).stem, []).append(name)
    for path in visible_files(folder, (".txt",)):
        if path.stem not in stems:
            raise ValueError(f"{path}: a caption for no picture, for none is called {path.stem}.*; rename or move it")
        for name in stems[path.stem]:
            yield name, _text(path), path.name


def _from_metadata(path: Path) -> Iterator[Found]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        row = _parse(line, where=f"{path}:{number}")
        captions = [row[key] for key in ("text", "prompt") if key in row]
        if not captions or not all(isinstance(value, str) for value in (row.get("file_name"), *captions)):
            raise ValueError(f'{path}:{number}: write {{"file_name": "01.jpg", "text": "…"}}, both of them strings')
        for caption in captions:
            yield row["file_name"], caption, where


def _from_json(path: Path) -> Iterator[Found]:
    for name, caption in _parse(_text(path), where=str(path)).items():
        if not isinstance(caption, str):
            raise ValueError(f"{path}: the caption of {name!r} is {caption!r}; make it a string")
        yield name, caption, path.name


def _parse(text: str, *, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise ValueError(f"{where}: not valid JSON ({error.msg}: {at}); correct it") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}; keep one of them") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{where}: a JSON object {{…}} belongs here, not a {type(parsed).__name__}")
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:  # json would keep the last one and say nothing
            raise ValueError(f"{key!r} stands twice")
        row[key] = value
    return row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without Notepad's byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
