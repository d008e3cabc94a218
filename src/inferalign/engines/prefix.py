"""A radix tree of key-value segments: what a model has computed for token prefixes, kept for the next request.

A segment is a run of tokens with the keys and values of every layer and the last layer's hidden states. Requests that
share a beginning (prompt, path, evaluation template) share its segments. The store is bounded in bytes: the leaf that
was not used for longest goes first, and is computed again when it is asked for. It knows no model and does no
arithmetic; `tree_requests` fills it.
"""

from __future__ import annotations

import bisect
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


@dataclass
class StoreStats:
    """What a store has been asked and what it knew, in tokens, since it was made."""

    asked: int = 0
    found: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        return self.found / self.asked if self.asked else 0.0


class PrefixStore:
    """Segments by token ids. `capacity` bounds the bytes held; a single request may exceed it while it runs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.stats = StoreStats()
        self._roots: dict[int, Segment] = {}
        self._clock = 0

    def match(self, token_ids: TokenIds) -> list[Piece]:
        """The longest known beginning of `token_ids`, as pieces from the root on; marks them as used now."""
        self._clock += 1
        pieces = self._walk_to(token_ids)
        for piece in pieces:
            piece.segment.used = self._clock
        self.stats.asked += len(token_ids)
        self.stats.found += length(pieces)
        return pieces

    def known(self, token_ids: TokenIds) -> int:
        """Length of the longest known beginning; asks only, and marks nothing as used."""
        return length(self._walk_to(token_ids))

    def end(self, token_ids: TokenIds) -> Piece | None:
        """Where all of `token_ids` ends, if it is known; marks nothing as used."""
        pieces = self._walk_to(token_ids)
        return pieces[-1] if pieces and length(pieces) == len(token_ids) else None

    def insert(self, token_ids: TokenIds, kv: torch.Tensor, hidden: torch.Tensor, *, own: bool = False) -> None:
        """Add the last `n` tokens of `token_ids`, whose states are `kv` and `hidden`; the store may know some already.

        Does nothing when the tokens before them are no longer held: a segment never hangs in the air. The states are
        copied unless they are nobody else's (`own`).
        """
        self._clock += 1
        pieces = self._walk_to(token_ids)
        known = length(pieces)
        first = len(token_ids) - hidden.shape[0]
        if known < first or known == len(token_ids):
            return
        for piece in pieces:
            piece.segment.used = self._clock
        parent = self._split(pieces[-1]) if pieces else None
        skip = known - first
        kv, hidden = kv[..., skip:, :], hidden[skip:]
        if skip or not own:
            kv, hidden = kv.clone(), hidden.clone()
        segment = Segment(token_ids=token_ids[known:], kv=kv, hidden=hidden, parent=parent, used=self._clock)
        (parent.children if parent else self._roots)[token_ids[known]] = segment
        self.nbytes += segment.nbytes
        if self.nbytes > self.capacity:
            self._evict(keep=segment)

    def prune(self, token_ids: TokenIds, keep: TokenIds) -> None:
        """Below `token_ids`, keep only what lies on the way of `keep` and what hangs from its end."""
        pieces = self._walk_to(token_ids)
        if length(pieces) < len(token_ids) or not keep:
            return
        node: Segment | None = self._split(pieces[-1]) if pieces else None
        while keep:
            children = node.children if node else self._roots
            for token in [token for token in children if token != keep[0]]:
                self._drop(children.pop(token))
            if not (node := children.get(keep[0])):
                return
            common = _common(node.token_ids, keep)
            if common < len(keep) and common < len(node.token_ids):
                self._drop(self._split(Piece(node, common)).children.popitem()[1])
                return
            keep = keep[common:]

    def drop(self, token_ids: TokenIds) -> None:
        """Let go of everything that lies below `token_ids`, and of what of it no other prefix shares."""
        if not token_ids:
            self.clear()
            return
        pieces = self._walk_to(token_ids)
        if length(pieces) < len(token_ids):
            return
        node: Segment | None = pieces[-1].segment
        while node is not None:
            parent, siblings = node.parent, node.parent.children if node.parent else self._roots
            del siblings[node.token_ids[0]]
            self._drop(node)
            node = None if siblings else parent

    def clear(self) -> None:
        for segment in list(self._roots.values()):
            self._drop(segment)
        self._roots = {}

    def shrink(self) -> None:
        """Evict down to the capacity, should it have been lowered."""
        if self.nbytes > self.capacity:
            self._evict(keep=None)

    def _walk_to(self, token_ids: TokenIds) -> list[Piece]:
        pieces: list[Piece] = []
        level, at = self._roots, 0
        while at < len(token_ids) and (segment := level.get(token_ids[at])) is not None:
            take = _common(segment.token_ids, token_ids[at : at + len(segment.token_ids)])
            pieces.append(Piece(segment, take))
            at += take
            if take < len(segment.token_ids):
                break
            level = segment.children
        return pieces

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

    def _drop(self, segment: Segment) -> None:
        """Count out a segment that was taken from the tree, and all below it.

        They are taken apart, so that their memory is free now and not when cycles are next collected.
        """
        for gone in _below([segment]):
            self.nbytes -= gone.nbytes
            gone.parent, gone.children = None, {}

    def _evict(self, keep: Segment | None) -> None:
        """Drop leaves, least recently used first, down to nine tenths of the capacity; `keep` and its path stay."""
        target = self.capacity * 9 // 10
        leaves = sorted((s for s in self._walk() if not s.children and s is not keep), key=lambda s: -s.used)
        while leaves and self.nbytes > target:
            leaf = leaves.pop()
            self.nbytes -= leaf.nbytes
            self.stats.evicted += len(leaf.token_ids)
            siblings = leaf.parent.children if leaf.parent else self._roots
            del siblings[leaf.token_ids[0]]
            if leaf.parent is not None and not siblings and leaf.parent is not keep:
                bisect.insort(leaves, leaf.parent, key=lambda s: -s.used)

    def _walk(self) -> list[Segment]:
        return _below(list(self._roots.values()))


def length(pieces: list[Piece]) -> int:
    return sum(piece.take for piece in pieces)


def _below(segments: list[Segment]) -> list[Segment]:
    """These segments and all that hang from them."""
    found, todo = [], segments
    while todo:
        segment = todo.pop()
        found.append(segment)
        todo.extend(segment.children.values())
    return found


def _common(a: TokenIds, b: TokenIds) -> int:
    """Length of the common beginning, by halving: comparing slices is faster than comparing tokens."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def common_length(a: TokenIds, b: TokenIds) -> int:
    """Length of the beginning that two sequences share."""
    return _common(a, b)


def common_prefix(sequences: list[TokenIds]) -> TokenIds:
    """The longest beginning that all sequences share: that of the least and the greatest of them."""
    low, high = min(sequences), max(sequences)
    return low[: _common(low, high)]
