"""`DCORescaleModule`: direct consistency (DCO), and a consistency guidance whose part parallel to CFG is rescaled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.regularizers.direct_consistency import DirectConsistency
from callbacks.step import Needs
from lightning_modules.diffusion import DiffusionModule
from sampling.guidance import Guidance, ParallelRescaledGuidance, cosine, parallel_coefficient, parallel_share

CURVES = ("heldout/parallel_coefficient", "heldout/parallel_cosine", "heldout/parallel")
"""Means over the held-out pictures of a bin: `a`, the cosine of both guidances, the share of ours that is parallel."""

PROPOSED = "heldout/proposed_scale"


class DCORescaleModule(DiffusionModule):
    """DCO's training (arXiv:2402.12004), and the guidance that it is made for, rescaled (arXiv:2506.00607).

    Its primary term is `direct_consistency`, so the frozen pass is always there. Every validation asks the frozen model
    for the empty prompt as well, one more row on the same noisy latents, and logs what the rescaling acts on. At the
    end it proposes the `scale` of the guidance's rule, and with `guidance.scale=auto` draws by it from then on.

    Args:
        guidance: of everything that is drawn: along the training, in the evaluation, in `predict_step`.
        regularizers, **kwargs: see `DiffusionModule`.

    Raises:
        ValueError: another primary term, or `guidance.scale=auto` without a held-out picture to read it off.
    """

    proposes_scale = True

    def __init__(self, *, guidance: Guidance | None, regularizers: Mapping[str, Regularizer], **kwargs: Any) -> None:
        super().__init__(guidance=guidance, regularizers=regularizers, **kwargs)
        primary = next(plugin for plugin in self.regularizers.values() if plugin.primary)
        if not isinstance(primary, DirectConsistency):
            raise ValueError(
                f"module=dco_rescale learns by direct consistency, and regularizer.{primary.name} is a "
                f"{type(primary).__name__}: take regularizer=direct_consistency, or module=diffusion"
            )
        self.needs |= Needs(reference=True)
        self._coefficients: Tensor | None = None

    @property
    def proposed_scale(self) -> float | None:
        """What the last validation proposes for `guidance.scale`; None before it, and for a guidance without one."""
        if not isinstance(self.guidance, ParallelRescaledGuidance) or self.guidance.rule == "cfg_clamp":
            return None
        return None if self._coefficients is None else self.guidance.propose_scale(self._coefficients)

    def _prepare_validation(self, datamodule: Any) -> None:
        super()._prepare_validation(datamodule)
        self._num_heldout, self._num_bins = len(datamodule.subject.heldout), datamodule.num_bins
        if getattr(self.guidance, "is_auto", False) and not self._num_heldout:
            raise ValueError(
                "guidance.scale=auto is read off held-out pictures, and there are none: hold some out "
                "(data.num_heldout=2), or give a number in [0, 1]"
            )
        self._unconditional = self.model.encode_prompts([""])

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._told: list[tuple[Tensor, Tensor]] = []  # bins, and what CURVES name of each row

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        index, bins = batch["index"], batch["bin"]
        rows = self.validated(index, bins)
        is_heldout = index < self._num_heldout
        if not is_heldout.any():
            return
        kept = self.send(is_heldout.nonzero().flatten())
        noisy, t, student, reference = (each[kept] for each in (rows.noisy, rows.t, rows.student, rows.reference))
        unconditional = self.reference_pass(noisy, t, self._unconditional.expand(len(kept))).prediction
        cfg, consistency = (
            one.float() - other.float() for one, other in ((reference, unconditional), (student, reference))
        )
        told = [of(consistency, cfg) for of in (parallel_coefficient, cosine, parallel_share)]
        self._told.append((bins[is_heldout], torch.stack(told, dim=1)))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self._told:
            return
        bins, values = (torch.cat(parts) for parts in zip(*((b, v.cpu()) for b, v in self._told), strict=True))
        for number in bins.unique().tolist():
            means = values[bins == number].mean(0)
            self.log_dict({f"{curve}/bin_{number:02d}": mean for curve, mean in zip(CURVES, means, strict=True)})
        self._coefficients = values[:, 0]
        if (scale := self.proposed_scale) is not None:
            self.log(PROPOSED, scale)
            self._take(scale)

    def _take(self, scale: float) -> None:
        if isinstance(self.guidance, ParallelRescaledGuidance) and self.guidance.is_auto:
            self.guidance.scale = scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the last validation told: a run that goes on draws by its scale from the start."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["parallel_coefficients"] = self._coefficients

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._coefficients = checkpoint.get("parallel_coefficients")
        if (scale := self.proposed_scale) is not None:
            self._take(scale)

    def save(self, run_dir: Path) -> Path:
        """As `DiffusionModule.save`; with `guidance.scale=auto` the run's config then names the scale it has found.

        Raises:
            ValueError: nothing was validated, so there is no scale to take.
        """
        if isinstance(self.guidance, ParallelRescaledGuidance) and self.guidance.is_auto:
            if (scale := self.proposed_scale) is None:
                raise ValueError("guidance.scale=auto: the run ended before its first validation (val_check_interval)")
            write_scale(run_dir / "config.yaml", scale)
        return super().save(run_dir)


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
