"""Identity on photographs: `python -m benchmarks.photo_identity`, which writes docs/benchmarks/photo_identity.md.

Every two photographs of the DreamBooth dataset are compared by the cosine that `image_similarity` is the mean of. The
figure is the share of pairs of one subject that score higher than pairs of two (area under the ROC curve, 1 is perfect,
0.5 is chance), by each backbone that can be had and by controls that know nothing: a colour histogram and a thumbnail.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.shared.command import ROOT, typed
from checks.backbones import HUB
from datamodules.dreambooth import TABLE, read_prompt_table
from datamodules.pictures import read_pictures
from metrics.backbone import Backbone
from metrics.cosines import cosines
from report.provenance import provenance

PHOTOS = ROOT.parent / "shared/data/dreambooth/dataset"
BACKBONES = ("assets/sprites-vit", *HUB)
NO_WEIGHTS = "–"
SIDE = 512  # of the kept photographs, which no backbone above looks at in more detail
Pictures = Sequence[Image.Image]


def color_histogram(pictures: Pictures) -> Tensor:
    """`[N, 512]`: the share of the pixels in each of 8 × 8 × 8 boxes of RGB."""
    boxes = [np.asarray(picture).reshape(-1, 3) // 32 @ (64, 8, 1) for picture in pictures]
    return torch.stack([torch.from_numpy(np.bincount(box, minlength=512) / len(box)) for box in boxes])


def thumbnail(pictures: Pictures) -> Tensor:
    """`[N, 192]`: 8 × 8 pixels, their mean taken off."""
    pixels = torch.stack(
        [torch.from_numpy(np.array(picture.resize((8, 8)), np.float64)).flatten() for picture in pictures]
    )
    return pixels - pixels.mean(1, keepdim=True)


def aucs(embeddings: Tensor, subjects: Tensor, classes: Tensor) -> dict[str, float]:
    """The areas, and the mean cosines behind them.

    Args:
        embeddings: `[N, D]`.
        subjects, classes: `[N]`, whom each picture shows and what that is.

    Returns:
        `all` pairs; `same_class`, pairs of two subjects only where both are of one class; `per_subject`, the mean of
        the areas of each subject's own pairs, and its `standard_error`; the mean cosines of pairs of the `same` and of
        `different` subjects.
    """
    every = cosines(embeddings, embeddings)
    same = subjects[:, None] == subjects
    once = torch.ones_like(same).triu(1)
    kin = classes[:, None] == classes

    def area(of: Tensor) -> float:
        return float(binary_auroc((1 + every[of]) / 2, same[of].int()))

    each = torch.tensor(
        [area((subjects == name)[:, None] & ~torch.eye(len(every), dtype=torch.bool)) for name in subjects.unique()]
    )
    return {
        "all": area(once),
        "same_class": area(once & kin),
        "per_subject": float(each.mean()),
        "standard_error": float(each.std() / len(each) ** 0.5),
        "same": float(every[once & same].mean()),
        "different": float(every[once & ~same].mean()),
    }


def read(root: Path) -> tuple[list[Image.Image], Tensor, Tensor]:
    """The photographs, at most `SIDE` pixels on their shorter side, and the numbers of their subjects and classes."""
    table = read_prompt_table(root / TABLE).classes
    names = [name for name in table if (root / name).is_dir()]
    kinds = sorted(set(table.values()))
    pictures, subjects, classes = [], [], []
    for number, name in enumerate(names):
        for _, picture in read_pictures(root / name, skip_broken=False):
            shorter = min(picture.size)
            size = [max(SIDE, round(side * SIDE / shorter)) for side in picture.size]
            pictures.append(picture.resize((size[0], size[1])) if shorter > SIDE else picture)
            subjects.append(number)
            classes.append(kinds.index(table[name]))
    return pictures, torch.tensor(subjects), torch.tensor(classes)


def document(
    rows: Sequence[tuple[str, str, dict[str, float]]], missing: Sequence[str], counts: str, command: str
) -> str:
    """The page; the rows of the controls, which have no weights, come first."""
    controls, backbones = ([row for row in rows if (row[1] == NO_WEIGHTS) is wanted] for wanted in (True, False))
    control, best = (max(group, key=lambda row: row[2]["all"]) for group in (controls, backbones))
    gain = best[2]["all"] - control[2]["all"]
    verdict = f"{gain:.3f} above" if gain > 0 else "no better than"
    lines = [
        "# Identity on photographs",
        "",
        f"Of the backbones that could be had here {best[0]} tells the subjects of the DreamBooth dataset apart best: "
        f"with an area of {best[2]['all']:.3f} under the ROC curve it is {verdict} the best control, {control[0]} at "
        f"{control[2]['all']:.3f}. The area is how often a pair of photographs of one subject has a higher cosine "
        "than a pair of two. The controls learned nothing, but a subject's photographs share a room and its light.",
        "",
        f"`{command}`, commit {provenance()['git_commit']}. {counts}",
        "",
        "| by | weights | all pairs | two subjects of one class | mean over subjects | cosine, one | two |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, weights, figure in rows:
        lines.append(
            f"| {name} | {weights} | {figure['all']:.3f} | {figure['same_class']:.3f} | {figure['per_subject']:.3f} ± "
            f"{figure['standard_error']:.3f} | {figure['same']:.3f} | {figure['different']:.3f} |"
        )
    if missing:
        lines += ["", "Could not be had here:", "", *(f"- {reason}" for reason in missing)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=PHOTOS, help="folder `dataset` of google/dreambooth")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="by name or folder; the hub's are fetched")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/photo_identity.md")
    args = parser.parse_args()
    pictures, subjects, classes = read(args.root)
    controls: tuple[Callable[[Pictures], Tensor], ...] = (color_histogram, thumbnail)
    rows = [(each.__name__.replace("_", " "), NO_WEIGHTS, aucs(each(pictures), subjects, classes)) for each in controls]
    missing = []
    for name in args.backbones:
        try:
            backbone = Backbone(backbone=name, weights=None, device=torch.device("cpu"))
        except (FileNotFoundError, ValueError) as error:
            missing.append(str(error))
            continue
        figure = aucs(backbone.embed(pictures, batch_size=16), subjects, classes)
        rows.append((name, backbone.checkpoint, figure))
    if len(rows) == len(controls):
        sys.exit("error: no backbone can be had: " + "; ".join(missing))
    counts = (
        f"{len(pictures)} photographs of {len(subjects.unique())} subjects in {len(classes.unique())} classes, at most "
        f"{SIDE} px on their shorter side before the backbone's own transform. In the column of one class, pairs of "
        "two subjects are only those of one class (two dogs). The mean over the subjects is of the areas of each one's "
        "own pairs, with a standard error that takes the subjects for independent, though they share pictures."
    )
    text = document(rows, missing, counts, typed(__spec__.name))
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
