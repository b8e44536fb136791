"""`DCORescaleModule`: direct consistency (DCO), and a consistency guidance whose part parallel to CFG is rescaled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import OmegaConf
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.regularizers.direct_consistency import DirectConsistency
from lightning_modules.diffusion import DiffusionModule
from lightning_modules.paired_validation import ValidatedRows
from sampling.guidance import Guidance, ParallelRescaledGuidance, cosine, parallel_coefficient, parallel_share

CURVES = ("heldout/parallel_coefficient", "heldout/parallel_cosine", "heldout/parallel")
"""Means over the held-out pictures of a bin: `a`, the cosine of both guidances, the share of ours that is parallel."""

PROPOSED = "heldout/proposed_scale"
"""What a validation proposes for `guidance.scale`; see `sampling.guidance.proposed_scale`."""


class DCORescaleModule(DiffusionModule):
    """DCO's training (arXiv:2402.12004), and the guidance that it is made for, rescaled (arXiv:2506.00607).

    Its primary term is `direct_consistency`, so the frozen pass is always there. Every validation asks the frozen model
    for the empty prompt as well, one more row on the same noisy latents, and logs what the rescaling acts on, with the
    `scale` that it proposes for the guidance's rule.

    With `guidance.scale=auto` everything is drawn by the scale that the held-out pictures propose at the end of
    training; pictures along the training by 1, so that they compare.

    Args:
        guidance: of everything that is drawn: along the training, in the evaluation, in `predict_step`.
        regularizers, **kwargs: see `DiffusionModule`.

    Raises:
        ValueError: another primary term.
    """

    proposes_scale: ClassVar[bool] = True

    def __init__(self, *, guidance: Guidance | None, regularizers: Mapping[str, Regularizer], **kwargs: Any) -> None:
        super().__init__(guidance=guidance, regularizers=regularizers, **kwargs)
        primary = next(plugin for plugin in self.regularizers.values() if plugin.primary)
        if not isinstance(primary, DirectConsistency):
            raise ValueError(
                f"module=dco_rescale learns by direct consistency, and regularizer.{primary.name} is a "
                f"{type(primary).__name__}: take regularizer=direct_consistency, or module=diffusion"
            )

    def on_fit_start(self) -> None:
        """Raises:
        ValueError: `guidance.scale=auto` without a held-out picture to read it off.
        """
        heldout = self.trainer.datamodule.subject.heldout  # type: ignore[attr-defined]
        if self._finds_scale and not heldout:
            raise ValueError(
                "guidance.scale=auto is read off held-out pictures, and there are none: hold some out "
                "(data.num_heldout=2), or give a number in [0, 1]"
            )
        self._num_heldout = len(heldout)
        super().on_fit_start()

    @property
    def _finds_scale(self) -> bool:
        return self.guidance is not None and self.guidance.is_auto

    def _prepare_validation(self, datamodule: Any) -> None:
        super()._prepare_validation(datamodule)
        self._unconditional = self.model.encode_prompts([""])

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._told: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The base's, and the frozen model's pass for the empty prompt over the held-out rows."""
        index, bins = batch["index"], batch["bin"]
        rows = self.validated(index, bins)
        is_heldout = index < self._num_heldout
        if is_heldout.any():
            kept = self.send(is_heldout.nonzero().flatten())
            self._told.append((bins[is_heldout], self._parallel(rows, kept)))

    def _parallel(self, rows: ValidatedRows, kept: Tensor) -> Tensor:
        """What `CURVES` name of the rows `kept`, `[rows, 3]`."""
        noisy, t, student, reference = (each[kept] for each in (rows.noisy, rows.t, rows.student, rows.reference))
        unconditional = self.reference_pass(noisy, t, self._unconditional.expand(len(kept))).prediction.float()
        cfg, consistency = reference.float() - unconditional, student.float() - reference.float()
        return torch.stack([of(consistency, cfg) for of in (parallel_coefficient, cosine, parallel_share)], dim=1)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self._told:
            return
        bins, values = (torch.cat(parts) for parts in zip(*((b, v.cpu()) for b, v in self._told), strict=True))
        for number in bins.unique().tolist():
            means = values[bins == number].mean(0)
            self.log_dict({f"{curve}/bin_{number:02d}": mean for curve, mean in zip(CURVES, means, strict=True)})
        if isinstance(self.guidance, ParallelRescaledGuidance) and self.guidance.rule != "cfg_clamp":
            self.log(PROPOSED, self.guidance.propose_scale(values[:, 0]))

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Reads an automatic scale off the held-out pictures, by the weights that the run ends with."""
        if not self._finds_scale:
            return
        assert isinstance(self.guidance, ParallelRescaledGuidance)
        self.eval()
        self.on_validation_epoch_start()
        for number, batch in enumerate(self.trainer.datamodule.val_dataloader()):  # type: ignore[attr-defined]
            self.validation_step(batch, number)
        self.guidance.scale = self.guidance.propose_scale(torch.cat([values[:, 0] for _, values in self._told]))

    def save(self, run_dir: Path) -> Path:
        """As `DiffusionModule.save`; a scale that was found for `guidance.scale=auto` goes into the run's config."""
        folder = super().save(run_dir)
        if self._finds_scale:
            assert isinstance(self.guidance, ParallelRescaledGuidance)
            write_scale(run_dir / "config.yaml", self.guidance.scale)
        return folder


def write_scale(config: Path, scale: float) -> None:
    """Puts `scale` where a run's `config` says `auto`: from then on it is drawn by that number.

    The module's own `auto` stays, by which a resumed training is known to be the same.
    """
    cfg = OmegaConf.load(config)
    for key in ("guidance.scale", "evaluation.guidance.scale"):
        if OmegaConf.select(cfg, key) == "auto":
            OmegaConf.update(cfg, key, scale)
    unfinished = config.with_suffix(".unfinished")
    OmegaConf.save(cfg, unfinished)
    unfinished.replace(config)
