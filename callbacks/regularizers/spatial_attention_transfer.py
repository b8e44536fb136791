"""Guided transfer of spatial attention, GTA (arXiv:2401.02656): look where the pretrained ViT looks."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, ModelPass, Needs, TermOutput
from checks.values import one_of

DIVERGENCES = ("mse", "softmax_mse", "kl")


def attention_transfer_loss(
    student: Tensor, source: Tensor, *, num_prefix_tokens: int, include_cls: bool, center: bool, divergence: str
) -> Tensor:
    """Distance of two sets of attention logits, averaged over everything but the columns; 0 exactly where they agree.

    GTA states the squared difference of the logits on the [CLS] row's patches. The other divergences, `center`,
    `include_cls` and the averages are not stated in the sources. All of it is float32.

    Args:
        student, source: `[..., N]` logits `q kᵀ/√d` before the softmax; the last axis is the tokens, [CLS] first.
        num_prefix_tokens: how many of the `N` tokens are no patches. Distillation and register tokens are left out.
        include_cls: compare the [CLS] column beside those of the patches.
        center: subtract each row's mean over the compared columns, which a softmax does not see either.
        divergence: "mse", squared difference of logits, averaged over columns; "softmax_mse", the same of weights that
            are softmaxed over the compared columns only; "kl", `KL(source ‖ student)` of such weights, summed over
            columns.
    """
    student, source = (
        _compared(logits.float(), num_prefix_tokens=num_prefix_tokens, include_cls=include_cls)
        for logits in (student, source)
    )
    if divergence == "mse":
        if center:
            student, source = (logits - logits.mean(-1, keepdim=True) for logits in (student, source))
        return F.mse_loss(student, source)
    if divergence == "softmax_mse":
        return F.mse_loss(student.softmax(-1), source.softmax(-1))
    log_student, log_source = student.log_softmax(-1), source.log_softmax(-1)
    return (log_source.exp() * (log_source - log_student)).sum(-1).mean()


def _compared(logits: Tensor, *, num_prefix_tokens: int, include_cls: bool) -> Tensor:
    patches = logits[..., num_prefix_tokens:]
    return torch.cat([logits[..., :1], patches], -1) if include_cls else patches


def patch_and_cls_rows(query: Tensor, key: Tensor, *, scale: float, num_prefix_tokens: int) -> Tensor:
    """Logits `q kᵀ · scale` of the [CLS] row and all patch rows, `[B, heads, 1 + patches, N]` in float32.

    Args:
        query, key: `[B, heads, N, d]`, [CLS] first.
        scale: 1/√d.
        num_prefix_tokens: how many of the `N` tokens are no patches.
    """
    rows = torch.cat([query[:, :, :1], query[:, :, num_prefix_tokens:]], 2)
    return rows.float() * scale @ key.float().transpose(-1, -2)


class SpatialAttentionTransfer(Regularizer):
    """`attention_transfer_loss`, averaged over layers, between the student and the pretrained ViT on the same pictures.

    Written for a `ClassificationStep`. Layers and heads are matched one to one.

    Args:
        weight: `λ`; not stated in the sources.
        sites: glob patterns of attention modules, "blocks.*.attn" (all layers; which ones is not stated in the
            sources) or "blocks.*.attn[last]".
        include_cls, center, divergence: see `attention_transfer_loss`; `center` changes nothing after a softmax.
        rows: "cls", the [CLS] token's attention, as GTA states, or "all", the patches' too (`N` times the memory).
    """

    step_type: ClassVar[type] = ClassificationStep

    def __init__(
        self, *, weight: float, sites: list[str], include_cls: bool, center: bool, divergence: str, rows: str
    ) -> None:
        super().__init__(weight=weight)
        one_of("regularizer.spatial_attention_transfer.divergence", divergence, DIVERGENCES)
        one_of("regularizer.spatial_attention_transfer.rows", rows, ("cls", "all"))
        if not sites:
            raise ValueError('regularizer.spatial_attention_transfer.sites=[]: name a layer, as in ["blocks.*.attn"]')
        self.include_cls, self.center, self.divergence, self.rows = include_cls, center, divergence, rows
        asked = frozenset(sites)
        self.needs = (
            Needs(reference=True, cls_logits=asked) if rows == "cls" else Needs(reference=True, attention=asked)
        )

    def loss(self, step: ClassificationStep) -> TermOutput:
        assert step.reference is not None
        # The [CLS] rows of all layers at once; all rows layer by layer, which take memory.
        captured = step.student.cls_logits if self.rows == "cls" else step.student.attention
        names = list(captured.at(self.needs.cls_logits | self.needs.attention))
        groups = [names] if self.rows == "cls" else [[name] for name in names]
        losses = [
            attention_transfer_loss(
                *(
                    torch.stack([self._logits(each, name, step.num_prefix_tokens) for name in group])
                    for each in (step.student, step.reference)
                ),
                num_prefix_tokens=step.num_prefix_tokens,
                include_cls=self.include_cls,
                center=self.center,
                divergence=self.divergence,
            )
            for group in groups
        ]
        return TermOutput(torch.stack(losses).mean())

    def _logits(self, forward: ModelPass, name: str, num_prefix_tokens: int) -> Tensor:
        if self.rows == "cls":
            return forward.cls_logits[name]
        record = forward.attention[name]
        return patch_and_cls_rows(record.query, record.key, scale=record.scale, num_prefix_tokens=num_prefix_tokens)
