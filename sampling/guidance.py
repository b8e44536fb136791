"""Guidance: how the predictions of the pretrained and the tuned model become the one that a scheduler takes.

`e_ref(∅)`, `e_ref(c)` are the pretrained model's predictions without a prompt and with the class word, `e_θ(∅)`,
`e_θ(c*)` the tuned model's without a prompt and with the identifier. All but APG is the same for predictions of noise,
of the clean latent and of v, which are affine in one another.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from torch import Tensor

from checks.values import at_least, finite, one_of, share

REFERENCE_UNCONDITIONAL, REFERENCE_CONDITIONAL = "reference_unconditional", "reference_conditional"
STUDENT_UNCONDITIONAL, STUDENT_CONDITIONAL = "student_unconditional", "student_conditional"
RULES = ("constant", "cfg_clamp", "negative_only")
AUTO = "auto"


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products `[B]` over all dimensions but the first, in the tensors' dtype."""
    return (one * other).flatten(1).sum(1)


def parallel_coefficient(consistency: Tensor, cfg: Tensor) -> Tensor:
    """`a = ⟨g_con, g_cfg⟩ / ‖g_cfg‖²` of each row, `[B]`; 0 where `g_cfg` vanishes (arXiv:2506.00607).

    Args:
        consistency: `g_con = e_θ(c*) − e_ref(c)`, `[B, …]`.
        cfg: `g_cfg = e_ref(c) − e_ref(∅)`, `[B, …]`.
    """
    square = dot(cfg, cfg)
    return torch.where(square > 0, dot(consistency, cfg) / square.where(square > 0, 1), 0)


def cosine(consistency: Tensor, cfg: Tensor) -> Tensor:
    """Cosine of the two directions, `[B]`; 0 where one vanishes."""
    norms = dot(cfg, cfg).sqrt() * dot(consistency, consistency).sqrt()
    return torch.where(norms > 0, dot(consistency, cfg) / norms.where(norms > 0, 1), 0)


def parallel_share(consistency: Tensor, cfg: Tensor) -> Tensor:
    """Share of `‖g_con‖²` that is parallel to `g_cfg`, `[B]` in [0, 1]: the cosine's square."""
    return cosine(consistency, cfg).square()


def proposed_scale(coefficient: Tensor, *, kappa: float, guidance_scale: float, consistency_scale: float) -> float:
    """The largest `s` in [0, 1] that keeps the mean effective CFG scale `w + s w_con a` within `w (1 ± kappa)`.

    Not stated in the sources: one number for all pictures and times, read off a validation, where `cfg_clamp` asks the
    same of every picture in every step.

    Args:
        coefficient: `a`, of pictures and times alike, `[…]`; those that count under the rule.
        kappa, guidance_scale, consistency_scale: see `parallel_scale`.
    """
    shift = abs(consistency_scale * float(coefficient.mean())) if coefficient.numel() else 0.0
    allowed = kappa * abs(guidance_scale)
    return min(1.0, allowed / shift) if shift > 0 else 1.0


def parallel_scale(
    coefficient: Tensor, *, rule: str, scale: float, kappa: float, guidance_scale: float, consistency_scale: float
) -> Tensor:
    """`s`, by which the part of the consistency guidance parallel to CFG is multiplied, `[B]`.

    That the parallel part is rescaled is arXiv:2506.00607's; the rules are not stated in the sources.

    Args:
        coefficient: `a`, `[B]`.
        rule: "constant", `s = scale` (1 is plain consistency guidance, 0 keeps the orthogonal part only);
            "cfg_clamp", shrunk as far as keeps the effective CFG scale `w + s w_con a` within `w (1 ± kappa)`;
            "negative_only", `scale` where `w_con a < 0`, where the student works against the prompt, else 1.
        scale: in [0, 1].
        kappa: 0 or more.
        guidance_scale, consistency_scale: `w`, `w_con`.
    """
    if rule == "constant":
        return torch.full_like(coefficient, scale)
    if rule == "negative_only":
        return torch.where(consistency_scale * coefficient < 0, scale, 1.0).to(coefficient)
    shift = (consistency_scale * coefficient).abs()
    allowed = kappa * abs(guidance_scale)
    return torch.where(shift > allowed, allowed / shift.where(shift > 0, 1), 1)


def consistency_guidance(
    unconditional: Tensor,
    cfg: Tensor,
    consistency: Tensor,
    *,
    guidance_scale: float,
    consistency_scale: float,
    parallel: Tensor,
) -> Tensor:
    """`e_ref(∅) + w g_cfg + w_con (g_con − parallel)`, `[B, …]` (DCO, arXiv:2402.12004, where nothing is taken off).

    Args:
        unconditional: `e_ref(∅)`.
        cfg, consistency: see `parallel_coefficient`.
        guidance_scale, consistency_scale: `w`, `w_con`.
        parallel: what is taken off, `(1 − s) a g_cfg` for a parallel part that is rescaled by `s`.
    """
    return unconditional + guidance_scale * cfg + consistency_scale * (consistency - parallel)


