"""Query and key of any attention, self, cross or joint, of a denoiser or a ViT, while fused attention stays on.

They are taken where `scaled_dot_product_attention` is called, behind norms and rotary embeddings, whatever the layers
before are named. A function mode is open for this only while a matched module runs: on one core of a CPU a step of the
embedded UNet then takes 0.98 to 1.03 times what it took with forward hooks on the projections (1.08 with the mode open
during the whole pass), of the embedded ViT 0.96 to 1.00 times under inductor; the noise is about as large. Dynamo
compiles as many graphs as with hooks, two without checkpointing, and none again; under inductor the same comes out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from models.capture import Captured, SiteCapture, T, matching_submodules


@dataclass(frozen=True, slots=True)
class AttentionRecord:
    """What one attention multiplied: its map is `attention_maps(query, key, scale=scale)`.

    Args:
        query: `[rows, heads, queries, d]`.
        key: `[rows, heads, keys, d]`.
        scale: of the logits, 1/√d.
        text_columns: which of the keys are the prompt's: all of them in cross-attention.
        image_rows: which of the queries are the picture's: all of them in cross-attention.
    """

    query: Tensor
    key: Tensor
    scale: float
    text_columns: slice
    image_rows: slice

    @property
    def is_joint(self) -> bool:
        """Whether other keys stand in one softmax with the prompt's."""
        keys = self.key.shape[2]
        return len(range(*self.text_columns.indices(keys))) < keys


