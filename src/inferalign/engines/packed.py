"""One forward pass for tokens of many prompts: linear layers see them all at once, attention sees each in its lane.

The tokens of a pass are one sequence to the model. Every feed (tokens of one request) attends to its own lane under
its own mask, so that N prompts cost no attention between prompts; lanes on a common trunk read the trunk in one
attention, whose result is merged with their own by log-sum-exp (the exact softmax over both parts). A feed's
result depends on the other feeds only through the rounding of matrix products.

A model that does not follow explicit positions or the attention interface cannot be run so: `tree_requests.
matches_plain` finds out by comparing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface

from inferalign.core.errors import EngineError
from inferalign.core.types import RoleUsage
from inferalign.engines.base import Row
from inferalign.engines.draws import pick
from inferalign.engines.lanes import Lane

NAME = "inferalign_lanes"
"""The attention implementation, as transformers knows it."""


LONG = 256
"""Keys from which, in bfloat16 on a CPU, products by oneDNN beat PyTorch's fused kernel, which has no such units."""
BLOCK = 128
"""Queries whose scores are held at a time where there is no fused kernel: they should stay in a cache."""


@dataclass(eq=False)
class Feed:
    """Tokens that a request wants fed in the next pass, behind what its lane holds."""

    lane: Lane
    usage: RoleUsage
    token_ids: list[int] = field(default_factory=list)
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    mask: torch.Tensor | None = None
    """Additive, `[n, own slots + n]` with the lane's own slots; None: each token sees all own slots and those before
    it in the feed. The trunk is seen by all."""
    wanted: Sequence[int] = ()
    """Which of the tokens' next-token logits are wanted."""
    states: Sequence[torch.Tensor] = ()
    """Last-layer states `[hidden]`, known from before, whose logits are wanted after those."""
    draws: Sequence[tuple[int, Row, float]] = ()
    """Tokens to draw: from which of those logits, by which row's rule, with which number in [0, 1)."""


class Fed(NamedTuple):
    hidden: torch.Tensor
    """Last-layer states of the feed's tokens, `[n, hidden]`."""
    logits: torch.Tensor
    """`[len(wanted) + len(states), vocab]`, float32."""
    drawn: list[tuple[int, float]]
    """A token and its log-probability for each draw."""


@dataclass(eq=False)
class _Pass:
    """What attention must know while a pass runs."""

    bundles: list[list[tuple[slice, Feed]]]
    """Feeds with their places in the sequence; those of a bundle stand on one trunk, or the bundle is without one."""


_running: list[_Pass] = []
"""The pass that runs in this process now: one at a time, set by `PackedModel.run`."""


class PackedModel:
    """A transformers model run by packed passes. It leaves the model as it found it."""

    def __init__(self, model: Any) -> None:
        self._config = model.config.get_text_config()
        self._body = model.base_model
        self._head = model.get_output_embeddings()
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.passes = 0
        heads = getattr(self._config, "num_key_value_heads", None) or self._config.num_attention_heads
        dim = getattr(self._config, "head_dim", None) or self._config.hidden_size // self._config.num_attention_heads
        self.shape: tuple[int, int, int] = (self._config.num_hidden_layers, heads, dim)

    def run(self, feeds: Sequence[Feed]) -> list[Fed | EngineError]:
        """Feed all, in one pass; tokens land in their lanes, whose lengths grow. One result a feed, in order.

        A feed from whose logits nothing can be drawn has an error for a result.
        """
        order = sorted((i for i, feed in enumerate(feeds) if feed.token_ids), key=lambda i: id(feeds[i].lane.trunk))
        hidden: list[torch.Tensor | None] = [None] * len(feeds)
        if order:
            whole = self._forward([feeds[i] for i in order])
            ends = np.cumsum([len(feeds[i].token_ids) for i in order])
            for i, end in zip(order, ends, strict=True):
                hidden[i] = whole[end - len(feeds[i].token_ids) : end]
        asked = [_asked(feed, states) for feed, states in zip(feeds, hidden, strict=True)]
        rows = [row for part in asked for row in part]
        logits = self._head(torch.cat(rows)).float() if rows else torch.empty(0, 0)
        starts = np.cumsum([0, *(sum(len(row) for row in part) for part in asked)]).tolist()
        drawn = _draw(feeds, starts, logits)
        nothing = torch.empty(0)
        results: list[Fed | EngineError] = []
        for states, start, end, tokens in zip(hidden, starts, starts[1:], drawn, strict=False):
            if isinstance(tokens, EngineError):
                results.append(tokens)
            else:
                results.append(Fed(nothing if states is None else states, logits[start:end], tokens))
        return results

    def _forward(self, feeds: Sequence[Feed]) -> torch.Tensor:
        """Last-layer states of all feeds' tokens, `[T, hidden]`."""
        placed, at = [], 0
        for feed in feeds:
            feed.lane.reserve(feed.lane.length + len(feed.token_ids))
            placed.append((slice(at, at + len(feed.token_ids)), feed))
            at += len(feed.token_ids)
        self.passes += 1
        for feed in feeds:
            feed.usage.tokens_fed += len(feed.token_ids)
            feed.usage.forward_calls += len(feed.token_ids) / at
        bundles = [list(bundle) for _, bundle in groupby(placed, key=lambda place: id(place[1].lane.trunk))]
        ids = torch.tensor([[token for feed in feeds for token in feed.token_ids]], device=self.device)
        positions = torch.from_numpy(np.concatenate([feed.positions for feed in feeds]))[None].to(self.device)
        with self._attending(_Pass(bundles)):
            # A mask that is four-dimensional already is taken as it is: ours is not used, and no other is made.
            unused = torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=self.device)
            out = self._body(input_ids=ids, position_ids=positions, attention_mask=unused, use_cache=False)
        for feed in feeds:
            feed.lane.length += len(feed.token_ids)
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    @contextmanager
    def _attending(self, this: _Pass) -> Iterator[None]:
        before = self._config._attn_implementation
        self._config._attn_implementation = NAME
        _running.append(this)
        try:
            yield
        finally:
            _running.pop()
            self._config._attn_implementation = before


