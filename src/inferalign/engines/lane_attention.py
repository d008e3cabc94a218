"""Attention of a packed pass: each group of tokens reads its own lane, groups on one trunk read that together.

The tokens of a pass are one sequence to the model. transformers calls `lane_attention` in every layer; what it must
know of the pass is set by `attending`. A group on a trunk attends twice, and the two results are merged by
log-sum-exp: the exact softmax over both parts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

NAME = "inferalign_lanes"
"""The attention implementation, as transformers knows it."""
LONG = 256
"""Keys from which, in bfloat16 on a CPU, oneDNN's products beat PyTorch's fused kernel, which has no such units."""
BLOCK = 128
"""Queries whose scores are held at a time where there is no fused kernel: they should stay in a cache."""

TINY = 1e-30
"""A weight over this has all its digits."""

Views = Sequence[torch.Tensor]
"""Keys and values of each layer in turn, `[1, kv_heads, n, head_dim]`: those of layer i at 2 i and 2 i + 1."""


@dataclass(frozen=True, eq=False)
class Group:
    """Tokens of one lane."""

    size: int
    seen: Views
    """The lane's slots, with room for these tokens at the end."""
    new: Views
    """That room."""
    mask: torch.Tensor | None
    """Additive `[size, slots]`, or None where each token sees all slots up to its own."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """Groups that lie side by side in the pass and stand on one trunk, or on none."""

    groups: Sequence[Group]
    trunk: Views | None

    @property
    def size(self) -> int:
        return sum(group.size for group in self.groups)


def views(kv: torch.Tensor) -> Views:
    """`[layers, 2, kv_heads, n, head_dim]`, taken apart."""
    parts: Views = kv.flatten(0, 1)[:, None].unbind(0)
    return parts


_running: list[Sequence[Bundle]] = []
"""What the pass that runs now is made of; passes do not nest."""
_alone = threading.Lock()
"""Held by the pass that runs: models in other threads wait for it, since PyTorch lets go of the interpreter's lock."""


@contextmanager
def attending(config: Any, bundles: Sequence[Bundle]) -> Iterator[None]:
    """Let the model of this configuration attend by lanes, and leave it as it was."""
    with _alone:
        before = config._attn_implementation
        config._attn_implementation = NAME
        _running.append(bundles)
        try:
            yield
        finally:
            _running.pop()
            config._attn_implementation = before


def lane_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`[1, heads, T, head_dim]` to `[1, T, heads, head_dim]` (transformers' interface)."""
    bundles, layer = _running[-1], 2 * module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    sizes = [group.size for bundle in bundles for group in bundle.groups]
    tokens = iter(zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True))
    out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
    start = 0
    for bundle in bundles:
        end = start + bundle.size
        parts = []
        for group in bundle.groups:
            queries, keys, values = next(tokens)
            group.new[layer].copy_(keys)
            group.new[layer + 1].copy_(values)
            parts.append(attend(queries, group.seen[layer], group.seen[layer + 1], group.mask, scale, causal=True))
        own, lse = parts[0] if len(parts) == 1 else (torch.cat(both, dim=2) for both in zip(*parts, strict=True))
        if bundle.trunk is not None:
            shared = attend(query[:, :, start:end], bundle.trunk[layer], bundle.trunk[layer + 1], None, scale)
            own = merge(shared, (own, lse))
        out[:, start:end] = own.transpose(1, 2)
        start = end
    return out, None


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    *,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of `[1, heads, n, dim]` over `[1, kv_heads, S, dim]`, and its log-sum-exp `[1, heads, n]`.

    `mask` is additive `[n, S]`; where there is none, `causal` lets the last query see all keys, the one before all but
    the last, and so on. Heads that share keys are laid out as more queries of one head, so that no key is copied; a
    mask may come laid out so already, `[heads / kv_heads * n, S]`.
    """
    _, heads, count, dim = query.shape
    share = heads // keys.shape[1]
    causal = causal and mask is None and count > 1
    if causal and (share > 1 or keys.shape[2] > count or query.device.type != "cpu"):
        mask, causal = causal_mask(count, keys.shape[2] - count, query), False
    if share > 1:
        query = query.reshape(1, keys.shape[1], share * count, dim)
        mask = mask.repeat(share, 1) if mask is not None and mask.shape[0] == count else mask
    plain = query.dtype == torch.bfloat16 and mask is None and not causal and keys.shape[2] >= LONG
    if query.device.type == "cpu" and not plain:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, keys, values, 0.0, causal, attn_mask=mask[None, None] if mask is not None else None, scale=scale
        )
    else:
        out, lse = plain_attention(query, keys, values, mask, scale)
    return (out.reshape(1, heads, count, dim), lse.reshape(1, heads, count)) if share > 1 else (out, lse)


def plain_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by its formula, with its log-sum-exp, some queries at a time: where no kernel gives both."""
    parts = []
    for at in range(0, query.shape[2], BLOCK):
        scores = (query[:, :, at : at + BLOCK] * scale) @ keys.transpose(-1, -2)
        if mask is not None:
            scores += mask[at : at + BLOCK]
        weights = scores.softmax(dim=-1)
        parts.append((weights @ values, _log_sum_exp(scores, weights)))
    out, lse = (torch.cat(found, dim=2) for found in zip(*parts, strict=True))
    return out, lse


def _log_sum_exp(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Any weight is exp(its score - log-sum-exp). The first key's will do, unless somewhere it is too small to tell."""
    weight = weights[..., 0].float()
    if bool((weight > TINY).all()):
        return scores[..., 0].float() - weight.log()
    return scores.amax(dim=-1).float() - weights.amax(dim=-1).float().log()


def merge(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The attention over two sets of keys, from that over each (outputs `[..., n, dim]`, log-sum-exps `[..., n]`)."""
    share = torch.sigmoid(a[1] - b[1])[..., None].to(a[0].dtype)
    return torch.lerp(b[0], a[0], share)


def causal_mask(count: int, before: int, like: torch.Tensor) -> torch.Tensor:
    """Additive `[count, before + count]`: all of `before`, and of the rest none that comes later."""
    return torch.full((count, before + count), -torch.inf, dtype=like.dtype, device=like.device).triu_(before + 1)


AttentionInterface.register(NAME, lane_attention)
