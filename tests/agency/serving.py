"""The mock server in a thread of its own, for tests of what runs its own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.mock_server import MockServer, Settings

CHAT, DECISIONS = "/v1/chat/completions", "/v1/decisions"


@contextmanager
def serving(settings: Settings) -> Iterator[MockServer]:
    """A server with a `url`; its counters can be read from here."""
    loop = asyncio.new_event_loop()
    server = MockServer(settings)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def requests(server: MockServer, path: str = CHAT) -> int:
    return server.paths[path].requests if path in server.paths else 0
