"""The scheduler on a scripted model: what shares a pass, who waits, and that nobody waits for ever.

A request here is a list of sizes: it feeds that many tokens a pass, each of which is its own number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from inferalign.core.errors import EngineError
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.lanes import Lane
from inferalign.engines.packed import Fed, Feed
from inferalign.engines.scheduler import PASS_TOKENS, WORTH_WAITING, Scheduler

LANE = Lane(torch.empty(1, 2, 1, 1, 1), None)


@dataclass
class Script:
    """The model: notes who was in each pass with how many tokens, and raises when told to."""

    passes: list[dict[int, int]] = field(default_factory=list)
    trouble: Callable[[], None] = lambda: None

    def run(self, feeds: Sequence[Feed]) -> Sequence[Fed]:
        self.trouble()
        self.passes.append({feed.token_ids[0]: len(feed.token_ids) for feed in feeds})
        return [Fed(torch.tensor(feed.token_ids), torch.empty(0), []) for feed in feeds]

    @property
    def members(self) -> list[list[int]]:
        return [list(members) for members in self.passes]


@dataclass
class Memory:
    """What is known of prefixes is what was put into `prefixes`; full when `limit` requests hold lanes."""

    limit: int = 1000
    holding: set[int] = field(default_factory=set)
    most: int = 0
    prefixes: list[TokenIds] = field(default_factory=list)

    def has_room(self, prefix: TokenIds) -> bool:
        return len(self.holding) < self.limit

    def known(self, token_ids: TokenIds) -> int:
        return max((n for p in self.prefixes for n in range(len(token_ids) + 1) if p[:n] == token_ids[:n]), default=0)


@dataclass
class Bench:
    model: Script = field(default_factory=Script)
    memory: Memory = field(default_factory=Memory)
    closed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.model, self.memory)

    def steps(
        self, number: int, sizes: Sequence[int], prefix: TokenIds = (), error: Exception | None = None
    ) -> Generator[Feed, Fed, int]:
        """Holds a lane while it runs; what it fed first is known afterwards. Its answer is its number."""
        self.memory.holding.add(number)
        self.memory.most = max(self.memory.most, len(self.memory.holding))
        try:
            for size in sizes:
                fed = yield Feed(lane=LANE, usage=RoleUsage(), token_ids=[number] * size)
                assert fed.hidden.tolist() == [number] * size, "somebody else's result"
                self.memory.prefixes.append(prefix)
            if error:
                raise error
            return number
        finally:
            self.memory.holding.discard(number)
            self.closed.append(number)

    def ask(
        self, number: int, sizes: Sequence[int], prefix: TokenIds | None = None, error: Exception | None = None
    ) -> Coroutine[Any, Any, int]:
        prefix = (number,) if prefix is None else prefix
        return self.scheduler.ask(prefix, self.steps(number, sizes, prefix, error))

    def together(self, *requests: Sequence[int]) -> list[int]:
        async def run() -> list[int]:
            return await asyncio.gather(*(self.ask(i, sizes) for i, sizes in enumerate(requests)))

        return asyncio.run(run())


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_is_ready_shares_a_pass_and_who_ends_leaves(bench: Bench) -> None:
    assert bench.together([3], [1, 1, 1], [2, 5]) == [0, 1, 2]
    assert bench.model.passes == [{0: 3, 1: 1, 2: 2}, {1: 1, 2: 5}, {1: 1}]


def test_a_request_that_needs_no_pass_is_answered_without_one(bench: Bench) -> None:
    assert bench.together([], []) == [0, 1]
    assert bench.model.passes == []


def test_a_pass_is_bounded_and_the_oldest_goes_first(bench: Bench) -> None:
    """The second does not fit beside the first and is next; smaller ones fill the room that is left."""
    large = PASS_TOKENS - 10
    assert bench.together([large, large], [large], [10, 10], [1]) == [0, 1, 2, 3]
    assert bench.model.passes == [{0: large, 2: 10}, {0: large, 2: 10}, {1: large, 3: 1}]


def test_one_feed_over_the_bound_goes_alone(bench: Bench) -> None:
    bench.together([PASS_TOKENS + 500], [1])
    assert bench.model.passes == [{0: PASS_TOKENS + 500}, {1: 1}]


def test_a_large_feed_is_not_starved_by_small_ones_that_keep_coming(bench: Bench) -> None:
    """Newcomers fill every pass to the bound; the large one still goes when the one before it has ended."""
    half = PASS_TOKENS // 2

    async def stream(first: int) -> None:
        for i in range(20):
            await bench.ask(first + i, [half])

    async def run() -> None:
        await asyncio.gather(stream(100), stream(200), bench.ask(1, [half + 1]), stream(300))

    asyncio.run(run())
    assert [i for i, members in enumerate(bench.model.members) if 1 in members] == [1]
    assert all(sum(members.values()) <= PASS_TOKENS for members in bench.model.passes)


def test_who_was_answered_is_in_the_next_pass_with_the_next_question(bench: Bench) -> None:
    """A search asks again as soon as it is answered: no pass goes by without it, however deep its own waiting is."""

    async def search(number: int, questions: int) -> None:
        async def inner(i: int) -> int:
            return await bench.ask(number + i, [1])

        for i in range(questions):
            await inner(i)

    async def run() -> None:
        await asyncio.gather(search(10, 4), search(20, 3), bench.ask(1, [1] * 4))

    asyncio.run(run())
    assert [sorted(members) for members in bench.model.members] == [[1, 10, 20], [1, 11, 21], [1, 12, 22], [1, 13]]


SHARED: TokenIds = tuple(range(1000, 1000 + WORTH_WAITING))


def test_a_shared_beginning_is_waited_for(bench: Bench) -> None:
    """The second comes in when what it shares is known, though the first goes on."""

    async def run() -> None:
        await asyncio.gather(bench.ask(1, [20, 1, 1], (*SHARED, 1)), bench.ask(2, [2, 1], (*SHARED, 2)))

    asyncio.run(run())
    assert bench.model.members == [[1], [1, 2], [1, 2]]


@pytest.mark.parametrize("known", [0, 1])
def test_what_is_hardly_worth_it_is_not_waited_for(known: int, bench: Bench) -> None:
    """One token fewer than is worth waiting for: by the length of what is shared, or since one is known already."""
    shared = SHARED[1 - known :]
    bench.memory.prefixes.append(shared[:known])

    async def run() -> None:
        await asyncio.gather(bench.ask(1, [20], (*shared, 1)), bench.ask(2, [2], (*shared, 2)))

    asyncio.run(run())
    assert bench.model.members == [[1, 2]]


def test_one_that_waits_for_a_beginning_does_not_hold_up_the_next(bench: Bench) -> None:
    async def run() -> None:
        await asyncio.gather(
            bench.ask(1, [20, 1], (*SHARED, 1)), bench.ask(2, [2], (*SHARED, 2)), bench.ask(3, [3], (9,))
        )

    asyncio.run(run())
    assert bench.model.members == [[1, 3], [1, 2]]


def test_a_filler_that_fails_is_replaced_by_who_waited(bench: Bench) -> None:
    async def run() -> list[int | BaseException]:
        return await asyncio.gather(
            bench.ask(1, [], (*SHARED, 1), ValueError("mine")),
            bench.ask(2, [20], (*SHARED, 2)),
            bench.ask(3, [2], (*SHARED, 3)),
            return_exceptions=True,
        )

    first, *others = asyncio.run(run())
    assert isinstance(first, ValueError)
    assert others == [2, 3]
    assert bench.model.members == [[2], [3]]


@pytest.mark.parametrize(("limit", "most"), [(0, 1), (1, 1), (2, 2)])
def test_full_memory_admits_as_room_is_made(limit: int, most: int) -> None:
    """With none at all, requests still run, one at a time and in order."""
    bench = Bench(memory=Memory(limit=limit))
    assert bench.together([1, 1], [1], [1], [1]) == [0, 1, 2, 3]
    assert bench.memory.most == most
    assert bench.model.members == ([[0], [0], [1], [2], [3]] if most == 1 else [[0, 1], [0, 2], [3]])


def test_one_requests_error_leaves_the_others(bench: Bench) -> None:
    async def run() -> list[int | BaseException]:
        return await asyncio.gather(
            bench.ask(1, [1, 1, 1]),
            bench.ask(2, [1], error=EngineError("not finite")),
            bench.ask(3, [], error=EngineError("at once")),
            bench.ask(4, [1, 1]),
            return_exceptions=True,
        )

    answers = asyncio.run(run())
    assert [str(answer) for answer in answers] == ["1", "not finite", "at once", "4"]
    assert bench.model.members == [[1, 2, 4], [1, 4], [1]]
    assert bench.memory.holding == set()


def test_a_model_error_reaches_all_that_were_in_the_pass(bench: Bench) -> None:
    """Memory for two: these fail, their lanes are free at once, and those that come after are served."""
    bench.memory.limit = 2
    troubles = iter([RuntimeError("out of memory")])

    def trouble() -> None:
        for error in troubles:
            raise error

    bench.model.trouble = trouble

    async def run() -> list[int | BaseException]:
        return await asyncio.gather(*(bench.ask(i, [1]) for i in range(4)), return_exceptions=True)

    answers = asyncio.run(asyncio.wait_for(run(), timeout=5))
    assert [str(answer) for answer in answers] == ["out of memory", "out of memory", "2", "3"]
    assert bench.model.members == [[2, 3]]
    assert bench.closed == [0, 1, 2, 3]
    assert bench.together([1], [1]) == [0, 1], "it works again"


def test_a_draw_that_fails_is_told_where_the_request_waits(bench: Bench) -> None:
    """The model gives an error for one feed's result: it is raised inside that request alone."""

    def run(feeds: Sequence[Feed]) -> list[Fed | EngineError]:
        results = Script.run(bench.model, feeds)
        return [
            EngineError("not finite") if feed.token_ids == [2] else fed
            for feed, fed in zip(feeds, results, strict=True)
        ]

    bench.model.run = run  # type: ignore[assignment, method-assign]

    async def both() -> list[int | BaseException]:
        return await asyncio.gather(bench.ask(1, [1, 1]), bench.ask(2, [1, 1]), return_exceptions=True)

    answers = asyncio.run(both())
    assert [str(answer) for answer in answers] == ["1", "not finite"]
    assert bench.model.members == [[1, 2], [1]]
    assert bench.closed == [2, 1]


def test_who_needs_no_pass_may_ask_for_more_before_the_next(bench: Bench) -> None:
    """A search whose prefixes are all known for a while does not lose a pass with each."""

    async def search() -> None:
        for i in range(5):
            await bench.ask(10 + i, [])
        await bench.ask(20, [1])

    async def run() -> None:
        await asyncio.gather(bench.ask(1, [1, 1]), search())

    asyncio.run(run())
    assert bench.model.members == [[1, 20], [1]]
