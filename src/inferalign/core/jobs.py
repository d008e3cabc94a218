"""A bounded asynchronous map over items with stable ids: what everything long runs on.

`run_jobs` pulls items one by one (the iterator may be endless), keeps `concurrency` of them in flight, repeats only
what fails with a `TransientError`, and hands each result over the moment it is there, so that whatever stops the run
loses only what was in flight. It resumes by being given only the items that are not done (`RunFolder.wants`).
It knows no file, no engine and no screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from inferalign.core.errors import InferalignError, InputError, RunError, TransientError
from inferalign.core.seeds import derive

MAX_DELAY = 60.0
"""Seconds a back-off of our own never exceeds; a server may ask for more."""
_SHOWN = 5


class HasId(Protocol):
    """An item of work: its id is unique in the run and the same each time the command is repeated."""

    @property
    def id(self) -> str: ...


class Progress(Protocol):
    """Where a run reports to. The command line shows it on stderr."""

    def advance(self, n: int = 1) -> None:
        """`n` more items have come to an end, finished or failed."""
        ...

    def note(self, text: str) -> None:
        """Replace the free text: usage so far, what is being waited for."""
        ...


class Quiet:
    """Progress that nobody watches."""

    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


QUIET = Quiet()
Item = TypeVar("Item", bound=HasId)
Outcome = TypeVar("Outcome")


@dataclass
class _Tally:
    """What has come to an end so far. Only the first failures are kept, so that memory stays bounded."""

    finished: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    """Failures since the last success; an `InputError` is about its own item and says nothing of the next."""
    stopped: bool = False
    fatal: RunError | None = None
    """What no further item can escape, such as a budget that is used up."""
    shown: list[str] = field(default_factory=list)
    first_error: InferalignError | None = None

    def success(self) -> None:
        self.finished += 1
        self.failed_in_a_row = 0

    def failure(self, item_id: str, error: InferalignError, max_failures: int) -> None:
        if isinstance(error, RunError):
            self.fatal = self.fatal or error
            self.stopped = True
            return
        self.failed += 1
        self.failed_in_a_row += not isinstance(error, InputError)
        self.stopped = self.stopped or self.failed_in_a_row >= max_failures
        self.first_error = self.first_error or error
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{item_id}: {error}")


async def run_jobs(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Outcome]],
    *,
    on_result: Callable[[Item, Outcome], None],
    concurrency: int,
    retries: int = 5,
    base_delay: float = 0.5,
    max_failures: int = 20,
    progress: Progress = QUIET,
    what: str = "items",
    kept: bool = True,
) -> int:
    """Do `work` on every item and hand each result to `on_result`, in the order in which they finish.

    Args:
        items: asked again after its end while anything is in flight, since `on_result` may add to it.
        on_result: called from the event loop's thread; what it raises stops the run at once.
        concurrency: items in flight at most, at least 1.
        retries: repeats of an item after a `TransientError`, waiting about `base_delay * 2**repeat` seconds, or
            as long as the server asked for where that is longer.
        max_failures: after so many failed items in a row nothing new is started.
        what: the items' name in the message of the error.
        kept: whether `on_result` puts results where a repeated run finds them, which the message says.

    Returns the number of items finished. Raises `RunError` at the end when items failed, naming the first of them;
    the others are finished and handed over. A `RunError` of `work` is about the run, such as a budget that is used up:
    nothing new is started, what is in flight is finished, and it is raised. Anything that is not an `InferalignError`
    is a defect and is raised at once. Cancellation cancels what is in flight; what was handed over stays.
    """
    check_concurrency(concurrency)
    tally = _Tally()
    pending = iter(items)

    in_flight = 0
    ended = asyncio.Event()

    async def worker() -> None:
        nonlocal in_flight, ended
        # One event loop, no await between `next` and its use: the workers can share the iterator.
        while not tally.stopped:
            item = next(pending, None)
            if item is None:
                if not in_flight:
                    return
                await ended.wait()  # a result may bring further items
                continue
            in_flight += 1
            try:
                outcome = await _with_retries(item, work, retries, base_delay, progress)
            except InferalignError as error:
                tally.failure(item.id, error, max_failures)
                progress.note(f"stopping: {error}" if tally.fatal else f"{tally.failed} failed")
            else:
                on_result(item, outcome)
                tally.success()
            finally:
                in_flight -= 1
                ended.set()
                ended = asyncio.Event()
            progress.advance(1)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        # The first error is already on its way up; this only waits until the others have let go.
        await asyncio.gather(*workers, return_exceptions=True)
    if tally.fatal:
        raise tally.fatal
    if tally.failed:
        raise RunError(_summary(tally, max_failures, what, kept)) from tally.first_error
    return tally.finished


def check_concurrency(concurrency: int) -> None:
    """Raises `InputError` for less than 1: for callers that have slow work to do before `run_jobs`."""
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}: expected at least 1, such as --concurrency 4.")


async def _with_retries(
    item: Item,
    work: Callable[[Item], Awaitable[Outcome]],
    retries: int,
    base_delay: float,
    progress: Progress,
) -> Outcome:
    for repeat in range(retries):
        try:
            return await work(item)
        except TransientError as error:
            delay = max(backoff(item.id, repeat, base_delay), error.retry_after or 0.0)
            progress.note(f"{item.id}: again in {delay:.1f} s ({error})")
            await asyncio.sleep(delay)
    return await work(item)


def backoff(item_id: str, repeat: int, base_delay: float) -> float:
    """Seconds to wait before repeat 0, 1, ...: doubling, capped, and spread over [1/2, 1) of that by the item's id.

    The spread keeps items that failed together from coming back together; it is derived, so a test can name it.
    """
    spread = derive(0, "backoff", item_id, repeat) / 2**64
    return min(base_delay * 2.0**repeat, MAX_DELAY) * (1 + spread) / 2


def _summary(tally: _Tally, max_failures: int, what: str, kept: bool) -> str:
    more = f" ... and {tally.failed - _SHOWN} more" if tally.failed > _SHOWN else ""
    stopped = f" Stopped after {max_failures} failures in a row." if tally.stopped else ""
    return (
        f"{tally.failed} of {tally.finished + tally.failed} {what} failed: {'; '.join(tally.shown)}{more}.{stopped} "
        f"The {tally.finished} others finished"
        + ("; repeat to try the failed ones again." if kept else " and are lost: give a run folder to keep what does.")
    )
