"""One self-contained ``report.html`` of a run: nothing in it is fetched from anywhere, and no script runs."""

import base64
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image, ImageOps

from report.diagnostic_grids import DiagnosticGrid, diagnostic_grids
from report.guidance import FILE as GUIDANCE
from report.guidance import guidance_plots
from report.guidance_grid import PICTURE as GUIDANCE_GRID
from report.guidance_grid import RECORD as GUIDANCE_GRID_RECORD
from report.guidance_grid import guidance_grid_texts
from report.metrics_csv import read_metrics
from report.paired_plots import PAIRED, paired_plots
from report.plots import Plot, Points, bin_curves, curve

_BIN = re.compile(r"(?P<family>.+)/bin_(?P<bin>\d+)")
_EMBEDDED = 512  # longest side of an embedded picture, in pixels
_WIDE = 16383  # longest side of the attention's grid, which is embedded as it is: WebP holds no longer one
_SHOWN = 256  # widest that a photo is shown, in CSS pixels
_SPRITE = 128  # pictures up to this width are shown at least this wide, in whole pixels
_FAMILIES = {  # what a reader should know of a metric that is logged per timestep bin
    "gamma": (
        "Overfitting indicator γ: 0 where the tuned model fits the training pictures no better than the frozen one, "
        "towards 1 the better it fits them. Learning the subject raises it as well."
    ),
    "heldout/relative_loss": (
        "Denoising loss on held-out pictures of the subject over the frozen model's: below 1 the student knows the "
        "subject better than the prior does, above 1 it knows it worse."
    ),
    "train/relative_loss": "The same on the training pictures, un-augmented, at the same noise in every validation.",
    "train/gamma": (
        "γ of each validation's losses on the training pictures, whatever the run trains with: un-augmented, at the "
        "same noise in every validation, and no moving average."
    ),
    "heldout/parallel_coefficient": (
        "a = ⟨g_con, g_cfg⟩ / ‖g_cfg‖² on held-out pictures: by how much the consistency guidance alone moves the "
        "effective CFG scale, w + s · w_con · a. Near −1 the student ignores the prompt."
    ),
    "heldout/parallel_cosine": "Cosine of the consistency guidance and classifier-free guidance.",
    "heldout/parallel": "Share of the consistency guidance that is parallel to CFG: what is rescaled.",
}
# Text for those who cannot see the picture, and what stands below it.
_ATTENTION = (
    "Grid of attention maps: a column for each picture with its class, and below it a row for each model.",
    "Where the [CLS] token looks, mean over the heads; each map from its least value (dark) to its greatest (bright).",
)
_TRAINING = (
    "Grid of pictures drawn along the training: a row for each prompt, a column for each check, with its step.",
    "The tuned model under the same prompts from the same noise, by the run's guidance, in fewer denoising steps than "
    "the samples above.",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded picture; ``width`` and ``height`` are those it is shown at, in CSS pixels."""

    uri: str
    alt: str
    caption: str
    width: int
    height: int
    pixelated: bool


def write_report(run_dir: Path, *, force: bool) -> Path:
    """Write ``report.html`` from the files of a run folder.

    Reads ``config.yaml`` and ``metrics.csv``; and where they exist ``metrics.json``, ``provenance.json``,
    ``references/*.png``, ``references/heldout/*.png``, ``samples/samples.json`` and the pictures that it names,
    ``samples/guidance.json``, ``samples/guidance_grid.json`` and its picture, ``samples/training.png``,
    ``samples/trajectory/*.png``, ``samples/token_attention/*.png``.
    A folder ``attention`` makes the run a classifier's: its ``grid.png`` is shown, and no samples are missed.

    Args:
        run_dir: folder of the run.
        force: replace a report that exists.

    Returns:
        Path of the report.

    Raises:
        FileExistsError: there is a report, and ``force`` is False.
        FileNotFoundError: ``config.yaml`` or ``metrics.csv`` is missing.
        ValueError: a file is not what it should be, or a picture is missing; names the file and the key.
    """
    run_dir = Path(run_dir)
    page = run_dir / "report.html"
    if page.exists() and not force:
        raise FileExistsError(f"{page} exists: move it away, or overwrite it with force=True")
    for name in ("config.yaml", "metrics.csv"):
        if not (run_dir / name).is_file():
            raise FileNotFoundError(f"{run_dir / name} is missing: {run_dir} is not the folder of a run")
    text = _template().render(_content(run_dir))
    temporary = page.with_name(".report.html.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, page)
    return page


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # prompts and configs are text from users
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "duration": _duration}
    return environment.get_template("page.html.jinja")


def _content(run_dir: Path) -> dict[str, Any]:
    """What the template shows, by the names that it has for it."""
    samples, points = run_dir / "samples", read_metrics(run_dir / "metrics.csv")
    return {
        "summary": _summary(run_dir / "metrics.json"),
        "provenance": _provenance(run_dir / "provenance.json"),
        "classifier": (run_dir / "attention").is_dir(),
        "attention": _whole(run_dir / "attention" / "grid.png", *_ATTENTION),
        "references": _folder(run_dir / "references", "Training picture"),
        "heldout": _folder(run_dir / "references" / "heldout", "Held-out picture"),
        "samples": _samples(samples / "samples.json"),
        "training": _whole(samples / "training.png", *_TRAINING),
        "diagnostics": _diagnostics(samples),
        "guidance": guidance_plots(samples / GUIDANCE),
        "guidance_grid": _guidance_grid(samples),
        "curves": _curves(points),
        "paired": paired_plots(points),
        "families": _families(points),
        "config": (run_dir / "config.yaml").read_text(encoding="utf-8"),
    }


def _json(path: Path, kind: type) -> Any:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); write it again or remove it") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: holds a {type(content).__name__}, a {kind.__name__} was expected")
    return content


def _summary(path: Path) -> dict[str, Any]:
    """``metrics.json`` with the numbers checked; keys that the page does not know are left alone."""
    summary = _json(path, dict) or {}
    for key in ("seconds", "metrics"):
        if not isinstance(summary.setdefault(key, {}), dict):
            raise ValueError(f"{path}: {key!r} is no mapping of names")
    classes = summary.setdefault("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path}: 'classes' is no list of names")
    numbers = {f"seconds.{name}": value for name, value in summary["seconds"].items()}
    for name, metric in summary["metrics"].items():
        if not isinstance(metric, dict):
            raise ValueError(f"{path}: 'metrics.{name}' is no mapping; give it tuned, base, reference and description")
        numbers |= {f"metrics.{name}.{model}": metric.get(model) for model in ("tuned", "base", "reference")}
    for key, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{path}: {key!r} is {value!r}, neither a number nor null")
    return summary


def _provenance(path: Path) -> dict[str, Any]:
    provenance = _json(path, dict) or {}
    if not isinstance(provenance.get("packages", {}), dict):
        raise ValueError(f"{path}: 'packages' is no mapping of names to versions")
    return provenance


def _folder(folder: Path, kind: str) -> list[Picture]:
    paths = sorted(folder.glob("*.png"))
    return [_picture(path, f"{kind} {i} of {len(paths)}", path.name) for i, path in enumerate(paths, start=1)]


def _samples(path: Path) -> list[dict[str, Any]]:
    """``samples.json`` with the pictures in the place of their paths."""
    rows = []
    for number, entry in enumerate(_json(path, list) or []):
        for key, kind in (("prompt", str), ("prior_prompt", str), ("base", list), ("tuned", list)):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise ValueError(f"{path}: entry {number} needs the key {key!r} with a {kind.__name__}")
        row = {"prompt": entry["prompt"], "prior_prompt": entry["prior_prompt"]}
        for model in ("base", "tuned"):
            row[model] = [
                _picture(_inside(path, name), f"{model} model, {entry['prompt']!r}, picture {i}", f"{model} {i}")
                for i, name in enumerate(entry[model], start=1)
            ]
        rows.append(row)
    return rows


def _diagnostics(samples: Path) -> list[tuple[DiagnosticGrid, Picture]]:
    """After ``_samples``, which has checked the prompts."""
    found = diagnostic_grids(samples, _json(samples / "samples.json", list) or [])
    return [(each, _picture(each.path, each.alt, "", whole=True)) for each in found]


def _guidance_grid(folder: Path) -> Picture | None:
    texts = guidance_grid_texts(folder / GUIDANCE_GRID_RECORD)
    return _picture(folder / GUIDANCE_GRID, *texts, whole=True) if texts else None


def _whole(path: Path, alt: str, caption: str) -> Picture | None:
    """As it is, if it was drawn."""
    return _picture(path, alt, caption, whole=True) if path.is_file() else None


def _inside(index: Path, name: Any) -> Path:
    # The page may be sent to others: a run folder from elsewhere must not pull in pictures from outside of it.
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{index}: picture {name!r} is no path below {index.parent}; give one relative to that folder")
    return index.parent / name


def _picture(path: Path, alt: str, caption: str, *, whole: bool = False) -> Picture:
    if not path.is_file():
        raise ValueError(f"{path}: this picture is missing; draw it again, or take it out of its list")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error}); draw it again") from error
    longest = _WIDE if whole else _EMBEDDED
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    small = image.width <= _SPRITE
    # Whole multiples keep the pixels of a sprite square.
    scale = -(-_SPRITE // image.width) if small else 1.0 if whole else min(1.0, _SHOWN / image.width)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG" if small else "WEBP", **({} if small else {"quality": 88}))
    return Picture(
        uri=f"data:image/{'png' if small else 'webp'};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        alt=alt,
        caption=caption,
        width=round(image.width * scale),
        height=round(image.height * scale),
        pixelated=small,
    )


def _curves(points: dict[str, list[tuple[int, float]]]) -> dict[str, list[Plot]]:
    """Plots of all metrics that are not per bin, grouped by the first part of their names, losses first."""
    groups: dict[str, list[Plot]] = {"loss": []}
    for name, values in points.items():
        if not _BIN.fullmatch(name) and name not in PAIRED:
            groups.setdefault(name.rpartition("/")[0].partition("/")[0] or "other", []).append(curve(name, values))
    return {group: plots for group, plots in groups.items() if plots}


def _families(points: dict[str, list[tuple[int, float]]]) -> list[tuple[Plot, str]]:
    """A plot and its explanation for every metric that is logged per timestep bin."""
    families: dict[str, dict[int, Points]] = {}
    for name, values in points.items():
        if match := _BIN.fullmatch(name):
            families.setdefault(match["family"], {})[int(match["bin"])] = values
    return [(bin_curves(family, bins), _FAMILIES.get(family, "")) for family, bins in families.items()]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
