import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from inferalign.core.errors import ContextOverflow, EngineError, InputError, RunError, TransientError
from inferalign.core.jobs import MAX_DELAY, backoff, run_jobs
from inferalign.core.records import done_ids


@dataclass(frozen=True)
class Item:
    id: str


class Watcher:
    def __init__(self) -> None:
        self.done = 0
        self.notes: list[str] = []

    def advance(self, n: int = 1) -> None:
        self.done += n

    def note(self, text: str) -> None:
        self.notes.append(text)


def items(n: int) -> list[Item]:
    return [Item(str(i)) for i in range(n)]


def test_results_come_in_the_order_they_finish() -> None:
    turns = {"0": 6, "1": 0, "2": 3}
    results: list[tuple[str, str]] = []

    async def work(item: Item) -> str:
        for _ in range(turns[item.id]):
            await asyncio.sleep(0)
        return item.id * 2

    watcher = Watcher()
    count = asyncio.run(
        run_jobs(items(3), work, on_result=lambda i, r: results.append((i.id, r)), concurrency=3, progress=watcher)
    )
    assert results == [("1", "11"), ("2", "22"), ("0", "00")]
    assert count == watcher.done == 3


def test_no_more_than_concurrency_in_flight_and_items_are_pulled_when_needed() -> None:
    pulled = running = most = 0
    ahead: list[int] = []

    def endless() -> Iterator[Item]:
        nonlocal pulled
        for i in range(50):
            pulled += 1
            yield Item(str(i))

    async def work(_: Item) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    finished: list[str] = []

    def on_result(item: Item, _: None) -> None:
        finished.append(item.id)
        ahead.append(pulled - len(finished))

    assert asyncio.run(run_jobs(endless(), work, on_result=on_result, concurrency=4)) == 50
    assert most == 4
    assert max(ahead) <= 4
    assert sorted(map(int, finished)) == list(range(50))


def test_only_transient_errors_are_repeated() -> None:
    tries: dict[str, int] = {}

    async def work(item: Item) -> str:
        tries[item.id] = tries.get(item.id, 0) + 1
        if item.id == "0" and tries["0"] < 3:
            raise TransientError("busy")
        if item.id == "1":
            raise EngineError("broken")
        return item.id

    done: list[str] = []
    watcher = Watcher()
    with pytest.raises(RunError, match=r"1 of 3 items failed: 1: broken\. The 2 others finished") as caught:
        asyncio.run(
            run_jobs(
                items(3), work, on_result=lambda i, _: done.append(i.id), concurrency=1, base_delay=0, progress=watcher
            )
        )
    assert tries == {"0": 3, "1": 1, "2": 1}
    assert done == ["0", "2"]
    assert watcher.done == 3
    assert isinstance(caught.value.__cause__, EngineError)
    assert any("busy" in note for note in watcher.notes)


def test_retries_end() -> None:
    tries = itertools.count()

    async def work(_: Item) -> None:
        next(tries)
        raise TransientError("busy")

    with pytest.raises(RunError, match="0: busy"):
        asyncio.run(run_jobs(items(1), work, on_result=lambda *_: None, concurrency=1, retries=2, base_delay=0))
    assert next(tries) == 3


def test_a_servers_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Iterator[float | None] = iter([2.5, None, 0.01])
    slept: list[float] = []

    async def work(_: Item) -> str:
        if (seconds := next(asked, 0.0)) == 0.0:
            return "done"
        raise TransientError("busy", retry_after=seconds)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert asyncio.run(run_jobs(items(1), work, on_result=lambda *_: None, concurrency=1)) == 1
    assert slept == [2.5, backoff("0", 1, 0.5), backoff("0", 2, 0.5)]


def test_a_run_error_of_work_stops_the_run_and_what_is_in_flight_is_finished() -> None:
    started: list[str] = []
    done: list[str] = []

    async def work(item: Item) -> None:
        started.append(item.id)
        await asyncio.sleep(0.02 if item.id == "0" else 0)
        if item.id == "2":
            raise RunError("the budget is used up")

    with pytest.raises(RunError, match=r"^the budget is used up$"):
        asyncio.run(run_jobs(items(100), work, on_result=lambda i, _: done.append(i.id), concurrency=2))
    assert started == ["0", "1", "2"]
    assert done == ["1", "0"]


def test_failures_in_a_row_stop_the_run_but_not_what_is_in_flight() -> None:
    started: list[str] = []
    done: list[str] = []

    async def work(item: Item) -> None:
        started.append(item.id)
        if item.id == "0":
            await asyncio.sleep(0.02)
            return
        raise EngineError("no server")

    with pytest.raises(RunError, match=r"3 of 4 items failed.*Stopped after 3 failures in a row") as caught:
        asyncio.run(run_jobs(items(100), work, on_result=lambda i, _: done.append(i.id), concurrency=2, max_failures=3))
    assert started == ["0", "1", "2", "3"]
    assert done == ["0"]
    assert "repeat to try the failed ones again" in str(caught.value)


