"""What a finished classifier is judged by: accuracy, and where its [CLS] token looks beside where the source's does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.progress import track
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from datamodules.classification import ClassificationData, LabelledPicture
from datamodules.classification_datamodule import ClassificationDataModule
from evaluation.evaluation import Evaluation, FinishedRun
from evaluation.samples import evenly
from metrics.localization import AttentionJaccard
from models.attention import ClsAttentionCapture, matching_attention
from models.vit import VisionTransformer
from report.attention import attention_grid


class ClassificationEvaluation(Evaluation):
    """Looks at the test pictures once, or at those held out of training where there are any; writes `metrics.json`,
    `attention/grid.png` and `report.html`.

    While pictures are held out (`data.validation_share` above 0) a run serves to choose settings, and the test pictures
    stay unseen.

    Args:
        site: glob pattern of the attention whose [CLS] row is looked at, "blocks.*.attn[last]".
        mass: share of each map's total that the patches hold which count as the object, in (0, 1].
        num_pictures: how many pictures' maps are shown.
        compare: folders of further finished runs whose maps are shown beside, by their experiments; fully tuned ones.
    """

    def __init__(self, *, site: str, mass: float, num_pictures: int, compare: Sequence[str]) -> None:
        if not 0 < mass <= 1:
            raise ValueError(f"evaluation.mass={mass}: a share of the attention, above 0, at most 1")
        if num_pictures < 1:
            raise ValueError(f"evaluation.num_pictures={num_pictures}: at least one picture is needed to look at")
        for run in compare:
            if not (Path(run) / "vit/config.json").is_file():
                raise FileNotFoundError(f"evaluation.compare: {run} has no vit/, so it is no finished, fully tuned run")
        self.site, self.mass, self.num_pictures, self.compare = site, mass, num_pictures, list(compare)

    def check(self, model: Any, data: ClassificationData) -> None:
        """Whether this evaluation can judge `model`, asked before training; it takes any data.

        Raises:
            ValueError: it is no ViT, or `site` is not exactly one of its attention modules.
        """
        if not hasattr(model, "vit"):
            raise ValueError(f"evaluation=classification judges a ViT, not a {type(model).__name__}")
        if len(names := matching_attention(model.vit, [self.site])) != 1:
            raise ValueError(
                f"evaluation.site={self.site} matches {len(names)} attention modules, one is shown: name it"
            )

    def evaluate(self, run: FinishedRun) -> dict[str, Any]:
        """Looks with the source, with every run of `compare` and with the tuned model; see `Evaluation.evaluate`."""
        model, datamodule, data = run.model, run.datamodule, run.datamodule.data
        split, pictures = ("validation", data.validation) if data.validation else ("test", data.test)
        model.set_classes(data.classes)
        source = self._look(model, model.vit, datamodule, pictures, "the source looks", maps_only=True)
        others = {}
        for folder in map(Path, self.compare):
            name = OmegaConf.load(folder / "config.yaml").name
            vit = timm.create_model(f"local-dir:{folder / 'vit'}", pretrained=True).to(next(model.vit.parameters()))
            others[name] = self._look(model, vit, datamodule, pictures, f"{name} looks", maps_only=True).maps
        run.adapter.load(model, run.run_dir)
        tuned = self._look(model, model.vit, datamodule, pictures, "the tuned model looks", maps_only=False)
        self._draw(run.out_dir, datamodule, pictures, {"source": source.maps, **others, "tuned": tuned.maps})
        return {
            "subject": data.name,
            "classes": list(data.classes),
            "pictures": {name: len(getattr(data, name)) for name in ("train", "validation", "test")},
            "evaluation": vars(self),
            "metrics": self._figures(split, len(pictures), tuned=tuned, source=source),
        }

    def _figures(self, split: str, count: int, *, tuned: "_Look", source: "_Look") -> dict[str, dict[str, Any]]:
        """For `metrics.json`, by name; `count`: pictures of the `split`."""
        figures = {
            f"{split}/{name}": {
                "tuned": tuned.scores[name], "base": None, "reference": None,
                "description": f"{words}, {count} {split} pictures",
            }
            for name, words in _SCORES.items()
        }  # fmt: skip
        for name, words in _JACCARD.items() if tuned.jaccard else ():
            figures[f"{split}/attention_jaccard/{name}"] = {
                "tuned": tuned.jaccard[name], "base": source.jaccard[name], "reference": None,
                "description": f"{words}; patches with {self.mass:.0%} of the last block's [CLS] attention",
            }  # fmt: skip
        return figures

    def _look(
        self,
        model: VisionTransformer,
        vit: Any,
        datamodule: ClassificationDataModule,
        pictures: Sequence[LabelledPicture],
        description: str,
        *,
        maps_only: bool,
    ) -> "_Look":
        capture = ClsAttentionCapture(vit.eval(), [self.site])
        device = next(vit.parameters()).device
        count = len(datamodule.data.classes)
        scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "mean_class_accuracy": MulticlassAccuracy(count, average="macro"),
            }
        ).to(device)
        has_masks = all(picture.mask is not None for picture in pictures)
        jaccard = AttentionJaccard(mass=self.mass).to(device)
        shown = set(self._shown(pictures))
        maps: list[Any] = []
        seen = 0
        for batch in track(datamodule.loader(pictures, masks=has_masks), description):
            logits, attention = cls_attention_maps(vit, model.normalize(batch["pictures"].to(device)), capture)
            if not maps_only:
                scores.update(logits, batch["labels"].to(device))
            if has_masks:
                jaccard.update(attention, batch["masks"].to(device))
            maps += [attention[i].mean(0).cpu().numpy() for i in range(len(logits)) if seen + i in shown]
            seen += len(logits)
        return _Look(
            scores={} if maps_only else {name: float(value) for name, value in scores.compute().items()},
            jaccard={name: float(value) for name, value in jaccard.compute().items()} if has_masks else {},
            maps=maps,
        )

    def _shown(self, pictures: Sequence[LabelledPicture]) -> list[int]:
        """Which pictures' maps are shown: spread evenly, so over the classes, which lie one after another."""
        return evenly(len(pictures), self.num_pictures)

    def _draw(
        self,
        out_dir: Path,
        datamodule: ClassificationDataModule,
        pictures: Sequence[LabelledPicture],
        maps: dict[str, list[Any]],
    ) -> None:
        shown = [pictures[i] for i in self._shown(pictures)]
        has_masks = all(picture.mask is not None for picture in shown)
        dataset = datamodule.loader(shown, masks=has_masks).dataset
        items = [dataset[i] for i in range(len(shown))]
        grid = attention_grid(
            [Image.fromarray(item["pictures"].permute(1, 2, 0).numpy()) for item in items],
            maps,
            masks=[item["masks"].numpy() for item in items] if has_masks else None,
            labels=[datamodule.data.classes[picture.label] for picture in shown],
        )
        (out_dir / "attention").mkdir(parents=True, exist_ok=True)
        grid.save(out_dir / "attention" / "grid.png")