def attention_maps(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    """`softmax(q kᵀ · scale)` in float32, `[rows, heads, queries, keys]`.

    Args:
        query: `[rows, heads, queries, d]`.
        key: `[rows, heads, keys, d]`.
        scale: 1/√d.
    """
    with torch.autocast(query.device.type, enabled=False):
        return (query.float() @ key.float().transpose(-1, -2) * scale).softmax(-1)


def grouped_attention(query: Tensor, key: Tensor, groups: Tensor, *, num_groups: int, scale: float) -> Tensor:
    """`attention_maps` with the columns of each group added up, `[rows, heads, queries, num_groups]` in float32.

    Exact, and the maps are never there: fused attention over values that are 1 in their key's group and 0 elsewhere.

    Args:
        query: `[rows, heads, queries, d]`.
        key: `[rows, heads, keys, d]`.
        groups: int64 `[rows, keys]`, the group of each key, in [0, num_groups).
        scale: 1/√d.
    """
    with torch.autocast(query.device.type, enabled=False):
        # Kernels without a map in memory want values as wide as the queries, or at least of an even width.
        width = max(query.shape[-1], -(-num_groups // 8) * 8)
        values = F.one_hot(groups, width).float()[:, None].expand(-1, query.shape[1], -1, -1)
        return F.scaled_dot_product_attention(query.float(), key.float(), values, scale=scale)[..., :num_groups]


def cls_logits(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    """Attention logits of the first query, `q kᵀ · scale` before the softmax, `[B, heads, N]` in float32.

    Args:
        query: `[B, heads, 1 or more, d]`; the first one is the [CLS] token's.
        key: `[B, heads, N, d]`.
        scale: 1/√d.
    """
    # Not a matrix product, whose backward takes more than twice as long on a CPU for one row.
    with torch.autocast(query.device.type, enabled=False):
        return torch.linalg.vecdot(key.float(), query[:, :, :1].float() * scale)


class _Tap(TorchFunctionMode):
    """Hands on query, key and scale of each fused attention that runs between `open` and `close`."""

    def __init__(self, name: str, note: Callable[[str, Tensor, Tensor, float], None]) -> None:
        super().__init__()
        self.name, self.calls = name, 0
        self._note, self._is_open = note, False

    def open(self) -> None:
        self._is_open = True
        self.__enter__()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._take(*args, **kwargs)
        return func(*args, **kwargs)

    def _take(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if attn_mask is not None or is_causal or enable_gqa:
            raise ValueError(
                f"{self.name} masks its attention, or adds to its logits, or shares keys between heads: its map is not "
                "that of query and key alone, so it cannot be captured: choose other sites"
            )
        self.calls += 1
        self._note(self.name, query, key, query.shape[-1] ** -0.5 if scale is None else scale)


class _FusedAttentionCapture(SiteCapture[T], ABC):
    """Base of the captures of attention: which of them, and what is opened while they run.

    Raises:
        ValueError: a site matches nothing, or a module that is no attention.
    """

    def __init__(
        self, model: nn.Module, sites: Iterable[str], symbolic: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(model, sites, symbolic)
        self._noted: dict[str, tuple[Tensor, Tensor, float]] = {}
        self._taps = [_Tap(name, self._note) for name in self.names]
        for tap in self._taps:
            module = model.get_submodule(tap.name)
            if not (hasattr(module, "heads") or hasattr(module, "num_heads")):
                raise ValueError(f"{tap.name} is a {type(module).__name__}, no attention with heads: name other sites")
            self._register(module, tap)

    def _register(self, module: nn.Module, tap: _Tap) -> None:
        def enter(module: nn.Module, args: object) -> None:
            if self._recording:
                tap.open()

        def leave(module: nn.Module, args: object, output: object) -> None:
            tap.close()

        self._hooks.append(module.register_forward_pre_hook(enter))
        # Before all other hooks, so that what was opened last is closed first; after an error too.
        self._hooks.append(module.register_forward_hook(leave, prepend=True, always_call=True))

    def _note(self, name: str, query: Tensor, key: Tensor, scale: float) -> None:
        """What is kept of an attention until the forward is over."""
        self._noted[name] = query, key, scale

    @abstractmethod
    def _record(self, name: str, query: Tensor, key: Tensor, scale: float) -> T:
        """What is handed on of what was kept."""

    def _clear(self) -> None:
        super()._clear()
        self._noted.clear()
        for tap in self._taps:
            tap.calls = 0

    def _finish(self) -> None:
        self._calls = {tap.name: tap.calls for tap in self._taps}
        for tap in reversed(self._taps):
            tap.close()  # one that a KeyboardInterrupt left open
        for name, noted in self._noted.items():
            self._found[name] = self._record(name, *noted)

    def _check(self, captured: Captured[T]) -> None:
        for name in self.names:
            if (calls := self._calls[name]) != 1:
                raise RuntimeError(
                    f"{name} called scaled_dot_product_attention {calls} times in this forward, so its attention was "
                    "not captured: name one attention that runs once, with fused attention switched on"
                )


class AttentionCapture(_FusedAttentionCapture[AttentionRecord]):
    """Records the query and key of `sites` while `recording` is open; see `SiteCapture`.

    Args:
        text_columns, image_rows: of a site's keys and queries, by its full name; all of them unless given.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Iterable[str],
        symbolic: Mapping[str, Sequence[str]] | None = None,
        *,
        text_columns: Callable[[str], slice] = lambda site: slice(None),
        image_rows: Callable[[str], slice] = lambda site: slice(None),
    ) -> None:
        super().__init__(model, sites, symbolic)
        self._slices = {name: (text_columns(name), image_rows(name)) for name in self.names}

    def _record(self, name: str, query: Tensor, key: Tensor, scale: float) -> AttentionRecord:
        return AttentionRecord(query, key, scale, *self._slices[name])


class ClsAttentionCapture(_FusedAttentionCapture[Tensor]):
    """Records `cls_logits` `[B, heads, N]` of a timm ViT's self-attention while `recording` is open: `N` numbers a
    head, not `N²`.

    Args:
        model: a timm ViT; see `SiteCapture`.
        sites: "blocks.*.attn" or "blocks.*.attn[last]", see `matching_attention`.

    Raises:
        ValueError: see `matching_attention`.
    """

    def __init__(self, model: nn.Module, sites: Iterable[str]) -> None:
        sites = list(sites)
        matching_attention(model, sites)
        super().__init__(model, sites)

    def _note(self, name: str, query: Tensor, key: Tensor, scale: float) -> None:
        if torch.is_grad_enabled():
            # The backward pass keeps the keys anyway. Multiplied out here, gradient checkpointing would miss the
            # product when it runs the forward again with the flag off.
            super()._note(name, query[:, :, :1], key, scale)
        else:  # nobody else keeps the keys of a frozen pass
            self._found[name] = cls_logits(query, key, scale=scale)

    def _record(self, name: str, query: Tensor, key: Tensor, scale: float) -> Tensor:
        return cls_logits(query, key, scale=scale)


def matching_attention(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of a timm ViT's self-attention modules that match any of the patterns, in the model's order.

    Args:
        model: a timm ViT.
        patterns: glob patterns, "blocks.*.attn" or "blocks.*.attn[last]", see `matching_submodules`.

    Raises:
        ValueError: a pattern matches nothing, or a module whose logits cannot be captured, or the model has no [CLS].
    """
    names = matching_submodules(model, patterns)
    for name in names:
        refuse_attention(name, model.get_submodule(name))
    if names and getattr(model, "cls_token", None) is None:
        raise ValueError(
            f"this {type(model).__name__} has no [CLS] token, whose attention is asked for: take one that has"
        )
    return names


def refuse_attention(name: str, attention: nn.Module) -> None:
    """Raises:
    ValueError: the map of `attention` is not that of the query and key which it hands to fused attention.
    """
    kind = type(attention).__name__
    # Others add relative positions to the logits, or subtract one map from another.
    if not isinstance(attention, (Attention, AttentionRope, EvaAttention)):
        raise ValueError(f"{name} is a {kind}, not the self-attention of a timm ViT: choose other sites or another ViT")
    if not attention.fused_attn:
        raise ValueError(
            f"{name} attends without scaled_dot_product_attention, where query and key are taken: leave "
            "TIMM_FUSED_ATTN out of the environment"
        )
