"""One page for several benchmarks, each of which writes a section of its own."""

import re
from collections.abc import Sequence
from pathlib import Path


def table_row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def write_section(path: Path, lines: Sequence[str], *, first: bool) -> None:
    """Puts a section into the page, in the place of an older one of the same title; the others stay as they are.

    Args:
        lines: the first is the section's title, "# …", and no other line begins like that.
        first: whether a new section goes to the top of the page rather than to its end.
    """
    page = path.read_text() if path.is_file() else ""
    found = [each for each in re.split(r"^(?=# )", page, flags=re.MULTILINE) if each]
    sections = {each.partition("\n")[0]: each.rstrip() for each in found}
    new = {lines[0]: "\n".join(lines).rstrip()}
    sections = new | sections | new if first else sections | new
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(sections.values()) + "\n")
