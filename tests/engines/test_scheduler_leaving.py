"""Who leaves the scheduler before an answer: a cancelled caller, Ctrl-C, a loop that ends or is left; and two loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from inferalign.core.errors import EngineError
from tests.engines.test_scheduler import SHARED, Bench, turns


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fails(error: BaseException) -> Callable[[], None]:
    def trouble() -> None:
        raise error

    return trouble


@pytest.mark.parametrize("begun", [False, True])
def test_a_caller_that_is_cancelled_takes_its_request_along(begun: bool, bench: Bench) -> None:
    async def run() -> int:
        other = asyncio.ensure_future(bench.ask(1, [1] * 8))
        gone = asyncio.ensure_future(bench.ask(2, [1] * 1000))
        await turns(8 if begun else 1)
        assert (2 in bench.memory.holding) is begun
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert 2 not in bench.memory.holding, "its lane is free at once"
        return await other

    assert asyncio.run(run()) == 1
    assert sum(2 in members for members in bench.model.members) < 8
    assert bench.closed == ([2, 1] if begun else [1])


@pytest.mark.parametrize("moment", range(1, 10))
def test_nothing_is_fed_for_who_has_gone(moment: int, bench: Bench) -> None:
    """Whatever turn of the loop it is: also when the pump comes before the caller that was cancelled."""

    async def run() -> int:
        other = asyncio.ensure_future(bench.ask(1, [1] * 8))
        gone = asyncio.ensure_future(bench.ask(2, [1] * 1000))
        await turns(moment)
        gone.cancel()
        passes = len(bench.model.passes)
        await other
        return passes

    passes = asyncio.run(run())
    assert all(2 not in members for members in bench.model.members[passes:])


def test_a_cancelled_filler_lets_in_who_waited_for_it(bench: Bench) -> None:
    async def run() -> int:
        first = asyncio.ensure_future(bench.ask(1, [1] * 1000, (*SHARED, 1)))
        bench.memory.known = lambda ids: 0  # type: ignore[method-assign]  # nothing is ever filled
        second = asyncio.ensure_future(bench.ask(2, [1], (*SHARED, 2)))
        await turns(8)
        assert not second.done()
        first.cancel()
        return await second

    assert asyncio.run(asyncio.wait_for(run(), timeout=5)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()], ids=["ctrl-c", "cancelled"])
def test_an_interrupted_pump_leaves_nobody_waiting(error: BaseException, bench: Bench) -> None:
    """Everyone is told, every lane is free, and the next run begins anew."""
    bench.memory.limit = 2
    bench.model.trouble = fails(error)
    seen: list[type[BaseException]] = []

    async def caller(number: int) -> None:
        try:
            await bench.ask(number, [1, 1])
        except BaseException as reached:
            seen.append(type(reached))
            raise

    async def run() -> None:
        await asyncio.wait_for(asyncio.gather(*(caller(i) for i in range(4))), timeout=5)

    with pytest.raises(type(error)):
        asyncio.run(run())
    assert seen == [asyncio.CancelledError] * 4
    assert bench.memory.holding == set()
    bench.model.trouble = lambda: None
    assert bench.together([1, 1], [2]) == [0, 1]


def test_a_run_that_ends_early_leaves_a_scheduler_for_the_next(bench: Bench) -> None:
    """`asyncio.run` cancels what is left; requests of a dead loop are not carried into the next."""

    async def run() -> None:
        bench.abandoned = asyncio.ensure_future(bench.ask(7, [1] * 1000))  # type: ignore[attr-defined]
        await turns(6)
        assert bench.memory.holding == {7}

    asyncio.run(run())
    assert bench.memory.holding == set()
    bench.model.passes.clear()
    assert bench.together([1, 1]) == [0]
    assert bench.model.members == [[0], [0]]


def test_a_loop_that_was_left_without_a_word_does_not_block_the_next(bench: Bench) -> None:
    """`run_until_complete` cancels nothing. What the old loop's pump does when it is woken after all hurts nobody."""
    old, new = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        left = old.create_task(bench.ask(7, [1] * 1000))
        old.run_until_complete(turns(6))
        assert bench.memory.holding == {7}
        bench.model.passes.clear()
        asked = new.create_task(bench.ask(1, [1] * 3))
        new.run_until_complete(turns(5))
        assert bench.memory.holding == {1}
        with pytest.raises(asyncio.CancelledError):
            old.run_until_complete(left)
        old.run_until_complete(turns(3))
        assert new.run_until_complete(asked) == 1
        assert bench.model.members == [[1]] * 3
        new.run_until_complete(turns(3))
    finally:
        old.close()
        new.close()
    assert bench.together([1]) == [0]


def test_two_loops_at_a_time_are_refused(bench: Bench) -> None:
    running, tried = threading.Event(), threading.Event()
    answers: list[int] = []

    def wait() -> None:
        running.set()
        assert tried.wait(5)

    bench.model.trouble = wait
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(bench.ask(1, [1, 1]))))
    thread.start()
    try:
        assert running.wait(5)
        with pytest.raises(EngineError, match="another event loop"):
            asyncio.run(bench.ask(2, [1]))
    finally:
        tried.set()
        thread.join(5)
    assert answers == [1], "the first is not disturbed"
    assert asyncio.run(bench.ask(3, [1])) == 3, "when it has ended, another loop may ask"
