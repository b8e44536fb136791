"""The report as a browser shows it, on a desk and on a phone."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path

import pytest

from report.page import write_report
from tests.report.test_report import EVIL, classifier_run, full_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# The page runs in a frame, as it is: its policy allows no script, and a window is never narrower than 500 px.
FRAME = """<!doctype html><meta charset="utf-8">
<iframe srcdoc="{page}" style="border: 0; width: {width}px; height: 900px"></iframe><pre></pre>
<script>
const frame = document.querySelector("iframe");
onload = () => {{
  const page = frame.contentDocument, pictures = [...page.images];
  const scrolls = element => element.closest(".scroll, pre, details");
  const label = picture => picture.closest("figure")?.querySelector("figcaption")?.innerText.trim();
  document.querySelector("pre").textContent = JSON.stringify({{
    width: frame.contentWindow.innerWidth,
    scroll_width: page.documentElement.scrollWidth,
    too_wide: [...page.body.querySelectorAll("*")]
      .filter(each => !scrolls(each) && each.getBoundingClientRect().right > frame.contentWindow.innerWidth + 0.5)
      .map(each => each.outerHTML.slice(0, 80)),
    pictures: pictures.length,
    broken: pictures.filter(each => !each.complete || !each.naturalWidth).length,
    unlabelled: pictures.filter(each => !each.alt || !label(each)).length,
    scripts: page.scripts.length,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(each => each.name)
      .filter(name => !name.startsWith("data:")),
    text: page.body.innerText,
  }});
}};
</script>"""


def shown(page: Path, width: int, folder: Path) -> tuple[dict, str]:
    """What the browser tells of `page` at `width` CSS pixels, and what it wrote to its console."""
    frame = folder / f"frame-{width}.html"
    frame.write_text(FRAME.format(page=escape(page.read_text(encoding="utf-8")), width=width), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1300,950", "--virtual-time-budget=10000", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<pre>(.*?)</pre>", result.stdout.rpartition("</iframe>")[2], re.DOTALL)
    assert found, result.stdout[-500:] + result.stderr[-2000:]
    return json.loads(unescape(found[1])), "\n".join(line for line in result.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("make", "pictures", "text"), [(full_run, 22, f"a sks {EVIL}"), (classifier_run, 3, f"test/jaccard/{EVIL}")]
)
def test_a_hostile_run_is_shown_whole_and_runs_nothing(
    tmp_path: Path, make: Callable[[Path], Path], pictures: int, text: str, width: int
) -> None:
    page = write_report(make(tmp_path / "run"), force=False)
    found, console = shown(page, width, tmp_path)
    assert console == ""
    assert found["requests"] == [] and found["scripts"] == 0
    assert found["width"] == width
    assert found["scroll_width"] <= width and found["too_wide"] == []
    assert found["pictures"] == page.read_text(encoding="utf-8").count("<img src") == pictures
    assert found["broken"] == 0 and found["unlabelled"] == 0
    assert text in found["text"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_check_sees_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<!doctype html><meta http-equiv='Content-Security-Policy' content=\"img-src data:\">"
        "<div style='width: 2000px'>wide</div><img src='https://example.org/x.png'><script>oh.no</script>"
    )
    found, console = shown(page, 390, tmp_path)
    assert found["scroll_width"] > 390 and found["too_wide"]
    assert (found["pictures"], found["broken"], found["unlabelled"], found["scripts"]) == (1, 1, 1, 1)
    assert "violates" in console and "oh is not defined" in console
