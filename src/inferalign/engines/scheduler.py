"""Many requests, one pass at a time: what is ready goes into the next forward, whoever asked for it.

Searches are coroutines. Each asks, and sleeps until its answer is there; when all of them sleep, the scheduler packs
what they wait for (prefixes and single tokens alike: nothing is padded), runs it, and wakes those whose answers are
complete. A request that ends makes room for the next at once, so nobody waits for the slowest. What two requests need
is computed once: one that would feed the beginning that another is feeding now waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from inferalign.core.errors import EngineError
from inferalign.core.types import TokenIds
from inferalign.engines.packed import Fed, Feed
from inferalign.engines.prefix import common_length

PASS_TOKENS = 2048
"""Tokens of one pass at most: beyond a few hundred, more of them only cost memory."""
TURNS = 4
"""Turns of the loop that those who were woken get to ask again before the next pass: each gather takes one."""
WORTH_WAITING = 8
"""A shared beginning of fewer tokens is fed twice rather than waited for."""


class Runs(Protocol):
    """The model: `PackedModel.run`."""

    def run(self, feeds: Sequence[Feed]) -> Sequence[Fed | EngineError]: ...


class Memory(Protocol):
    """What decides whether another request may start: the lanes and the store."""

    def has_room(self, prefix: TokenIds) -> bool: ...

    def known(self, token_ids: TokenIds) -> int: ...


@dataclass(eq=False)
class _Job:
    prefix: TokenIds
    steps: Generator[Feed, Fed, Any]
    answer: asyncio.Future[Any]
    feed: Feed | None = None
    """What it waits for; None before its first step."""
    filling: bool = False
    """Whether its prefix was not known when it started, and is being fed."""


class Scheduler:
    """Runs the requests of one event loop at a time."""

    def __init__(self, model: Runs, memory: Memory) -> None:
        self._model, self._memory = model, memory
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._pump: asyncio.Task[None] | None = None

    async def ask(self, prefix: TokenIds, steps: Generator[Feed, Fed, Any]) -> Any:
        """Run a request to its answer. `prefix` is what it feeds first."""
        loop = asyncio.get_running_loop()
        if self._pump is None or self._pump.done() or self._pump.get_loop() is not loop:
            self._start(loop)
        job = _Job(prefix, steps, loop.create_future())
        self._waiting.append(job)
        try:
            return await job.answer
        finally:
            if not job.answer.done() or job.answer.cancelled():
                self._withdraw(job)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pump is not None and not self._pump.done():
            if self._pump.get_loop().is_running():
                raise EngineError(
                    "this model is in use by another event loop: load it once for each thread that uses it, or send "
                    "all requests from one loop"
                )
            self._drop_all()  # that loop was left without a word
        self._pump = loop.create_task(self._run())
        # A Ctrl-C goes up through the loop; without a look at it, asyncio would report it a second time.
        self._pump.add_done_callback(lambda pump: pump.cancelled() or pump.exception())

    def _drop_all(self) -> None:
        for job in [*self._waiting, *self._running]:
            job.steps.close()
            if not job.answer.get_loop().is_closed():
                job.answer.cancel()
        self._waiting, self._running = [], []

    def _withdraw(self, job: _Job) -> None:
        """Whoever asked has gone: let go of what the request holds."""
        for jobs in (self._waiting, self._running):
            if job in jobs:
                jobs.remove(job)
        job.steps.close()

    async def _run(self) -> None:
        try:
            while True:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                if self._pump is not asyncio.current_task() or not (self._waiting or self._running):
                    return
                with torch.inference_mode():
                    if self._admit():
                        continue  # whoever had an answer at once may ask for more before the next pass
                    self._pass()
        finally:  # also when it is cancelled or by Ctrl-C: nobody may be left waiting for a dead pump
            if self._pump is asyncio.current_task():
                self._drop_all()

    def _admit(self) -> bool:
        """Start what waits, in order, unless memory is full or a running request is feeding what it needs, too.

        Returns whether some had their answer without a pass.
        """
        later, started = [], len(self._waiting) + len(self._running)
        for place, job in enumerate(self._waiting):
            if self._running and not self._memory.has_room(job.prefix):
                later += self._waiting[place:]
                break
            known = self._memory.known(job.prefix)
            if any(
                other.filling and common_length(other.prefix, job.prefix) - known >= WORTH_WAITING
                for other in self._running
            ):
                later.append(job)
                continue
            job.filling = known < len(job.prefix)
            self._running.append(job)
            self._advance(job, None)
        self._waiting = later
        return len(self._waiting) + len(self._running) < started

    def _pass(self) -> None:
        """One forward over what the running requests wait for, oldest first."""
        chosen: list[_Job] = []
        tokens = 0
        for job in self._running:
            assert job.feed is not None
            if job.answer.done():
                continue  # cancelled a moment ago, and about to be withdrawn
            if chosen and tokens + len(job.feed.token_ids) > PASS_TOKENS:
                continue
            chosen.append(job)
            tokens += len(job.feed.token_ids)
        if not chosen:
            return
        try:
            results = self._model.run([job.feed for job in chosen if job.feed is not None])
        except Exception as error:  # noqa: BLE001  told to all who were in the pass
            for job in chosen:
                job.steps.close()
                self._end(job, error=error)
            return
        for job, fed in zip(chosen, results, strict=True):
            self._advance(job, fed)

    def _advance(self, job: _Job, fed: Fed | EngineError | None) -> None:
        """Hand a request what it waited for, up to its next wish or its end."""
        try:
            if isinstance(fed, EngineError):
                job.feed = job.steps.throw(fed)
            else:
                job.feed = next(job.steps) if fed is None else job.steps.send(fed)
            if job.filling and fed is not None:
                job.filling = self._memory.known(job.prefix) < len(job.prefix)
        except StopIteration as end:
            self._end(job, end.value)
        except Exception as error:  # noqa: BLE001  this request's own trouble (a NaN drawn from): others go on
            self._end(job, error=error)

    def _end(self, job: _Job, result: object = None, error: Exception | None = None) -> None:
        self._running.remove(job)
        if job.answer.done():
            return  # whoever asked has gone
        if error is None:
            job.answer.set_result(result)
        else:
            job.answer.set_exception(error)