def test_a_success_ends_a_row_of_failures() -> None:
    async def work(item: Item) -> None:
        if int(item.id) % 3:
            raise EngineError("now and then")

    done: list[str] = []
    with pytest.raises(RunError, match="6 of 9 items failed"):
        asyncio.run(run_jobs(items(9), work, on_result=lambda i, _: done.append(i.id), concurrency=1, max_failures=3))
    assert done == ["0", "3", "6"]


def test_items_that_are_themselves_bad_never_stop_the_run() -> None:
    async def work(item: Item) -> None:
        if int(item.id) < 10:
            raise ContextOverflow("too long")

    done: list[str] = []
    with pytest.raises(RunError, match=r"10 of 12 items failed: 0: too long; .*4: too long \.\.\. and 5 more\."):
        asyncio.run(run_jobs(items(12), work, on_result=lambda i, _: done.append(i.id), concurrency=1, max_failures=3))
    assert done == ["10", "11"]


def test_a_defect_is_raised_at_once_and_nothing_is_left_running() -> None:
    cancelled: list[str] = []
    started: list[str] = []

    async def work(item: Item) -> None:
        started.append(item.id)
        if item.id == "1":
            raise KeyError("defect")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item.id)
            raise

    with pytest.raises(KeyError, match="defect"):
        asyncio.run(run_jobs(items(10), work, on_result=lambda *_: None, concurrency=3))
    assert started == ["0", "1", "2"]
    assert cancelled == ["0", "2"]


def test_an_error_of_on_result_stops_the_run() -> None:
    seen: list[str] = []

    def on_result(item: Item, _: None) -> None:
        seen.append(item.id)
        raise RunError("disk full")

    async def work(_: Item) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RunError, match="disk full"):
        asyncio.run(run_jobs(items(10), work, on_result=on_result, concurrency=1))
    assert seen == ["0"]


def test_cancellation_keeps_what_is_finished_and_starts_nothing_new() -> None:
    started: list[str] = []
    done: list[str] = []
    cancelled: list[str] = []

    async def work(item: Item) -> None:
        started.append(item.id)
        if int(item.id) < 3:
            return
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item.id)
            raise

    async def main() -> None:
        run = asyncio.create_task(run_jobs(items(100), work, on_result=lambda i, _: done.append(i.id), concurrency=2))
        while len(started) < 5:
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert done == ["0", "1", "2"]
    assert started == ["0", "1", "2", "3", "4"]
    assert cancelled == ["3", "4"]


def test_backoff_doubles_within_its_spread_and_is_derived() -> None:
    for repeat in range(12):
        full = min(0.5 * 2**repeat, MAX_DELAY)
        assert full / 2 <= backoff("p1", repeat, 0.5) < full
    assert backoff("p1", 0, 0.5) == backoff("p1", 0, 0.5)
    assert len({backoff(f"p{i}", 0, 0.5) for i in range(20)}) == 20


def test_concurrency_must_be_positive() -> None:
    async def work(_: Item) -> None: ...

    with pytest.raises(InputError, match=r"concurrency is 0.* --concurrency 4"):
        asyncio.run(run_jobs(items(1), work, on_result=lambda *_: None, concurrency=0))


ENDLESS_RUN = """
import asyncio, itertools, signal, sys, types
from inferalign.core.jobs import run_jobs
from inferalign.core.records import RunFolder

signal.signal(signal.SIGINT, signal.default_int_handler)

async def work(item):
    await asyncio.sleep(0.001)

def keep(item, _):
    run.append({"id": item.id})
    print(item.id, flush=True)

with RunFolder.open(sys.argv[1], {}, {}) as run:
    endless = (types.SimpleNamespace(id=str(i)) for i in itertools.count())
    asyncio.run(run_jobs(endless, work, on_result=keep, concurrency=3))
"""


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDLESS_RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = [process.stdout.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.stdout.read(), process.stderr.read()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "never" not in errors  # no task destroyed while pending, no exception never retrieved
    assert done_ids(tmp_path) == {*first, *rest.split()}


def test_what_a_result_adds_is_done_by_all_workers_and_not_by_the_one_that_is_left() -> None:
    """One item whose result brings twelve more: four at a time, although nothing was to be done while it was out."""
    todo = [Item("first")]
    running = most = 0

    class Growing:
        def __iter__(self) -> Iterator[Item]:
            return self

        def __next__(self) -> Item:
            if not todo:
                raise StopIteration
            return todo.pop()

    async def work(item: Item) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        return item.id

    def keep(item: Item, _: str) -> None:
        if item.id == "first":
            todo.extend(items(12))

    assert asyncio.run(run_jobs(Growing(), work, on_result=keep, concurrency=4)) == 13
    assert (most, todo) == (4, [])
