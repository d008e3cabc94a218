"""Asynchronous work from a program that is not: to its end, also where an event loop runs already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `work` returns; inside a running event loop (a notebook) by a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    tasks: list[asyncio.Task[T]] = []

    async def cancellable() -> T:
        tasks.append(asyncio.ensure_future(work()))
        return await tasks[0]

    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(lambda: asyncio.run(cancellable()))
        try:
            return future.result()
        except KeyboardInterrupt:
            # The interrupt reaches the waiting thread alone: without this, leaving the block waits for the work.
            for task in tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)
            raise