@dataclass(frozen=True, slots=True)
class Guided:
    """A guided prediction `[B, …]`, and what is worth a look of every row, `[B]` by name."""

    prediction: Tensor
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


class Guidance(ABC):
    """One way to guide a tuned model.

    Args:
        guidance_scale: `w`, of classifier-free guidance; 1 is none.
    """

    rows: tuple[str, ...]
    """The predictions that it takes, by their names at the top of this file."""

    is_auto: bool = False
    """Whether a training of module=dco_rescale finds a setting of it."""

    def __init__(self, *, guidance_scale: float) -> None:
        # Below 1 diffusers' pipelines leave guidance out.
        at_least("guidance.guidance_scale", guidance_scale, 1, what="where 1 is no guidance")
        self.guidance_scale = guidance_scale

    @property
    def settings(self) -> dict[str, Any]:
        """What it was configured with, for the record of a run."""
        return {name: value for name, value in vars(self).items() if not name.startswith(("_", "is_"))}

    def begin(self) -> None:
        """Called before the first step of every batch."""
        return

    @abstractmethod
    def __call__(self, predictions: Mapping[str, Tensor], *, progress: float) -> Guided:
        """Guides one denoising step.

        Args:
            predictions: `[B, …]` by the names in `rows`.
            progress: share of the steps that are done.
        """


class ClassifierFreeGuidance(Guidance):
    """Classifier-free guidance (arXiv:2207.12598) of the tuned model, as diffusers' pipelines do it."""

    rows = (STUDENT_UNCONDITIONAL, STUDENT_CONDITIONAL)

    def __call__(self, predictions: Mapping[str, Tensor], *, progress: float) -> Guided:
        unconditional, conditional = (predictions[row] for row in self.rows)
        return Guided(unconditional + self.guidance_scale * (conditional - unconditional))


class AdaptiveProjectedGuidance(Guidance):
    """APG (arXiv:2410.02416) of the tuned model, by diffusers' own function, in float32.

    The paper projects on the predicted clean latent; here it is whatever the model predicts, as in diffusers' guider.

    Args:
        eta: factor of the part that is parallel to the conditional prediction; 0 in the paper.
        norm_threshold: longest that the difference may be, over all dimensions of a latent, to whose number it
            belongs; 0 leaves it alone.
        momentum: of the differences of earlier steps, -0.5 in the paper; 0 is none.
    """

    rows = (STUDENT_UNCONDITIONAL, STUDENT_CONDITIONAL)

    def __init__(self, *, guidance_scale: float, eta: float, norm_threshold: float, momentum: float) -> None:
        super().__init__(guidance_scale=guidance_scale)
        finite("guidance.eta", eta)
        finite("guidance.momentum", momentum)
        at_least("guidance.norm_threshold", norm_threshold, 0, what="where 0 leaves the length alone")
        self.eta, self.norm_threshold, self.momentum = eta, norm_threshold, momentum

    def begin(self) -> None:
        self._buffer = MomentumBuffer(self.momentum)

    def __call__(self, predictions: Mapping[str, Tensor], *, progress: float) -> Guided:
        given = [predictions[row] for row in self.rows]
        unconditional, conditional = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in given)
        guided = normalized_guidance(
            conditional,
            unconditional,
            self.guidance_scale - 1,  # `e(c) + (w − 1) …` is the paper's
            use_original_formulation=True,
            momentum_buffer=self._buffer,
            eta=self.eta,
            norm_threshold=self.norm_threshold,
        )
        return Guided(guided.to(given[0].dtype))


