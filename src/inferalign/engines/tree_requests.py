"""What an engine is asked, as generators: each yields the tokens it wants fed next and is sent what came of them.

A request knows its own prefixes only. It runs in a lane, feeds nothing that the store knows, and leaves there what
later requests may ask for. Rows alike so far are one node of a tree, fed once. The scheduler decides which requests
share a pass; nothing here depends on it.

`TreeRequests` is for models that give their own logits in packed passes (`packed_check`), `plain_requests` for others.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.drafts import Draft
from inferalign.engines.lanes import Lane, LanePool
from inferalign.engines.packed import Fed, Feed, PackedModel
from inferalign.engines.prefix import Piece, PrefixStore, common_prefix, length
from inferalign.engines.tree_rows import Rows

CHUNK = 512
"""Tokens of a prefix in one pass: its mask grows with the square."""


class TreeRequests:
    """Requests over a packed model, its lanes and its store."""

    def __init__(self, model: PackedModel, store: PrefixStore, lanes: LanePool) -> None:
        self._model, self._store, self._lanes = model, store, lanes

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        unique = list(dict.fromkeys(prefixes))
        stem = common_prefix(unique)
        with self._lane(stem, usage) as (lane, pieces):
            known = yield from self._prefill(lane, stem, length(pieces), usage)
            tokens, parents, ends = _token_tree(unique, stem, known)
            last = _last_state(pieces) if -1 in ends else None
            wanted = [end for end in ends if end >= 0]
            fed = yield self._feed(lane, tokens, parents, known, usage, wanted, () if last is None else (last,))
            grown = len(stem) - known
            if grown:
                self._keep(lane, stem, known, fed.hidden[:grown])
        rows = iter(range(len(wanted)))
        row_of = {p: next(rows) if end >= 0 else len(wanted) for p, end in zip(unique, ends, strict=True)}
        places = [row_of[prefix] for prefix in prefixes]
        return fed.logits if places == list(range(len(fed.logits))) else fed.logits[places]

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        if self._store.known(prefix) == len(prefix):
            usage.tokens_reused += len(prefix)
            return states_from(self._store.match(prefix), start)
        with self._lane(prefix, usage) as (lane, pieces):
            known = length(pieces)
            parts = [piece.segment.hidden[: piece.take] for piece in pieces]
            while known < len(prefix):
                end = min(known + CHUNK, len(prefix))
                fed = yield self._chain(lane, prefix[known:end], known, usage)
                self._keep(lane, prefix[:end], known, fed.hidden)
                parts.append(fed.hidden)
                known = end
        return torch.cat(parts)[start:]

    def grow(self, prefix: TokenIds, drafts: Sequence[Draft], usage: RoleUsage) -> Generator[Feed, Fed, None]:
        with self._lane(prefix, usage) as (lane, pieces):
            known = yield from self._prefill(lane, prefix, length(pieces), usage)
            feed = self._chain(lane, prefix[known:], known, usage)
            feed.wanted = (len(prefix) - known - 1,) if known < len(prefix) else ()
            feed.states = () if known < len(prefix) else (_last_state(pieces),)
            active = [draft for draft in drafts if draft.stop is None]
            feed.draws = [(0, draft.row, draft.number()) for draft in active]
            fed = yield feed
            if known < len(prefix):
                self._keep(lane, prefix, known, fed.hidden)
            rows = Rows(self._store, self._lanes, lane, prefix, usage)
            try:
                yield from rows.grow(active, fed)
            finally:
                rows.keep()

    @contextmanager
    def _lane(self, prefix: TokenIds, usage: RoleUsage) -> Iterator[tuple[Lane, list[Piece]]]:
        """A lane with room for `prefix`, and what is known of that; free again however the request ends."""
        lane, pieces = self._lanes.take(prefix)
        try:
            usage.tokens_reused += length(pieces)
            yield lane, pieces
        finally:
            self._lanes.release(lane)

    def _prefill(self, lane: Lane, prefix: TokenIds, known: int, usage: RoleUsage) -> Generator[Feed, Fed, int]:
        """Feed a prefix until a chunk of it is left at most. Returns how much is known then."""
        while len(prefix) - known > CHUNK:
            upto = prefix[: known + CHUNK]
            fed = yield self._chain(lane, upto[known:], known, usage)
            self._keep(lane, upto, known, fed.hidden)
            known = len(upto)
        return known

    def _chain(self, lane: Lane, tokens: TokenIds, depth: int, usage: RoleUsage) -> Feed:
        """Tokens of a prefix, the first one at `depth`: its lane has room for them."""
        positions = np.arange(depth, depth + len(tokens))
        return Feed(lane=lane, usage=usage, token_ids=list(tokens), positions=positions)

    def _feed(
        self,
        lane: Lane,
        tokens: list[int],
        parents: list[int],
        depth: int,
        usage: RoleUsage,
        wanted: Sequence[int],
        states: Sequence[torch.Tensor],
    ) -> Feed:
        """A tree of tokens that hangs from the lane's end at `depth`: parent -1 is that end."""
        self._lanes.reserve(lane, lane.length + len(tokens))
        feed = Feed(lane=lane, usage=usage, token_ids=tokens, wanted=wanted, states=states)
        if parents == list(range(-1, len(tokens) - 1)):
            feed.positions = np.arange(depth, depth + len(tokens))
            return feed
        sees, feed.positions = _ancestors(parents, depth)
        mask = torch.zeros(len(tokens), lane.length + len(tokens), dtype=self._model.dtype)
        mask[:, lane.length :].masked_fill_(torch.from_numpy(~sees), -torch.inf)
        feed.mask = mask.to(self._model.device)
        return feed

    def _keep(self, lane: Lane, token_ids: TokenIds, first: int, hidden: torch.Tensor) -> None:
        """What was fed of `token_ids` from `first` on lies in the lane; let the store and the lane know it."""
        begin, end = first - lane.offset, len(token_ids) - lane.offset
        self._store.insert(token_ids, lane.kv[..., begin:end, :], hidden)
        lane.token_ids = token_ids[lane.offset :]
        lane.length = end


def states_from(pieces: Sequence[Piece], start: int) -> torch.Tensor:
    """Last-layer states of a known prefix from `start` on."""
    parts, at = [], 0
    for segment, take in pieces:
        if at + take > start:
            parts.append(segment.hidden[max(0, start - at) : take])
        at += take
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _last_state(pieces: Sequence[Piece]) -> torch.Tensor:
    return pieces[-1].segment.hidden[pieces[-1].take - 1]


def _token_tree(prefixes: list[TokenIds], stem: TokenIds, known: int) -> tuple[list[int], list[int], list[int]]:
    """Tokens still to be fed, each one's parent among them (-1: the known prefix), and each prefix's last token."""
    tokens = list(stem[known:])
    parents = list(range(-1, len(tokens) - 1))
    places: dict[tuple[int, int], int] = {}
    ends = []
    for prefix in prefixes:
        at = len(stem) - known - 1
        for token in prefix[len(stem) :]:
            if (at, token) not in places:
                places[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = places[at, token]
        ends.append(at)
    return tokens, parents, ends


def _ancestors(parents: list[int], depth: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which tokens each token of a tree sees among them, `[n, n]`, and its position, roots at `depth`."""
    count = len(parents)
    sees = np.eye(count, dtype=bool)
    positions = np.full(count, depth)
    for i, parent in enumerate(parents):
        if parent >= 0:
            sees[i, : parent + 1] = sees[parent, : parent + 1]
            positions[i] = positions[parent] + 1
    return sees, positions
