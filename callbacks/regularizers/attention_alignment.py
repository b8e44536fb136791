"""Attention alignment of APT (arXiv:2507.02687): keep the cross-attention maps where the pretrained model has them."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep, Needs, TermOutput
from models.attention import attention_maps
from models.capture import matching_submodules


def merge_columns(maps: Tensor, groups: Tensor) -> Tensor:
    """Adds up the columns of one group; the sum of each row stays 1.

    Args:
        maps: `[rows, heads, queries, tokens]`.
        groups: int64 `[rows, tokens]`, see `TokenColumns`; groups that do not occur come out as 0.
    """
    return torch.zeros_like(maps).scatter_add_(-1, groups[:, None, None].expand_as(maps), maps)


def attention_alignment_loss(student: Tensor, reference: Tensor, *, divergence: str) -> Tensor:
    """Distance of two sets of softmaxed maps: summed over text tokens, averaged over queries, heads and rows.

    The form is not stated in the sources.

    Args:
        student, reference: `[rows, heads, queries, tokens]`, rows summing to 1, columns meaning the same words.
        divergence: "mse", squared differences, or "kl", `KL(reference ‖ student)`.
    """
    if divergence == "mse":
        return (student - reference).square().sum(-1).mean()
    # Columns of empty groups are 0 on both sides and add nothing.
    ratio = reference.clamp(min=1e-12).log() - student.clamp(min=1e-12).log()
    return (reference * ratio).sum(-1).mean()


class AttentionAlignment(Regularizer):
    """`attention_alignment_loss`, averaged over layers, between student (`c*`) and frozen model (`c`).

    Args:
        weight: `λ_attn`; not stated in the sources.
        sites: glob patterns of the cross-attention modules, "up_blocks.*.attn2"; the layer list is not stated in the
            sources.
        divergence: "mse" or "kl".
    """

    step_type: ClassVar[type] = DiffusionStep

    def __init__(self, *, weight: float, sites: list[str], divergence: str) -> None:
        super().__init__(weight=weight)
        if divergence not in ("mse", "kl"):
            raise ValueError(f"attention_alignment.divergence={divergence!r}: choose mse or kl")
        self.divergence = divergence
        self._patterns = sites
        projections = frozenset(f"{site}.{projection}" for site in sites for projection in ("to_q", "to_k"))
        self.needs = Needs(reference=True, sites=projections, token_columns=True)
        self._sites: dict[str, tuple[int, float]] = {}

    def attach(self, model: nn.Module) -> None:
        for name in matching_submodules(model, self._patterns):
            attention = model.get_submodule(name)
            self._sites[name] = (attention.heads, attention.scale)  # type: ignore[assignment]

    def loss(self, step: DiffusionStep) -> TermOutput:
        assert step.reference is not None and step.token_columns is not None
        rows = step.num_instance
        losses = []
        for site, (heads, scale) in self._sites.items():
            student, reference = (
                attention_maps(
                    captured[f"{site}.to_q"][:rows], captured[f"{site}.to_k"][:rows], heads=heads, scale=scale
                )
                for captured in (step.student.captured, step.reference.captured)
            )
            losses.append(
                attention_alignment_loss(
                    merge_columns(student, step.token_columns.student),
                    merge_columns(reference, step.token_columns.reference),
                    divergence=self.divergence,
                )
            )
        return TermOutput(torch.stack(losses).mean())
