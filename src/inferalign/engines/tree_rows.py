"""Rows that grow from one prefix, each step one level of a tree: alike so far is one node, fed once or found.

Part of a request (`tree_requests`): it yields what it wants fed, and leaves in the store what it fed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.drafts import Draft
from inferalign.engines.lanes import Lane, LanePool
from inferalign.engines.packed import Fed, Feed
from inferalign.engines.prefix import Piece, PrefixStore


class Rows:
    """Drafts that grow from one prefix at the end of its lane."""

    def __init__(self, store: PrefixStore, lanes: LanePool, lane: Lane, prefix: TokenIds, usage: RoleUsage) -> None:
        self._store, self._lanes, self._lane, self._prefix, self._usage = store, lanes, lane, prefix, usage
        self._base = lane.length
        self._states: dict[int, torch.Tensor] = {}
        """Last-layer state of each slot."""
        self._paths: list[tuple[TokenIds, list[int]]] = []
        """Finished rows: tokens fed, and their slots."""

    def grow(self, active: list[Draft], fed: Fed) -> Generator[Feed, Fed, None]:
        """`fed` has the first token of each draft."""
        slots: dict[int, list[int]] = {id(draft): [] for draft in active}
        cursor: dict[int, Piece | None] = dict.fromkeys(slots, self._store.end(self._prefix))
        node_of = dict.fromkeys(slots, 0)
        sees = np.ones((1, self._base), dtype=bool)
        depth = len(self._prefix)
        while True:
            for draft, (token, logprob) in zip(active, fed.drawn, strict=True):
                draft.add(token, logprob)
            self._usage.new_tokens += len(active)
            self._paths += [
                (tuple(draft.drawn[: len(slots[id(draft)])]), slots[id(draft)])
                for draft in active
                if draft.stop is not None and slots[id(draft)]
            ]
            active = [draft for draft in active if draft.stop is None]
            if not active:
                return
            grown = [(node_of[id(draft)], draft.drawn[-1]) for draft in active]
            nodes = {node: i for i, node in enumerate(dict.fromkeys(grown))}
            places = [nodes[node] for node in grown]
            first = dict(zip(reversed(places), reversed(active), strict=True))
            cursors: list[Piece | None] = [
                next_place(cursor[id(first[i])], token) for i, (_, token) in enumerate(nodes)
            ]
            feed, slot, sees = self._feed(nodes, cursors, sees, depth)
            # Logits come for the tokens that are fed, then for those whose states were known.
            new = [i for i, piece in enumerate(cursors) if piece is None]
            line = {i: k for k, i in enumerate([*new, *(i for i, piece in enumerate(cursors) if piece is not None)])}
            feed.draws = [(line[i], draft.row, draft.number()) for i, draft in zip(places, active, strict=True)]
            fed = yield feed
            for k, i in enumerate(new):
                self._states[slot[i]] = fed.hidden[k]
            for draft, place in zip(active, places, strict=True):
                slots[id(draft)].append(slot[place])
                cursor[id(draft)] = cursors[place]
                node_of[id(draft)] = place
            depth += 1

    def _feed(
        self,
        nodes: dict[tuple[int, int], int],
        cursors: Sequence[Piece | None],
        sees: NDArray[np.bool_],
        depth: int,
    ) -> tuple[Feed, list[int], NDArray[np.bool_]]:
        """A feed of the nodes that the store does not know; the others are copied. Slots, and what each node sees."""
        lane, at = self._lane, self._lane.length
        known = [i for i, piece in enumerate(cursors) if piece is not None]
        new = [i for i, piece in enumerate(cursors) if piece is None]
        slot = [0] * len(nodes)
        for k, i in enumerate([*known, *new]):
            slot[i] = at + k
        wide = np.zeros((len(nodes), at + len(nodes)), dtype=bool)
        wide[:, : sees.shape[1]] = sees[[parent for parent, _ in nodes]]
        wide[np.arange(len(nodes)), slot] = True
        self._lanes.reserve(lane, at + len(nodes))
        for i, piece in enumerate(cursors):
            if piece is not None:
                segment, take = piece
                lane.write(segment.kv[..., take - 1 : take, :], slot[i])
                self._states[slot[i]] = segment.hidden[take - 1]
        lane.length = at + len(known)
        self._usage.tokens_reused += len(known)
        tokens = [token for _, token in nodes]
        feed = Feed(
            lane=lane,
            usage=self._usage,
            token_ids=[tokens[i] for i in new],
            positions=np.full(len(new), depth),
            wanted=range(len(new)),
            states=[self._states[slot[i]] for i in known],
        )
        if not wide[new].all():
            mask = torch.zeros(len(new), at + len(nodes), dtype=lane.kv.dtype)
            feed.mask = mask.masked_fill_(torch.from_numpy(~wide[new]), -torch.inf).to(lane.kv.device)
        return feed, slot, wide

    def keep(self) -> None:
        """Make what the finished rows fed known to later requests."""
        for tokens, slots in self._paths:
            path = self._prefix + tokens
            unknown = slots[max(0, self._store.known(path) - len(self._prefix)) :]
            if unknown:
                kv = self._lane.kv.index_select(3, torch.tensor(unknown, device=self._lane.kv.device))
                self._store.insert(path, kv, torch.stack([self._states[slot] for slot in unknown]), own=True)


def next_place(piece: Piece | None, token: int) -> Piece | None:
    """Where the store has `token` after a place in it; None when it does not know, or the place has changed."""
    if piece is None:
        return None
    segment, take = piece
    if take < len(segment.token_ids):
        return Piece(segment, take + 1) if segment.token_ids[take] == token else None
    child = segment.children.get(token) if take == len(segment.token_ids) else None
    return Piece(child, 1) if child else None