def _draw(
    feeds: Sequence[Feed], starts: Sequence[int], logits: torch.Tensor
) -> list[list[tuple[int, float]] | EngineError]:
    """All draws of a pass at once, so that only tokens leave the device, and once a pass. One entry a feed."""
    places = [start + place for feed, start in zip(feeds, starts, strict=False) for place, _, _ in feed.draws]
    rules = [(row, number) for feed in feeds for _, row, number in feed.draws]
    if not places:
        return [[] for _ in feeds]
    chosen = logits if places == list(range(len(logits))) else logits[places]
    try:
        drawn = iter(pick(chosen, [row for row, _ in rules], [number for _, number in rules]))
    except EngineError as error:  # one feed's logits are not finite: the others need not suffer
        return (
            [error]
            if len(feeds) == 1
            else [_draw([feed], [start], logits)[0] for feed, start in zip(feeds, starts, strict=False)]
        )
    return [[next(drawn) for _ in feed.draws] for feed in feeds]


def _asked(feed: Feed, hidden: torch.Tensor | None) -> list[torch.Tensor]:
    rows = [state[None] for state in feed.states]
    if hidden is None or not len(feed.wanted):
        return rows
    everything = len(feed.wanted) == len(hidden) and list(feed.wanted) == list(range(len(hidden)))
    return [hidden if everything else hidden[list(feed.wanted)], *rows]


def lane_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`[1, heads, T, head_dim]` to `[1, T, heads, head_dim]`, each feed by its lane (transformers' interface)."""
    layer, this = module.layer_idx, _running[-1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = torch.empty_like(query)
    for bundle in this.bundles:
        parts = [_own(place, feed, layer, query, key, value, scale) for place, feed in bundle]
        trunk = bundle[0][1].lane.trunk
        if trunk is None:
            for (place, _feed), (part, _lse) in zip(bundle, parts, strict=True):
                out[:, :, place] = part
            continue
        span = slice(bundle[0][0].start, bundle[-1][0].stop)
        keys, values = trunk.kv[layer]
        shared = attend(query[:, :, span], keys, values, None, scale)
        own = (
            parts[0] if len(parts) == 1 else (torch.cat([p for p, _ in parts], 2), torch.cat([e for _, e in parts], 2))
        )
        out[:, :, span] = merge(shared, own)
    return out.transpose(1, 2), None


def _own(
    place: slice,
    feed: Feed,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the feed's keys and values into its lane, and attend to what it sees there."""
    lane, count = feed.lane, place.stop - place.start
    end = lane.length + count
    keys, values = lane.kv[layer, :, :, :end]
    keys[:, lane.length :] = key[0, :, place]
    values[:, lane.length :] = value[0, :, place]
    causal = feed.mask is None and count > 1
    return attend(query[:, :, place], keys, values, feed.mask, scale, causal=causal)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    *,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of `[1, heads, n, dim]` over `[kv_heads, S, dim]`, and its log-sum-exp `[1, heads, n]`.

    `mask` is additive `[n, S]`; `causal` lets the last query see all keys, the one before all but the last, and so on.
    Heads that share keys are laid out as more queries of one head, so that no key is copied.
    """
    _, heads, count, dim = query.shape
    share = heads // keys.shape[0]
    if causal and mask is None and (share > 1 or keys.shape[1] > count):
        mask = causal_mask(count, keys.shape[1] - count, query)
    if share > 1:
        query = query.reshape(1, keys.shape[0], share * count, dim)
        mask = mask.repeat(share, 1) if mask is not None else None
    plain = query.dtype == torch.bfloat16 and mask is None and not causal and keys.shape[1] >= LONG
    if query.device.type == "cpu" and not plain:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query,
            keys[None],
            values[None],
            0.0,
            causal and mask is None,
            attn_mask=mask[None, None] if mask is not None else None,
            scale=scale,
        )
    else:
        if causal and mask is None:
            mask = causal_mask(count, 0, query)
        blocks = [slice(at, at + BLOCK) for at in range(0, query.shape[2], BLOCK)]
        masks = [None if mask is None else mask[block] for block in blocks]
        parts = [
            plain_attention(query[:, :, block], keys[None], values[None], part, scale)
            for block, part in zip(blocks, masks, strict=True)
        ]
        out, lse = (torch.cat(found, dim=2) for found in zip(*parts, strict=True))
    return (out.reshape(1, heads, count, dim), lse.reshape(1, heads, count)) if share > 1 else (out, lse)


def plain_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by its formula, with its log-sum-exp: where no kernel gives both."""
    scores = (query @ keys.transpose(-1, -2)).float().mul_(scale)
    if mask is not None:
        scores += mask
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    return (weights.to(values.dtype) @ values).div_(total.to(values.dtype)), (highest + total.log())[..., 0]


def merge(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The attention over two sets of keys, from that over each (outputs `[..., n, dim]`, log-sum-exps `[..., n]`)."""
    share = torch.sigmoid(a[1] - b[1])[..., None].to(a[0].dtype)
    return torch.lerp(b[0], a[0], share)


def causal_mask(count: int, before: int, like: torch.Tensor) -> torch.Tensor:
    """Additive `[count, before + count]`: all of `before`, and of the rest none that comes later."""
    return torch.full((count, before + count), -torch.inf, dtype=like.dtype, device=like.device).triu_(before + 1)


AttentionInterface.register(NAME, lane_attention)
