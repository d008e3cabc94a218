"""Contiguous key-value buffers in which requests run: one for each request in flight, kept warm for the next one.

Attention reads keys and values that lie side by side, so what the store knows of a prefix is copied into a lane before
a request runs there. A lane keeps what it holds: a search that comes back with nearly the same prefix copies only the
difference. A long beginning that several lanes share (an evaluation template, the prompt of a hundred rollouts) is not
copied into each: it becomes a trunk, which their attention reads together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inferalign.core.types import TokenIds
from inferalign.engines.lane_attention import views
from inferalign.engines.prefix import Piece, PrefixStore, common_length, length

STEP = 64
"""Lanes grow to multiples of this many tokens, and by half at least."""
TRUNK_TOKENS = 96
"""A shared beginning of at least this many tokens becomes a trunk; below, two attentions cost more than a copy."""
TRUNKS = 8
"""Trunks without a lane that are kept for a next one."""


@dataclass(eq=False)
class Trunk:
    """A beginning that lanes share: `kv` is `[layers, 2, heads, n, head_dim]`."""

    token_ids: TokenIds
    kv: torch.Tensor
    used: int = 0

    def __post_init__(self) -> None:
        self.views = views(self.kv)


@dataclass(eq=False)
class Lane:
    """Keys and values of one prefix and of what grows from it; its own part begins where its trunk ends."""

    kv: torch.Tensor
    """`[layers, 2, heads, capacity, head_dim]`, filled up to `length`."""
    trunk: Trunk | None
    token_ids: TokenIds = ()
    """What the first slots hold; anything beyond is the business of the request that runs here."""
    length: int = 0
    busy: bool = False
    used: int = 0
    nbytes: int = 0

    def __post_init__(self) -> None:
        self.nbytes = int(self.kv.nbytes)

    @property
    def offset(self) -> int:
        """Tokens in the trunk."""
        return len(self.trunk.token_ids) if self.trunk else 0

    def reserve(self, capacity: int) -> None:
        """Room for `capacity` tokens of its own; what is there stays."""
        have = self.kv.shape[3]
        if capacity <= have:
            return
        wide = -(-max(capacity, have * 3 // 2) // STEP) * STEP
        grown = self.kv.new_empty(*self.kv.shape[:3], wide, self.kv.shape[4])
        grown[..., : self.length, :] = self.kv[..., : self.length, :]
        self.kv, self.nbytes = grown, int(grown.nbytes)

    def write(self, kv: torch.Tensor, at: int) -> None:
        """Put states `[layers, 2, heads, n, head_dim]` into slots from `at` on."""
        self.kv[..., at : at + kv.shape[3], :] = kv


class LanePool:
    """The lanes of one model, beside its store. Both together stay under `capacity` bytes, while one request can run.

    Requests are let in while their lanes fit into half of it; the store has what lanes leave, and gives way when they
    grow.
    """

    def __init__(self, store: PrefixStore, shape: tuple[int, int, int], like: torch.Tensor, capacity: int) -> None:
        """`shape` is (layers, heads, head_dim); `like` gives dtype and device."""
        self.store = store
        self.capacity = capacity
        self.limit = capacity // 2
        self._shape, self._like = shape, like
        self._lanes: list[Lane] = []
        self._trunks: list[Trunk] = []
        self._clock = 0

    def known(self, token_ids: TokenIds) -> int:
        """How much of a prefix is held."""
        return self.store.known(token_ids)

    @property
    def nbytes(self) -> int:
        lanes = sum(lane.nbytes for lane in self._lanes)
        return lanes + sum(int(trunk.kv.nbytes) for trunk in self._trunks)

    def has_room(self, prefix: TokenIds) -> bool:
        """Whether a request for `prefix` can start beside those in flight: its lane fits under the limit."""
        layers, heads, dim = self._shape
        trunk = self._trunk_of(prefix[: self.known(prefix)])
        tokens = len(prefix) - (len(trunk.token_ids) if trunk else 0) + STEP
        wanted = 2 * layers * heads * dim * self._like.element_size() * tokens
        busy = sum(lane.nbytes for lane in self._lanes if lane.busy)
        fits: bool = busy + sum(int(trunk.kv.nbytes) for trunk in self._trunks) + wanted <= self.limit
        return fits

    def take(self, prefix: TokenIds) -> tuple[Lane, list[Piece]]:
        """A lane that holds what the store knows of `prefix`, and the pieces that the store knows.

        It has room for all of the prefix, so that what is going to be fed counts when the next request asks for room.
        """
        self._clock += 1
        pieces = self.store.match(prefix)
        known = prefix[: length(pieces)]
        trunk = self._trunk_of(known)
        lane = self._best(trunk, prefix)
        if lane is None:
            trunk = self._shared(trunk, known, pieces)
            lane = self._new(trunk)
        lane.busy, lane.used = True, self._clock
        if trunk:
            trunk.used = self._clock
        self._load(lane, prefix, pieces)
        self._balance()
        return lane, pieces

    def reserve(self, lane: Lane, capacity: int) -> None:
        """Room for `capacity` tokens of a lane's own, should it have less; the store gives way."""
        if capacity > lane.kv.shape[3]:
            lane.reserve(capacity)
            self._balance()

    def release(self, lane: Lane) -> None:
        lane.busy, lane.length = False, len(lane.token_ids)
        self._balance()

    def _balance(self) -> None:
        """Keep lanes under their limit, and give the store the rest."""
        self._trim()
        self.store.capacity = max(0, self.capacity - self.nbytes)
        self.store.shrink()

    def _trim(self) -> None:
        """Give back the lanes that were not used for longest while there are too many, and trunks nobody stands on."""
        idle = sorted((lane for lane in self._lanes if not lane.busy), key=lambda lane: -lane.used)
        while idle and self.nbytes > self.limit:
            self._lanes.remove(idle.pop())
        standing = {id(lane.trunk) for lane in self._lanes}
        spare = sorted((trunk for trunk in self._trunks if id(trunk) not in standing), key=lambda t: -t.used)
        for trunk in spare[TRUNKS:] if self.nbytes <= self.limit else spare:
            self._trunks.remove(trunk)

    def forget(self, prefix: TokenIds) -> None:
        """Lanes that hold `prefix` and are idle are free for anything; trunks of its own go."""
        for lane in self._lanes:
            held = (lane.trunk.token_ids if lane.trunk else ()) + lane.token_ids
            if not lane.busy and held[: len(prefix)] == prefix:
                lane.token_ids, lane.length, lane.used = (), 0, 0
        used = {id(lane.trunk) for lane in self._lanes if lane.busy}  # goes when it is not, by and by
        gone = [t for t in self._trunks if t.token_ids[: len(prefix)] == prefix and id(t) not in used]
        self._lanes = [lane for lane in self._lanes if lane.busy or lane.trunk not in gone]
        self._trunks = [trunk for trunk in self._trunks if trunk not in gone]

    def clear(self) -> None:
        self._lanes, self._trunks = [lane for lane in self._lanes if lane.busy], []

    def _trunk_of(self, known: TokenIds) -> Trunk | None:
        fitting = [trunk for trunk in self._trunks if known[: len(trunk.token_ids)] == trunk.token_ids]
        return max(fitting, key=lambda trunk: len(trunk.token_ids), default=None)

    def _best(self, trunk: Trunk | None, prefix: TokenIds) -> Lane | None:
        """The idle lane that holds most of `prefix`; None when a new one does better and there is room for it."""
        own = prefix[len(trunk.token_ids) :] if trunk else prefix
        idle = [lane for lane in self._lanes if not lane.busy and lane.trunk is trunk]
        if not idle:
            return None
        shared, lane = max(((common_length(lane.token_ids, own), lane) for lane in idle), key=lambda found: found[0])
        if 2 * shared >= len(own):
            return lane
        stale = min(idle, key=lambda lane: lane.used)
        return stale if not stale.token_ids or self.nbytes >= self.limit else None

    def _shared(self, trunk: Trunk | None, known: TokenIds, pieces: list[Piece]) -> Trunk | None:
        """The trunk for a new lane: a longer one, if another lane holds the same long beginning."""
        start = len(trunk.token_ids) if trunk else 0
        own = known[start:]
        longest = max((common_length(lane.token_ids, own) for lane in self._lanes if lane.trunk is trunk), default=0)
        if longest < TRUNK_TOKENS:
            return trunk
        kv, at, end = self._empty(start + longest), 0, start + longest
        for segment, take in pieces:
            take = min(take, end - at)
            if take > 0:
                kv[..., at : at + take, :] = segment.kv[..., :take, :]
            at += take
        made = Trunk(known[:end], kv)
        self._trunks.append(made)
        return made

    def _new(self, trunk: Trunk | None) -> Lane:
        lane = Lane(self._empty(STEP), trunk)
        self._lanes.append(lane)
        return lane

    def _empty(self, tokens: int) -> torch.Tensor:
        layers, heads, dim = self._shape
        return self._like.new_empty(layers, 2, heads, tokens, dim)

    def _load(self, lane: Lane, prefix: TokenIds, pieces: list[Piece]) -> None:
        """Make room for a prefix, and copy what of it is known and the lane does not hold yet."""
        own = prefix[lane.offset : length(pieces)]
        same = common_length(lane.token_ids, own)
        lane.token_ids = own[:same]  # should copying be interrupted, the rest of the lane is not what it was
        lane.length = same
        lane.reserve(len(prefix) - lane.offset)
        at, start = 0, lane.offset + same
        for segment, take in pieces:
            if at + take > start:
                skip = max(0, start - at)
                lane.write(segment.kv[..., skip:take, :], at + skip - lane.offset)
            at += take
        lane.length, lane.token_ids = len(own), own
