"""What an engine is asked, as generators: each yields the tokens it wants fed next and is sent what came of them.

A request knows its own prefixes only. It runs in a lane, feeds nothing that the store knows, and leaves there what
later requests may ask for. Rows alike so far are one node of a tree, fed once. The scheduler decides which requests
share a pass; nothing here depends on it.

`TreeRequests` is for models that `matches_plain`; `PlainRequests` is the slow and certain way for all others: whole
sequences, one at a time, nothing kept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.drafts import Draft
from inferalign.engines.draws import pick
from inferalign.engines.lane_attention import causal_mask
from inferalign.engines.lanes import Lane, LanePool, Trunk
from inferalign.engines.packed import Fed, Feed, PackedModel
from inferalign.engines.prefix import Piece, PrefixStore, common_prefix, length

CHUNK = 512
"""Tokens of a prefix in one pass: its mask grows with the square."""

Steps = Generator[Feed, Fed, None]


class Requests(Protocol):
    """Generators that end with their answer. `RoleUsage` is charged what each one costs."""

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        """Next-token logits after each prefix, `[len(prefixes), vocab]`."""
        ...

    def grow(self, prefix: TokenIds, drafts: Sequence[Draft], usage: RoleUsage) -> Generator[Feed, Fed, None]:
        """Draw every draft to its end."""
        ...

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        """Last-layer states of `prefix[start:]`, `[n, hidden]`."""
        ...


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
            rows = _Rows(self._store, self._lanes, lane, prefix, usage)
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


class _Rows:
    """Drafts that grow from one prefix at the end of its lane."""

    def __init__(self, store: PrefixStore, lanes: LanePool, lane: Lane, prefix: TokenIds, usage: RoleUsage) -> None:
        self._store, self._lanes, self._lane, self._prefix, self._usage = store, lanes, lane, prefix, usage
        self._base = lane.length
        self._states: dict[int, torch.Tensor] = {}
        """Last-layer state of each slot."""
        self._paths: list[tuple[TokenIds, list[int]]] = []
        """Finished rows: tokens fed, and their slots."""

    def grow(self, active: list[Draft], fed: Fed) -> Steps:
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
            cursors: list[Piece | None] = [_next(cursor[id(first[i])], token) for i, (_, token) in enumerate(nodes)]
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


class PlainRequests:
    """Every request by whole sequences, one at a time: nothing is kept, nothing is shared, nothing can go wrong."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        yield from ()
        return self.all_logits(prefixes, usage)

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        yield from ()
        states: torch.Tensor = self._run(prefix, usage, hidden=True).hidden_states[-1][0, start:]
        return states

    def grow(self, prefix: TokenIds, drafts: Sequence[Draft], usage: RoleUsage) -> Generator[Feed, Fed, None]:
        yield from ()
        while active := [draft for draft in drafts if draft.stop is None]:
            logits = self.all_logits([prefix + tuple(draft.drawn) for draft in active], usage)
            found = pick(logits, [draft.row for draft in active], [draft.number() for draft in active])
            for draft, (token, logprob) in zip(active, found, strict=True):
                draft.add(token, logprob)
            usage.new_tokens += len(active)

    def all_logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> torch.Tensor:
        return torch.stack([self._run(prefix, usage).logits[0, -1].float() for prefix in prefixes])

    def _run(self, prefix: TokenIds, usage: RoleUsage, *, hidden: bool = False) -> Any:
        usage.tokens_fed += len(prefix)
        usage.forward_calls += 1
        ids = torch.tensor([prefix], device=self._model.device)
        return self._model(input_ids=ids, use_cache=False, output_hidden_states=hidden)


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


def _next(piece: Piece | None, token: int) -> Piece | None:
    """Where the store has `token` after a place in it; None when it does not know, or the place has changed."""
    if piece is None:
        return None
    segment, take = piece
    if take < len(segment.token_ids):
        return Piece(segment, take + 1) if segment.token_ids[take] == token else None
    child = segment.children.get(token) if take == len(segment.token_ids) else None
    return Piece(child, 1) if child else None


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


def matches_plain(model: Any, tolerance: float) -> bool:
    """Whether packed passes give this model's own logits: two branches of a short probe, in one feed and in steps.

    Two lanes are in the pass, one of them on a trunk, so that every form of attention is tried.
    """
    vocabulary = model.config.get_text_config().vocab_size
    probe = tuple(int(i) % vocabulary for i in np.random.Generator(np.random.Philox(key=0)).integers(0, vocabulary, 14))
    branches = [probe[:10] + probe[10:12], probe[:10] + probe[12:14]]
    plain = PlainRequests(model).all_logits([*branches, probe[:10], probe[:4]], RoleUsage())
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
