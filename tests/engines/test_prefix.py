"""The radix tree: what is found again is what was put in, and the bound holds. States here are made from positions."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.types import TokenIds
from inferalign.engines.prefix import PrefixStore, StoreStats, common_prefix

TOKEN_BYTES = (2 * 2 * 1 * 3 + 1) * 4
"""Bytes of one token's states here: 2 layers, keys and values, 1 head of size 3, and 1 hidden."""


def states(ids: TokenIds) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's states name its whole prefix, so that a mix-up shows."""
    names = torch.tensor([float(hash(ids[: i + 1]) % 9973) for i in range(len(ids))])
    return names.expand(2, 2, 1, 3, -1).transpose(3, 4).contiguous(), names[:, None]


def add(store: PrefixStore, ids: TokenIds, first: int = 0) -> None:
    kv, hidden = states(ids)
    store.insert(ids, kv[..., first:, :], hidden[first:])


def known(store: PrefixStore, ids: TokenIds) -> int:
    """Length of the match, after checking its states."""
    pieces = store.match(ids)
    length = sum(piece.take for piece in pieces)
    if pieces:
        kv, hidden = states(ids[:length])
        assert torch.equal(torch.cat([p.segment.kv[..., : p.take, :] for p in pieces], dim=3), kv)
        assert torch.equal(torch.cat([p.segment.hidden[: p.take] for p in pieces]), hidden)
    return length


def test_split_and_match_by_hand() -> None:
    store = PrefixStore(1 << 20)
    add(store, (1, 2, 3, 4))
    assert [known(store, ids) for ids in [(1, 2), (1, 2, 9), (2,), (1, 2, 3, 4, 5)]] == [2, 2, 0, 4]
    add(store, (1, 2, 7), first=2)
    assert known(store, (1, 2, 7, 7)) == 3
    assert known(store, (1, 2, 3, 4)) == 4
    assert store.nbytes == 5 * TOKEN_BYTES


def test_nothing_hangs_in_the_air() -> None:
    store = PrefixStore(1 << 20)
    add(store, (1, 2, 3), first=2)
    assert known(store, (1, 2, 3)) == 0
    assert store.nbytes == 0


def test_least_recently_used_leaf_goes_first() -> None:
    store = PrefixStore(10 * TOKEN_BYTES)
    for branch in (5, 6, 7):
        add(store, (1, 2, 3, branch, branch))
    assert known(store, (1, 2, 3, 5, 5)) == 5  # now the newest
    add(store, (1, 2, 3, 8, 8))
    assert [known(store, (1, 2, 3, branch, branch)) for branch in (5, 6, 7, 8)] == [5, 3, 5, 5]
    assert store.nbytes <= 10 * TOKEN_BYTES


def test_a_bound_smaller_than_one_request_keeps_only_that() -> None:
    store = PrefixStore(1)
    add(store, (1, 2, 3))
    assert known(store, (1, 2, 3)) == 3
    add(store, (4, 5))
    assert (known(store, (1, 2, 3)), known(store, (4, 5))) == (0, 2)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1, max_size=25))
def test_against_a_set_of_prefixes(requests: list[TokenIds]) -> None:
    store, reference = PrefixStore(1 << 30), set()
    for ids in requests:
        expected = max((i for i in range(1, len(ids) + 1) if ids[:i] in reference), default=0)
        assert known(store, ids) == expected
        add(store, ids, first=expected)
        reference |= {ids[:i] for i in range(1, len(ids) + 1)}
        assert store.nbytes == len(reference) * TOKEN_BYTES


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1, max_size=40),
    st.integers(0, 30),
)
def test_bytes_stay_true_and_bounded_under_eviction(requests: list[TokenIds], tokens: int) -> None:
    store = PrefixStore(tokens * TOKEN_BYTES)
    longest = 0
    for ids in requests:
        longest = max(longest, len(ids))
        add(store, ids)
        assert known(store, ids) == len(ids)
        assert store.nbytes == sum(segment.nbytes for segment in store._walk())
        assert store.nbytes <= max(tokens, longest) * TOKEN_BYTES


def test_prune_by_hand() -> None:
    """Below 1 2, only the way of 3 4 and what follows it stays; what is elsewhere is not touched."""
    store = PrefixStore(1 << 20)
    for ids in [(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 3, 8), (1, 2, 9, 9), (1, 7), (5, 5)]:
        add(store, ids)
    store.prune((1, 2), keep=(3, 4))
    assert [known(store, ids) for ids in [(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 3, 8), (1, 2, 9, 9)]] == [5, 5, 3, 2]
    assert [known(store, ids) for ids in [(1, 7), (5, 5)]] == [2, 2]
    assert store.nbytes == 9 * TOKEN_BYTES
    store.prune((5,), keep=(5,))
    add(store, (5, 5, 5, 5, 5))
    store.prune((5,), keep=(5, 5, 5))  # ends inside a segment, whose rest stays
    assert known(store, (5, 5, 5, 5, 5)) == 5
    store.drop((5,))
    store.prune((1,), keep=(2, 3))
    assert [known(store, ids) for ids in [(1, 2, 3, 4, 5), (1, 7)]] == [5, 1]
    assert store.nbytes == 6 * TOKEN_BYTES
    store.prune((1, 2, 6), keep=(1,))  # not known
    store.prune((1, 2), keep=())
    assert store.nbytes == 6 * TOKEN_BYTES


