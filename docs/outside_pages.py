"""MkDocs hook: pages that stand outside docs/ are read from where they are, and links between both kinds are led right.

Every link is written as it works in a checkout, "../assets/sprites-sd/README.md".
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = ("assets/*/README.md", "benchmarks/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def outside() -> list[str]:
    """The pages' paths in the repository, which are their paths in the site as well."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in OUTSIDE for path in ROOT.glob(pattern))


def on_files(files: Any, config: Any) -> Any:
    for page in outside():
        text = FRONT_MATTER.sub("", (ROOT / page).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    in_site = page.file.src_uri
    in_repository = in_site if in_site in outside() else f"docs/{in_site}"

    def led(link: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(in_repository), link[1]))
        return os.path.relpath(target.removeprefix("docs/"), os.path.dirname(in_site) or ".")

    return LINK.sub(led, markdown)
