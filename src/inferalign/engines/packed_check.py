"""Whether packed passes give a model's own logits: found out by a short probe when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.draws import NotFinite
from inferalign.engines.lane_attention import causal_mask
from inferalign.engines.lanes import Lane, Trunk
from inferalign.engines.packed import Fed, Feed, PackedModel
from inferalign.engines.plain_requests import PlainRequests


def matches_plain(model: Any, tolerance: float) -> bool:
    """Whether packed passes give this model's own logits: two branches of a short probe, in one feed and in steps.

    Two lanes are in the pass, one of them on a trunk, so that every form of attention is tried. Raises `NotFinite` for
    a model that gives no numbers, of which nothing can be said.
    """
    vocabulary = model.config.get_text_config().vocab_size
    probe = tuple(int(i) % vocabulary for i in np.random.Generator(np.random.Philox(key=0)).integers(0, vocabulary, 14))
    branches = [probe[:10] + probe[10:12], probe[:10] + probe[12:14]]
    plain = PlainRequests(model).all_logits([*branches, probe[:10], probe[:4]], RoleUsage())
    if plain.isnan().any():
        raise NotFinite
    try:
        found = _probe(PackedModel(model), branches, probe)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False  # A model that cannot take positions or foreign attention says so in any of these ways.
    scale = max(1.0, float(plain.abs().max()))
    return bool(((found - plain).abs() <= tolerance * scale).all())


def _run(packed: PackedModel, feeds: Sequence[Feed]) -> list[Fed]:
    """A pass in which nothing is drawn, so that nothing can fail to be."""
    return [fed for fed in packed.run(feeds) if isinstance(fed, Fed)]


def _probe(packed: PackedModel, branches: list[TokenIds], probe: TokenIds) -> torch.Tensor:
    """The logits that `matches_plain` compares: of both branches, fed in two steps after a trunk, and of two chains."""
    usage = RoleUsage()

    def feed(lane: Lane, tokens: Sequence[int], depth: int, **options: Any) -> Feed:
        return Feed(
            lane=lane, usage=usage, token_ids=list(tokens), positions=np.arange(depth, depth + len(tokens)), **options
        )

    layers, heads, dim = packed.shape
    like = torch.empty(0, dtype=packed.dtype, device=packed.device)
    first, other = (Lane(like.new_empty(layers, 2, heads, 16, dim), None) for _ in range(2))
    stem, chain = _run(packed, [feed(first, probe[:10], 0, wanted=[9]), feed(other, probe[:4], 0, wanted=[3])])
    trunk = Trunk(probe[:6], first.kv[..., :6, :].clone())
    grown = Lane(like.new_empty(layers, 2, heads, 16, dim), trunk)
    grown.write(first.kv[..., 6:10, :], 0)
    grown.length = 4
    apart = causal_mask(2, 4, like)
    apart[1, 4] = -torch.inf
    level = feed(grown, [branch[10] for branch in branches], 10, mask=apart)
    level.positions = np.full(2, 10)
    _run(packed, [level])
    seen = torch.full((2, 8), -torch.inf, dtype=packed.dtype, device=packed.device)
    seen[:, :4] = 0
    seen[0, 4] = seen[0, 6] = seen[1, 5] = seen[1, 7] = 0
    last = feed(grown, [branch[11] for branch in branches], 11, mask=seen, wanted=range(2))
    last.positions = np.full(2, 11)
    (ends,) = _run(packed, [last])
    return torch.cat([ends.logits, stem.logits, chain.logits])