def test_drop_by_hand() -> None:
    """1 2 is shared and stays; 3 4 is nobody else's and goes, though it was asked for from 4 on only."""
    store = PrefixStore(1 << 20)
    for ids in [(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 7)]:
        add(store, ids)
    store.drop((1, 2, 3, 4, 9))  # not known
    assert store.nbytes == 7 * TOKEN_BYTES
    store.drop((1, 2, 3, 4))
    assert [known(store, ids) for ids in [(1, 2, 3, 4, 5), (1, 2, 7)]] == [2, 3]
    assert store.nbytes == 3 * TOKEN_BYTES
    store.drop((1,))
    assert (known(store, (1, 2, 7)), store.nbytes) == (0, 0)
    for ids in [(1, 2), (1, 2, 3)]:
        add(store, ids)
    store.drop((1, 2, 3))
    assert store.nbytes == 0, "1 2 was asked for alone once, but is nobody else's beginning"


def test_asking_alone_marks_and_counts_nothing() -> None:
    store = PrefixStore(6 * TOKEN_BYTES)
    add(store, (1, 1, 1))
    add(store, (2, 2, 2))
    assert [store.known(ids) for ids in [(1, 1, 1, 1), (1, 1, 9), (3,), ()]] == [3, 2, 0, 0]
    assert store.stats == StoreStats()
    add(store, (3,))
    assert (store.known((1, 1, 1)), store.known((2, 2, 2))) == (0, 3), "the oldest goes, though it was asked about last"


def test_what_was_asked_found_and_evicted() -> None:
    store = PrefixStore(6 * TOKEN_BYTES)
    assert store.stats.hit_rate == 0.0
    store.match((1, 2, 3, 4))
    add(store, (1, 2, 3, 4))
    store.match((1, 2, 3, 4))
    store.match((1, 2, 9, 9))
    assert store.stats == StoreStats(asked=12, found=6, evicted=0)
    assert store.stats.hit_rate == 0.5
    add(store, (5, 6, 7))
    assert store.stats.evicted == 4
    store.drop((5,))
    assert store.stats.evicted == 4, "what is let go of is not evicted"


def test_a_lowered_capacity_is_kept_when_asked_to_shrink() -> None:
    store = PrefixStore(1 << 20)
    for first in (1, 2, 3):
        add(store, (first, 5, 5))
    store.capacity = 7 * TOKEN_BYTES
    store.shrink()
    assert [store.known((first, 5, 5)) for first in (1, 2, 3)] == [0, 3, 3]
    store.capacity = 0
    store.shrink()
    assert store.nbytes == 0


WORDS = st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple)
"""Few and short, so that what is pruned and dropped is known."""
OPERATIONS = st.tuples(st.sampled_from(["add", "add", "prune", "drop"]), WORDS, st.integers(1, 3))


@given(st.lists(OPERATIONS, min_size=10, max_size=40))
def test_prune_and_drop_against_a_set_of_prefixes(operations: list[tuple[str, TokenIds, int]]) -> None:
    store, reference = PrefixStore(1 << 30), set()
    for name, ids, cut in operations:
        if name == "add":
            add(store, ids, first=store.known(ids))
            reference |= {ids[:i] for i in range(1, len(ids) + 1)}
        elif name == "prune":
            below, keep = ids[:cut], ids[cut:]
            store.prune(below, keep)
            if below in reference and keep:
                reference = {p for p in reference if not below_only(p, below) or comparable(p, ids)}
        else:
            store.drop(ids)
            if ids in reference:
                others = {p for p in reference if not comparable(p, ids)}
                reference = {p[:i] for p in others for i in range(1, len(p) + 1)}
        assert store.nbytes == len(reference) * TOKEN_BYTES
        assert all(known(store, p) == len(p) for p in reference)
        assert store.known(ids) == max((i for i in range(1, len(ids) + 1) if ids[:i] in reference), default=0)


def below_only(ids: TokenIds, top: TokenIds) -> bool:
    return len(ids) > len(top) and ids[: len(top)] == top


def comparable(a: TokenIds, b: TokenIds) -> bool:
    """Whether one is a beginning of the other."""
    return a[: len(b)] == b[: len(a)]


@given(st.lists(st.lists(st.integers(0, 1), max_size=5).map(tuple), min_size=1, max_size=5))
def test_common_prefix(sequences: list[TokenIds]) -> None:
    shared = common_prefix(sequences)
    assert all(s[: len(shared)] == shared for s in sequences)
    longer = {s[: len(shared) + 1] for s in sequences}
    assert len(longer) > 1 or shared in sequences