class ConsistencyGuidance(Guidance):
    """DCO's consistency guidance: CFG of the pretrained model, and towards the tuned one.

    Every step tells the effective CFG scale `w + s w_con a`, which the parallel part moves, and the cosine of both.

    Args:
        consistency_scale: `w_con`, 3 in DCO; 0 gives the pretrained model without the subject, a negative value goes
            away from the subject. With `w_con = w` it is CFG with the tuned model's conditional prediction.
        start, stop: shares of the steps between which `w_con` counts, to the end with stop 1; elsewhere it is 0. Not
            stated in the sources.
    """

    rows = (REFERENCE_UNCONDITIONAL, REFERENCE_CONDITIONAL, STUDENT_CONDITIONAL)

    def __init__(self, *, guidance_scale: float, consistency_scale: float, start: float, stop: float) -> None:
        super().__init__(guidance_scale=guidance_scale)
        finite("guidance.consistency_scale", consistency_scale)
        for name, value in (("start", start), ("stop", stop)):
            share(f"guidance.{name}", value, what="of the steps")
        if not 0 <= start < stop <= 1:
            raise ValueError(f"guidance.start={start} guidance.stop={stop}: 0 ≤ start < stop ≤ 1 is needed")
        self.consistency_scale, self.start, self.stop = consistency_scale, start, stop

    def parallel_scale(self, coefficient: Tensor) -> Tensor:
        """`s` of each row, `[B]`."""
        return torch.ones_like(coefficient)

    def __call__(self, predictions: Mapping[str, Tensor], *, progress: float) -> Guided:
        given = [predictions[row] for row in self.rows]
        dtype = torch.promote_types(given[0].dtype, torch.float32)
        unconditional, conditional, student = (each.to(dtype) for each in given)
        cfg, consistency = conditional - unconditional, student - conditional
        counts = self.start <= progress and (progress < self.stop or self.stop == 1)
        weight = self.consistency_scale if counts else 0.0
        coefficient = parallel_coefficient(consistency, cfg)
        scale = self.parallel_scale(coefficient)
        shape = (-1, *[1] * (cfg.ndim - 1))
        guided = consistency_guidance(
            unconditional,
            cfg,
            consistency,
            guidance_scale=self.guidance_scale,
            consistency_scale=weight,
            parallel=((1 - scale) * coefficient).view(shape) * cfg,
        )
        diagnostics = {
            "effective_cfg_scale": self.guidance_scale + scale * weight * coefficient,
            "cosine": cosine(consistency, cfg),
        }
        return Guided(guided.to(given[0].dtype), diagnostics)


class ParallelRescaledGuidance(ConsistencyGuidance):
    """Consistency guidance whose part parallel to CFG is rescaled (arXiv:2506.00607).

    Args:
        rule, kappa: see `parallel_scale`.
        scale: see `parallel_scale`; "auto" is what a training of module=dco_rescale proposes, and 1 until then.
        guidance_scale, consistency_scale, start, stop: see `ConsistencyGuidance`.
    """

    def __init__(
        self,
        *,
        guidance_scale: float,
        rule: str,
        scale: float | str,
        kappa: float,
        consistency_scale: float,
        start: float,
        stop: float,
    ) -> None:
        super().__init__(guidance_scale=guidance_scale, consistency_scale=consistency_scale, start=start, stop=stop)
        one_of("guidance.rule", rule, RULES)
        self.is_auto = scale == AUTO
        if self.is_auto and rule == "cfg_clamp":
            raise ValueError("guidance.scale=auto: rule cfg_clamp takes no scale, it has guidance.kappa")
        if not self.is_auto:
            share(
                "guidance.scale", scale, what="by which the parallel part is kept (1), shrunk or dropped (0), or auto"
            )
        at_least("guidance.kappa", kappa, 0)
        self.rule, self.kappa = rule, kappa
        self.scale = 1.0 if self.is_auto else float(scale)

    def propose_scale(self, coefficient: Tensor) -> float:
        """`proposed_scale` for this rule, of the coefficients `a` `[…]` of a validation."""
        counts = coefficient[self.consistency_scale * coefficient < 0] if self.rule == "negative_only" else coefficient
        return proposed_scale(
            counts,
            kappa=self.kappa,
            guidance_scale=self.guidance_scale,
            consistency_scale=self.consistency_scale,
        )

    def parallel_scale(self, coefficient: Tensor) -> Tensor:
        return parallel_scale(
            coefficient,
            rule=self.rule,
            scale=self.scale,
            kappa=self.kappa,
            guidance_scale=self.guidance_scale,
            consistency_scale=self.consistency_scale,
        )


class PerPictureGuidance(Guidance):
    """Guides every picture of a batch by a guidance of its own.

    Args:
        guidances: one for each picture of the batch.

    Raises:
        ValueError: they do not take the same predictions.
    """

    def __init__(self, guidances: Sequence[Guidance]) -> None:
        if len({guidance.rows for guidance in guidances}) != 1:
            names = ", ".join(type(guidance).__name__ for guidance in guidances)
            raise ValueError(f"{names}: guidances of one batch take the same predictions; draw them in turn")
        super().__init__(guidance_scale=guidances[0].guidance_scale)  # each has its own
        self.rows = guidances[0].rows
        self._guidances = guidances

    def begin(self) -> None:
        for guidance in self._guidances:
            guidance.begin()

    def __call__(self, predictions: Mapping[str, Tensor], *, progress: float) -> Guided:
        each = [
            guidance(
                {name: rows[i : i + 1] for name, rows in predictions.items()},
                progress=progress,
            )
            for i, guidance in enumerate(self._guidances)
        ]
        told = {name: torch.cat([one.diagnostics[name] for one in each]) for name in each[0].diagnostics}
        return Guided(torch.cat([one.prediction for one in each]), told)
