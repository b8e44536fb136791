"""The [CLS] rows of a ViT's self-attention logits, captured while fused attention stays on.

timm's fused attention never shows its logits, but it calls `q_norm` and `k_norm` even where they are identities. Their
outputs are the query and the key, of which only the [CLS] row is multiplied out: `N` numbers a head, not `N²`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from models.capture import matching_submodules


def attention_maps(query: Tensor, key: Tensor, *, heads: int, scale: float) -> Tensor:
    """`softmax(q kᵀ · scale)` in float32, `[rows, heads, queries, tokens]`.

    Args:
        query: `[rows, queries, heads · d]`, output of `to_q`.
        key: `[rows, tokens, heads · d]`, output of `to_k`.
        scale: 1/√d.
    """
    q = query.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    k = key.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    return (q @ k.transpose(-1, -2) * scale).softmax(-1)


LAST = "[last]"
"""Ends a pattern that takes the last of its matches only: "blocks.*.attn[last]"."""


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


def matching_attention(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of a timm ViT's self-attention modules that match any of the patterns, in the model's order.

    Args:
        model: a timm ViT.
        patterns: glob patterns, "blocks.*.attn"; with "[last]" at its end, a pattern takes the last match only.

    Raises:
        ValueError: a pattern matches nothing, or a module whose logits cannot be captured, or the model has no [CLS].
    """
    matched: set[str] = set()
    for pattern in patterns:
        found = matching_submodules(model, [pattern.removesuffix(LAST)])
        matched.update(found[-1:] if pattern.endswith(LAST) else found)
    names = [name for name, _ in model.named_modules() if name in matched]
    for name in names:
        refuse_attention(name, model.get_submodule(name))
    if names and getattr(model, "cls_token", None) is None:
        raise ValueError(
            f"this {type(model).__name__} has no [CLS] token, whose attention is asked for: take one that has"
        )
    return names


class ClsAttentionCapture:
    """Records `cls_logits` of the matching attention modules while `recording` is open.

    Args:
        model: a timm ViT; adapters must be injected already, and it must not be compiled yet.
        patterns: of attention modules, "blocks.*.attn" or "blocks.*.attn[last]", see `matching_attention`. With none,
            no hook is registered.

    Raises:
        ValueError: a pattern matches nothing, or a module that has no `q_norm` and `k_norm`, or applies rotary
            embeddings after them; the model has no [CLS] token.
    """

    def __init__(self, model: nn.Module, patterns: Iterable[str]) -> None:
        self.names = matching_attention(model, patterns)
        self._recording = False
        self._queries: dict[str, Tensor] = {}
        self._keys: dict[str, Tensor] = {}
        self._logits: dict[str, Tensor] = {}
        self._scales: dict[str, float] = {}
        for name in self.names:
            attention = model.get_submodule(name)
            self._scales[name] = float(attention.scale)  # type: ignore[arg-type]
            attention.get_submodule("q_norm").register_forward_hook(self._query_hook(name))
            attention.get_submodule("k_norm").register_forward_hook(self._key_hook(name))

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Within the context a forward fills the yielded dict, on leaving, with `[B, heads, N]` by name.

        Raises:
            RuntimeError: a module did not fire.
        """
        captured: dict[str, Tensor] = {}
        self._clear()
        self._recording = bool(self.names)
        try:
            yield captured
        finally:
            self._recording = False
            captured.update(self._logits)
            for name, key in self._keys.items():
                captured[name] = cls_logits(self._queries[name], key, scale=self._scales[name])
            self._clear()
        if silent := [name for name in self.names if name not in captured]:
            raise RuntimeError(f"{silent[0]} was not called in this forward, so nothing was captured there")

    def _clear(self) -> None:
        for store in (self._queries, self._keys, self._logits):
            store.clear()

    def _query_hook(self, name: str):  # type: ignore[no-untyped-def]
        def record(module: nn.Module, args: object, output: Tensor) -> None:
            if self._recording:
                self._queries[name] = output[:, :, :1]

        return record

    def _key_hook(self, name: str):  # type: ignore[no-untyped-def]
        def record(module: nn.Module, args: object, output: Tensor) -> None:
            if not self._recording:
                return
            if torch.is_grad_enabled():
                # The backward pass keeps the keys anyway. Multiplied out here, gradient checkpointing would miss the
                # product when it runs the forward again with the flag off.
                self._keys[name] = output
            else:  # nobody else keeps the keys of a frozen pass
                self._logits[name] = cls_logits(self._queries.pop(name), output, scale=self._scales[name])

        return record


def refuse_attention(name: str, attention: nn.Module) -> None:
    """Raises:
    ValueError: `attention` does not hand its final query and key to `q_norm` and `k_norm`.
    """
    kind = type(attention).__name__
    if "rope" in kind.lower() or "eva" in kind.lower():
        raise ValueError(
            f"{name} is a {kind}, which rotates query and key after q_norm and k_norm (rotary embeddings), so the "
            "logits captured there would be wrong: take a ViT with absolute positions"
        )
    # Others have parts of the same names, but add relative positions to the logits or arrange the heads otherwise.
    if not isinstance(attention, Attention):
        raise ValueError(f"{name} is a {kind}, not the self-attention of a timm ViT: choose other sites or another ViT")
