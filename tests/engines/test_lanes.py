"""The lane pool: what a lane holds is what the store has, whatever was taken, grown, forgotten and evicted before.

States are made from positions, as in test_prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from inferalign.core.types import TokenIds
from inferalign.engines.lanes import STEP, TRUNK_TOKENS, TRUNKS, Lane, LanePool
from inferalign.engines.prefix import PrefixStore, length
from tests.engines.test_prefix import add, states

SHAPE = (2, 1, 3)
"""Layers, heads, head_dim of the states of test_prefix."""
SLOT_BYTES = 2 * 2 * 1 * 3 * 4
"""Bytes of one token in a lane."""
LARGE = 1 << 30
LONG: TokenIds = tuple(range(100, 100 + 2 * TRUNK_TOKENS))


def make(capacity: int = LARGE) -> LanePool:
    return LanePool(PrefixStore(capacity), SHAPE, torch.empty(0), capacity)


def held(lane: Lane) -> TokenIds:
    return (lane.trunk.token_ids if lane.trunk else ()) + lane.token_ids


def assert_holds(lane: Lane, ids: TokenIds) -> None:
    """Trunk and own part together are the states of `ids`, and say so."""
    assert held(lane) == ids
    assert lane.length == len(ids) - lane.offset
    own = lane.kv[..., : lane.length, :]
    kv = torch.cat([lane.trunk.kv, own], dim=3) if lane.trunk else own
    assert torch.equal(kv, states(ids)[0]) if ids else kv.shape[3] == 0


def take(pool: LanePool, prefix: TokenIds) -> Lane:
    """A lane for `prefix`, after checking that it holds what the store knows of it."""
    known = pool.known(prefix)
    lane, pieces = pool.take(prefix)
    assert length(pieces) == known
    assert lane.busy
    assert_holds(lane, prefix[:known])
    return lane


def feed(pool: LanePool, lane: Lane, prefix: TokenIds, rows: int = 0) -> None:
    """What a request does: feeds the rest of its prefix, tells the store, and grows rows that nobody may read after."""
    first = len(held(lane))
    kv, hidden = states(prefix)
    lane.write(kv[..., first:, :], lane.length)
    pool.store.insert(prefix, kv[..., first:, :], hidden[first:])
    lane.token_ids = prefix[lane.offset :]
    lane.length = len(lane.token_ids)
    pool.reserve(lane, lane.length + rows)
    lane.kv[..., lane.length : lane.length + rows, :] = torch.nan
    lane.length += rows


def serve(pool: LanePool, prefix: TokenIds) -> Lane:
    """One request from beginning to end."""
    lane = take(pool, prefix)
    feed(pool, lane, prefix, rows=2)
    pool.release(lane)
    return lane


@dataclass
class Written:
    """Slots that lanes were written to."""

    slots: list[tuple[int, int]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    log, original = Written([]), Lane.write

    def write(self: Lane, kv: torch.Tensor, at: int) -> None:
        log.slots.append((at, at + kv.shape[3]))
        original(self, kv, at)

    monkeypatch.setattr(Lane, "write", write)
    return log


def test_a_lane_that_comes_back_copies_only_the_difference(written: Written) -> None:
    pool = make()
    for ids in [(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 7, 8, 9)]:
        add(pool.store, ids)
    first = take(pool, (1, 2, 3, 4, 5, 6))
    assert sum(end - start for start, end in written.slots) == 6
    pool.release(first)
    written.slots.clear()
    assert take(pool, (1, 2, 3, 4, 7, 8, 9)) is first
    assert written.slots == [(4, 7)]
    pool.release(first)
    written.slots.clear()
    assert take(pool, (1, 2, 3, 4)) is first
    assert written.slots == [], "a shorter prefix is there already"


def test_copying_begins_inside_a_segment(written: Written) -> None:
    """All is one segment of the store; a lane, or a trunk, ends in the middle of it."""
    pool = make()
    add(pool.store, LONG)
    lane = take(pool, LONG[:3])
    pool.release(lane)
    written.slots.clear()
    assert take(pool, LONG[:5]) is lane
    assert written.slots == [(3, 5)]
    pool = make()
    add(pool.store, LONG)
    take(pool, LONG[:100])
    written.slots.clear()
    assert take(pool, LONG).offset == 100
    assert written.slots == [(0, len(LONG) - 100)]


def test_an_interrupted_copy_is_not_taken_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane holds what it held of both prefixes, and no token of the copy that failed half-way."""
    pool = make()
    add(pool.store, (1, 2, 3, 4, 5, 6))
    add(pool.store, (1, 2, 3, 7, 8, 9))
    pool.release(take(pool, (1, 2, 3, 4, 5, 6)))
    with monkeypatch.context() as patch:
        patch.setattr(Lane, "write", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            pool.take((1, 2, 3, 7, 8, 9))
    (lane,) = pool._lanes
    assert_holds(lane, (1, 2, 3))


def test_release_resets_to_what_is_known_by_name() -> None:
    """Rows grown behind the prefix are nobody's afterwards."""
    pool = make()
    lane = take(pool, (1, 2, 3))
    feed(pool, lane, (1, 2, 3), rows=5)
    assert lane.length == 8
    pool.release(lane)
    assert not lane.busy
    assert_holds(lane, (1, 2, 3))
    assert take(pool, (1, 2, 3, 4)) is lane


def test_growing_keeps_what_is_there() -> None:
    pool = make()
    lane = take(pool, ())
    feed(pool, lane, LONG[:STEP])
    before = lane.kv.shape[3]
    lane.reserve(before + 1)
    assert lane.kv.shape[3] >= before * 3 // 2
    assert lane.kv.shape[3] % STEP == 0
    assert_holds(lane, LONG[:STEP])


@pytest.mark.parametrize(("shared", "trunk"), [(TRUNK_TOKENS - 1, 0), (TRUNK_TOKENS, TRUNK_TOKENS), (150, 150)])
def test_a_long_shared_beginning_becomes_a_trunk(shared: int, trunk: int, written: Written) -> None:
    pool = make()
    one, two, three = (LONG[:shared] + tail for tail in [(1, 1, 1), (2, 2), (3,)])
    for ids in (one, two, three):
        add(pool.store, ids)
    first, second = take(pool, one), take(pool, two)
    assert (first.offset, second.offset) == (0, trunk)
    written.slots.clear()
    third = take(pool, three)
    assert third.offset == trunk
    assert third.trunk is second.trunk
    if trunk:
        assert written.slots == [(0, 1)], "what the trunk holds is not copied into the lane"
    for lane, ids in [(first, one), (second, two), (third, three)]:
        assert_holds(lane, ids)


def test_a_trunk_may_grow_from_a_trunk() -> None:
    pool = make()
    base, longer = LONG[:100], LONG
    for ids in [(*base, 1), (*base, 2), (*longer, 3), (*longer, 4), (*longer, 5)]:
        add(pool.store, ids)
    take(pool, (*base, 1))
    lanes = [take(pool, ids) for ids in [(*base, 2), (*longer, 3), (*longer, 4)]]
    assert [lane.offset for lane in lanes] == [100, 100, 100], "92 more tokens are below what a trunk is worth"
    deep = (*longer, *range(400, 500))
    add(pool.store, (*deep, 1))
    add(pool.store, (*deep, 2))
    assert [take(pool, (*deep, tail)).offset for tail in (1, 2)] == [100, len(deep)]


def test_forget_frees_lanes_and_trunks() -> None:
    pool = make()
    mine, other = LONG, tuple(range(500, 500 + len(LONG)))
    for ids in (mine, other):
        for tail in (1, 2):
            add(pool.store, (*ids, tail))
    lanes = [take(pool, (*ids, tail)) for ids in (mine, other) for tail in (1, 2)]
    assert [lane.offset for lane in lanes] == [0, len(LONG), 0, len(LONG)]
    for lane in lanes:
        pool.release(lane)
    before = pool.nbytes
    pool.forget(mine)
    assert held(lanes[0]) == (), "free for anything"
    assert before - pool.nbytes == lanes[1].kv.nbytes + len(LONG) * SLOT_BYTES, (
        "the trunk and the lane that stood on it"
    )
    assert held(lanes[2]) == (*other, 1)
    assert take(pool, (*other, 2)) is lanes[3]
    pool.store.drop(mine)
    assert take(pool, (*mine, 1)) is lanes[0]


def test_forget_leaves_a_running_request_its_lane() -> None:
    pool = make()
    for tail in (1, 2):
        add(pool.store, (*LONG, tail))
    first, second = take(pool, (*LONG, 1)), take(pool, (*LONG, 2))
    pool.forget(LONG)
    pool.store.drop(LONG)
    assert_holds(first, (*LONG, 1))
    assert_holds(second, (*LONG, 2))
    pool.release(first)
    pool.release(second)
    serve(pool, (*LONG, 3))


def test_room_is_for_what_a_lane_of_the_prefix_takes() -> None:
    """Half of the capacity is for lanes: two of one step each, or one of a prefix that is longer than a step."""
    lane_bytes = STEP * SLOT_BYTES
    pool = make(4 * lane_bytes)
    assert pool.has_room(())
    assert pool.has_room(tuple(range(STEP)))
    assert not pool.has_room(tuple(range(STEP + 1)))
    first = take(pool, (1,))
    assert pool.has_room(())
    second = take(pool, (2,))
    assert pool.nbytes == pool.limit
    assert not pool.has_room(())
    pool.release(first)
    assert pool.has_room(()), "an idle lane can be taken"
    assert take(pool, (3,)) is first
    pool.release(second)


def test_what_will_be_fed_counts_from_the_beginning() -> None:
    """Nothing is known of either prefix: before the first is fed, there is no room for the second any more."""
    tokens = 2 * STEP
    pool = make(2 * (2 * tokens + STEP) * SLOT_BYTES - 1)
    assert pool.has_room(LONG[:tokens])
    lane = take(pool, LONG[:tokens])
    assert lane.kv.shape[3] == tokens
    assert not pool.has_room(tuple(range(1000, 1000 + tokens)))
    assert pool.has_room(tuple(range(1000, 1000 + tokens - 1)))


def test_room_is_not_counted_on_a_trunk_that_cannot_be_used() -> None:
    """The trunk is there, but the store has lost its tokens: the lane will have to hold them itself."""
    prefix = (*LONG[:TRUNK_TOKENS], *range(3 * STEP))
    whole = TRUNK_TOKENS + STEP + len(prefix) + STEP
    pool = make(2 * (whole - 1) * SLOT_BYTES)
    for tail in (1, 2):
        add(pool.store, (*LONG[:TRUNK_TOKENS], tail))
    first, second = (take(pool, (*LONG[:TRUNK_TOKENS], tail)) for tail in (1, 2))
    assert (first.offset, second.offset) == (0, TRUNK_TOKENS)
    pool.release(first)
    assert pool.has_room(prefix)
    pool.store.clear()
    assert not pool.has_room(prefix)
    assert pool.take(prefix)[0].offset == 0


def test_the_store_gives_way_to_a_lane_that_grows() -> None:
    capacity = 40 * STEP * SLOT_BYTES
    pool = make(capacity)
    lane = take(pool, (1,))
    for i in range(40):
        add(pool.store, tuple(range(1000 * i, 1000 * i + STEP)))
    assert pool.nbytes + pool.store.nbytes > capacity - 5 * STEP * SLOT_BYTES, "the case is not trivial"
    pool.reserve(lane, 10 * STEP)
    assert lane.kv.shape[3] == 10 * STEP
    assert pool.nbytes + pool.store.nbytes <= capacity
    evicted = pool.store.stats.evicted
    pool.reserve(lane, 9 * STEP)
    assert (lane.kv.shape[3], pool.store.stats.evicted) == (10 * STEP, evicted), "there is room: nothing is moved"


def test_without_memory_one_request_fills_it_and_release_frees_it() -> None:
    pool = make(0)
    assert not pool.has_room(())
    lane = take(pool, (1, 2))
    feed(pool, lane, (1, 2), rows=3)
    assert pool.nbytes > 0
    pool.release(lane)
    assert (pool.nbytes, pool.store.nbytes) == (0, 0)


def test_the_lane_unused_for_longest_goes_first() -> None:
    lane_bytes = STEP * SLOT_BYTES
    pool = make(6 * lane_bytes)
    lanes = [take(pool, (i,)) for i in range(5)]
    for i, lane in enumerate(lanes):
        feed(pool, lane, (i, i))
    for lane in lanes:
        pool.release(lane)
    assert pool.nbytes == pool.limit == 3 * lane_bytes
    assert [lane in pool._lanes for lane in lanes] == [False, False, True, True, True]


def test_few_trunks_without_a_lane_are_kept() -> None:
    """Each prompt's trunk stays for a while, but not for ever."""
    pool = make()
    for i in range(TRUNKS + 4):
        ids = tuple(range(1000 * i, 1000 * i + TRUNK_TOKENS))
        add(pool.store, (*ids, 1))
        add(pool.store, (*ids, 2))
        lanes = [take(pool, (*ids, 1)), take(pool, (*ids, 2))]
        assert lanes[1].trunk is not None
        for lane in lanes:
            pool.release(lane)
        pool._lanes.clear()
    serve(pool, (7,))
    assert len(pool._trunks) == TRUNKS
    assert pool._trunks[-1].token_ids[0] == 1000 * (TRUNKS + 3)


def random_prefix(rng: np.random.Generator) -> TokenIds:
    """Few distinct tokens, so that beginnings meet; half of them after a long common beginning."""
    tail = tuple(int(i) for i in rng.integers(0, 3, rng.integers(1, 8)))
    begin = LONG[: (0, 0, 100, len(LONG))[rng.integers(4)]]
    return begin + tail


@pytest.mark.parametrize("capacity", [0, 40_000, 150_000, LARGE])
def test_random_requests_against_the_store(capacity: int) -> None:
    """Up to four requests at a time, ended in any order, with rows behind their prefixes and prefixes forgotten."""
    rng, pool = np.random.default_rng(capacity), make(capacity)
    running: list[tuple[Lane, TokenIds]] = []
    trunks = 0
    for _ in range(400):
        if len(running) < 4 and rng.random() < 0.6:
            prefix = random_prefix(rng)
            lane = take(pool, prefix)
            assert all(lane is not other for other, _ in running)
            feed(pool, lane, prefix)
            running.append((lane, prefix))
            trunks += lane.trunk is not None
        elif running and rng.random() < 0.8:
            lane, prefix = running.pop(int(rng.integers(len(running))))
            assert_holds(lane, prefix)
            feed(pool, lane, prefix, rows=int(rng.integers(4)))
            pool.release(lane)
            assert pool.store.capacity == max(0, capacity - pool.nbytes)
            assert pool.store.nbytes <= pool.store.capacity
        elif rng.random() < 0.2:
            prefix = random_prefix(rng)
            pool.store.drop(prefix)
            pool.forget(prefix)
        for lane, prefix in running:
            assert_holds(lane, prefix)
        if capacity >= 150_000:  # of which four requests use less than half
            assert pool.nbytes + pool.store.nbytes <= capacity
        if not running:
            assert pool.nbytes <= pool.limit
            assert pool.nbytes + pool.store.nbytes <= capacity
    assert trunks > 10, "the case is not trivial"
