"""Print the README's test command: the second of the two bash blocks under "Two commands", verbatim."""

import re
import sys
from pathlib import Path

HEADING = re.compile(r"^(#+) Two commands[ \t]*\n", re.MULTILINE)
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def commands(readme: str) -> list[str]:
    """The bash blocks from the heading "Two commands" to the next heading of its rank or a higher one."""
    headings = list(HEADING.finditer(readme))
    if len(headings) != 1:
        raise ValueError(f'{len(headings)} headings "Two commands", expected one')
    section = readme[headings[0].end() :]
    # A "#" inside a fence is a comment of the shell: look for the next heading with the fences blanked out.
    prose = FENCE.sub(lambda fence: " " * len(fence[0]), section)
    if end := re.search(rf"^#{{1,{len(headings[0][1])}}} ", prose, re.MULTILINE):
        section = section[: end.start()]
    return [text for language, text in FENCE.findall(section) if language.strip() == "bash"]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    try:
        blocks = commands(path.read_text(encoding="utf-8"))
        if len(blocks) != 2:
            raise ValueError(f'{len(blocks)} bash blocks under "Two commands", expected two')
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    print(blocks[1], end="")
