"""A radix tree of key-value segments: what a model has computed for token prefixes, kept for the next request.

A segment is a run of tokens with the keys and values of every layer and the last layer's hidden states. Requests that
share a beginning (prompt, path, evaluation template) share its segments. The store is bounded in bytes: the leaf that
was not used for longest goes first, and is computed again when it is asked for. It knows no model and does no
arithmetic; `tree_forward` fills it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from inferalign.core.types import TokenIds


@dataclass(eq=False)
class Segment:
    """`n` tokens below `parent`. `kv` is `[layers, 2, heads, n, head_dim]`, `hidden` is `[n, hidden]`."""

    token_ids: TokenIds
    kv: torch.Tensor
    hidden: torch.Tensor
    parent: Segment | None
    children: dict[int, Segment] = field(default_factory=dict)
    used: int = 0

    @property
    def nbytes(self) -> int:
        return int(self.kv.nbytes + self.hidden.nbytes)


class Piece(NamedTuple):
    """The first `take` tokens of a segment: one step of a match."""

    segment: Segment
    take: int


class PrefixStore:
    """Segments by token ids. `capacity` bounds the bytes held; a single request may exceed it while it runs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._roots: dict[int, Segment] = {}
        self._clock = 0

    def match(self, token_ids: TokenIds) -> list[Piece]:
        """The longest known beginning of `token_ids`, as pieces from the root on; marks them as used now."""
        self._clock += 1
        pieces: list[Piece] = []
        level, at = self._roots, 0
        while at < len(token_ids) and (segment := level.get(token_ids[at])) is not None:
            take = _common(segment.token_ids, token_ids[at : at + len(segment.token_ids)])
            segment.used = self._clock
            pieces.append(Piece(segment, take))
            at += take
            if take < len(segment.token_ids):
                break
            level = segment.children
        return pieces

    def insert(self, token_ids: TokenIds, kv: torch.Tensor, hidden: torch.Tensor) -> None:
        """Add the last `n` tokens of `token_ids`, whose states are `kv` and `hidden`; the store may know some already.

        Does nothing when the tokens before them are no longer held: a segment never hangs in the air.
        """
        pieces = self.match(token_ids)
        known = sum(piece.take for piece in pieces)
        first = len(token_ids) - hidden.shape[0]
        if known < first or known == len(token_ids):
            return
        parent = self._split(pieces[-1]) if pieces else None
        skip = known - first
        segment = Segment(
            token_ids=token_ids[known:],
            kv=kv[..., skip:, :].clone(),
            hidden=hidden[skip:].clone(),
            parent=parent,
            used=self._clock,
        )
        (parent.children if parent else self._roots)[token_ids[known]] = segment
        self.nbytes += segment.nbytes
        if self.nbytes > self.capacity:
            self._evict(keep=segment)

    def clear(self) -> None:
        self._roots, self.nbytes = {}, 0

    def _split(self, piece: Piece) -> Segment:
        """The segment that ends where the piece does, cut in two if need be. Returns the upper part."""
        segment, take = piece
        if take == len(segment.token_ids):
            return segment
        lower = Segment(
            token_ids=segment.token_ids[take:],
            kv=segment.kv[..., take:, :].clone(),
            hidden=segment.hidden[take:].clone(),
            parent=segment,
            children=segment.children,
            used=segment.used,
        )
        for child in lower.children.values():
            child.parent = lower
        segment.token_ids = segment.token_ids[:take]
        segment.kv = segment.kv[..., :take, :].clone()
        segment.hidden = segment.hidden[:take].clone()
        segment.children = {lower.token_ids[0]: lower}
        return segment

    def _evict(self, keep: Segment) -> None:
        """Drop leaves, least recently used first, down to nine tenths of the capacity; `keep` and its path stay."""
        target = self.capacity * 9 // 10
        leaves = sorted((s for s in self._walk() if not s.children and s is not keep), key=lambda s: s.used)
        while leaves and self.nbytes > target:
            leaf = leaves.pop(0)
            self.nbytes -= leaf.nbytes
            siblings = leaf.parent.children if leaf.parent else self._roots
            del siblings[leaf.token_ids[0]]
            if leaf.parent is not None and not siblings and leaf.parent is not keep:
                leaves.append(leaf.parent)
                leaves.sort(key=lambda s: s.used)

    def _walk(self) -> list[Segment]:
        found, todo = [], list(self._roots.values())
        while todo:
            segment = todo.pop()
            found.append(segment)
            todo.extend(segment.children.values())
        return found


def _common(a: TokenIds, b: TokenIds) -> int:
    """Length of the common beginning."""
    if a[: len(b)] == b:
        return len(b)
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)


def common_prefix(sequences: list[TokenIds]) -> TokenIds:
    """The longest beginning that all sequences share: that of the least and the greatest of them."""
    low, high = min(sequences), max(sequences)
    return low[: _common(high, low)] if len(low) <= len(high) else low[: _common(low, high)]