@dataclass(frozen=True, slots=True)
class _Look:
    """What one model does on one set of pictures; `maps` are head means `[h, w]` of the pictures shown."""

    scores: dict[str, float]
    jaccard: dict[str, float]
    maps: list[Any]


_SCORES = {
    "accuracy": "share of the pictures whose class is right",
    "mean_class_accuracy": "mean over the classes of the share that is right",
}
_JACCARD = {
    "best_head": "Jaccard index with the object's mask, of each picture's best head (an oracle, the usual figure)",
    "head_mean": "Jaccard index with the object's mask, of the heads' mean",
    "random_best_head": "the same of random attention, best of as many heads: a control for best_head",
    "random": "the same of random attention, heads' mean: a control for head_mean",
    "centred_square": "the same of a centred square of the objects' mean area, a control",
}


@torch.no_grad()
def cls_attention_maps(vit: Any, pictures: Tensor, capture: ClsAttentionCapture) -> tuple[Tensor, Tensor]:
    """Logits `[B, classes]`, and the captured block's [CLS] attention over the patches `[B, heads, h, w]`, sum ≤ 1.

    Args:
        pictures: normalised, `[B, 3, H, W]`.
        capture: of one attention module of `vit`.
    """
    with capture.recording() as captured:
        logits = vit(pictures)
    rows = captured[capture.names[-1]].softmax(-1)[..., vit.num_prefix_tokens :]
    return logits, rows.unflatten(-1, tuple(vit.patch_embed.grid_size))
