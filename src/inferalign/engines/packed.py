"""One forward pass for tokens of many prompts: linear layers see them all at once, attention sees each in its lane.

The tokens of a pass are one sequence to the model. Every feed (tokens of one request) attends to its own lane under
its own mask, so that N prompts cost no attention between prompts; lanes on a common trunk read the trunk in one
attention, whose result is merged with their own by log-sum-exp (the exact softmax over both parts). A feed's
result depends on the other feeds only through the rounding of matrix products.

A model that does not follow explicit positions or the attention interface cannot be run so: `packed_check`
finds out by comparing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from inferalign.core.errors import EngineError
from inferalign.core.types import RoleUsage
from inferalign.engines.base import Row
from inferalign.engines.draws import pick
from inferalign.engines.lane_attention import Bundle, Group, attending, causal_mask, views
from inferalign.engines.lanes import Lane


@dataclass(eq=False)
class Feed:
    """Tokens that a request wants fed in the next pass, behind what its lane holds. The lane has room for them."""

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
        self._share = self._config.num_attention_heads // heads

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
        for feed in feeds:
            end, room = feed.lane.length + len(feed.token_ids), feed.lane.kv.shape[3]
            assert end <= room, f"a feed ends at {end} in a lane of {room} slots"
        self.passes += 1
        total = sum(len(feed.token_ids) for feed in feeds)
        for feed in feeds:
            feed.usage.tokens_fed += len(feed.token_ids)
            feed.usage.forward_calls += len(feed.token_ids) / total
        bundles = []
        for _, together in groupby(feeds, key=lambda feed: id(feed.lane.trunk)):
            side = list(together)
            trunk = side[0].lane.trunk
            bundles.append(Bundle([self._group(feed) for feed in side], trunk.views if trunk else None))
        ids = torch.tensor([[token for feed in feeds for token in feed.token_ids]], device=self.device)
        positions = torch.from_numpy(np.concatenate([feed.positions for feed in feeds]))[None].to(self.device)
        with attending(self._config, bundles):
            # A mask that is four-dimensional already is taken as it is: ours is not used, and no other is made.
            unused = torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=self.device)
            out = self._body(input_ids=ids, position_ids=positions, attention_mask=unused, use_cache=False)
        for feed in feeds:
            feed.lane.length += len(feed.token_ids)
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    def _group(self, feed: Feed) -> Group:
        """A feed in its lane; masks are laid out once, and not in every layer."""
        lane, count = feed.lane, len(feed.token_ids)
        end, mask = lane.length + count, feed.mask
        if mask is None and count > 1 and (lane.length or self._share > 1):
            mask = causal_mask(count, lane.length, lane.kv)
        if mask is not None and self._share > 1:
            mask = mask.repeat(self._share, 1)
        return Group(count, views(lane.kv[..., :end, :]), views(lane.kv[..., lane.length : end, :]), mask)


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
