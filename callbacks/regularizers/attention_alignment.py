"""Attention alignment of APT (arXiv:2507.02687): keep the cross-attention maps where the pretrained model has them."""

from typing import ClassVar

import torch
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep, Needs, TermOutput
from checks.values import one_of
from models.attention import AttentionRecord, attention_maps, grouped_attention
from models.columns import TokenColumns


def merge_columns(maps: Tensor, groups: Tensor) -> Tensor:
    """Adds up the columns of one group; the sum of each row stays 1.

    Args:
        maps: `[rows, heads, queries, tokens]`.
        groups: int64 `[rows, tokens]`, see `TokenColumns`; groups that do not occur come out as 0.
    """
    return torch.zeros_like(maps).scatter_add_(-1, groups[:, None, None].expand_as(maps), maps)


def word_attention(record: AttentionRecord, groups: Tensor, *, num_groups: int | None) -> Tensor:
    """Each picture query's attention to each word, `[rows, heads, queries, groups]`; the sum of each row is 1.

    In joint attention the picture's own keys stand in the same softmax; they are one group more, the last.

    Args:
        record: of the rows that `groups` has, and of more behind them.
        groups: int64 `[rows, text columns]`, see `TokenColumns`.
        num_groups: how many there are at most; None where no other keys than the prompt's are attended to, and a group
            that does not occur comes out as 0.
    """
    query, key = record.query[: len(groups), :, record.image_rows], record.key[: len(groups)]
    if num_groups is None:
        return merge_columns(attention_maps(query, key, scale=record.scale), groups)
    of_keys = groups.new_full((len(groups), key.shape[2]), num_groups)
    of_keys[:, record.text_columns] = groups
    return grouped_attention(query, key, of_keys, num_groups=num_groups + 1, scale=record.scale)


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
        sites: the attention modules, cross or joint, by the family's symbolic names ("text") or by glob patterns; the
            layer list is not stated in the sources.
        divergence: "mse" or "kl".
    """

    step_type: ClassVar[type] = DiffusionStep

    def __init__(self, *, weight: float, sites: list[str], divergence: str) -> None:
        super().__init__(weight=weight)
        one_of("regularizer.attention_alignment.divergence", divergence, ("mse", "kl"))
        self.divergence = divergence
        self.needs = Needs(reference=True, attention=frozenset(sites), token_columns=True)

    def loss(self, step: DiffusionStep) -> TermOutput:
        assert step.reference is not None and step.token_columns is not None
        columns = step.token_columns
        references = step.reference.attention.at(self.needs.attention)
        students = step.student.attention.at(self.needs.attention)
        is_joint = any(record.is_joint for record in students.values())
        num_groups = _num_groups(columns) if is_joint else None
        losses = [
            attention_alignment_loss(
                word_attention(student, columns.student, num_groups=num_groups),
                word_attention(references[site], columns.reference, num_groups=num_groups),
                divergence=self.divergence,
            )
            for site, student in students.items()
        ]
        return TermOutput(torch.stack(losses).mean())


def _num_groups(columns: TokenColumns) -> int:
    """One number is read back from the device, once a step: a width of all text columns would take their memory."""
    return int(torch.cat([columns.student, columns.reference], 1).max()) + 1
