"""The pace of calls, on a clock that only moves when everybody sleeps: a minute of simulation takes milliseconds."""

from __future__ import annotations

import asyncio
import json
import random
import selectors
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.core.jobs import run_jobs
from inferalign.core.types import Message, Prompt
from inferalign.engines.chat_api import ChatReply, ChatRequest
from inferalign.engines.remote import RemoteChat
from inferalign.engines.remote_http import Endpoint, RemoteOptions, _Exchange
from inferalign.engines.remote_ledger import Call, Ledger
from inferalign.engines.remote_limits import JITTER, USED, WINDOW, Limiter
from tests.mock_server import most_in_window


class _Jump(selectors.SelectSelector):
    """Where a loop would wait, its clock jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += max(timeout or 0.0, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def simulate(main: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_coroutine(main))


async def _coroutine(main: Callable[[], Awaitable[None]]) -> None:
    await main()


def clock() -> float:
    return asyncio.get_running_loop().time()


class Arrivals:
    """A server's view: when calls arrive, `jitter` seconds at most after they left, and what they weigh."""

    def __init__(self, jitter: float, seed: int) -> None:
        self.jitter = jitter
        self.random = random.Random(seed)
        self.at: list[tuple[float, int]] = []
        self.returned: list[float] = []

    async def call(self, latency: float, tokens: int) -> None:
        on_the_way = self.jitter * self.random.choice([0.0, self.random.random(), 1.0])
        await asyncio.sleep(on_the_way)
        self.at.append((clock(), tokens))
        await asyncio.sleep(latency)
        self.returned.append(clock())

    def most_requests(self) -> int:
        return most_in_window([at for at, _ in sorted(self.at)], WINDOW)

    def most_tokens(self) -> int:
        """By brute force: the window that begins at each arrival."""
        return max(sum(n for at, n in self.at if start <= at < start + WINDOW) for start, _ in self.at)


async def keep_calling(limiter: Limiter, server: Arrivals, until: float, concurrency: int, latency: float) -> None:
    async def worker() -> None:
        while clock() < until:
            await limiter.turn(1)
            await server.call(latency, 1)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


@pytest.mark.parametrize("jitter", [0.0, 0.2, JITTER - 0.01])
@pytest.mark.parametrize("limit", [1, 7, 300])
def test_no_window_holds_more_than_the_limit_and_nine_tenths_are_used(limit: int, jitter: float) -> None:
    """10 s of latency under a limit: every sliding minute of the server's, from the first on, over five minutes."""

    async def main() -> None:
        server = Arrivals(jitter, seed=limit)
        limiter = Limiter(limit, clock=clock)
        await keep_calling(limiter, server, until=300.0, concurrency=limit // 4 + 2, latency=10.0)
        assert server.most_requests() <= limit
        if limit >= 7:
            in_time = [at for at in server.returned if at <= 310.0 + jitter]
            assert len(in_time) >= 0.9 * limit * 5

    simulate(main)


def test_three_minutes_of_answers_use_nine_tenths_of_the_limit() -> None:
    """Counted at its hardest: answers that are back within three minutes of the first call, ten seconds each."""

    async def main() -> None:
        server = Arrivals(0.1, seed=1)
        await keep_calling(Limiter(300, clock=clock), server, until=180.0, concurrency=64, latency=10.0)
        assert sum(at <= 180.0 for at in server.returned) >= 0.9 * 300 * 3
        assert server.most_requests() <= 300

    simulate(main)


@pytest.mark.parametrize("concurrency", [64, 20])
def test_jobs_over_the_client_keep_to_the_limit(concurrency: int) -> None:
    """The whole path: 600 jobs, one call in eight refused and repeated, 10 s of latency, 300 a minute."""

    class Slow(Endpoint):
        arrivals: ClassVar[list[float]] = []

        async def _exchange(self, method: str, path: str, data: bytes | None, call: Call) -> _Exchange:
            self.arrivals.append(clock())
            call.sent()
            await asyncio.sleep(10.0)
            status = 500 if len(self.arrivals) % 8 == 0 else 200
            body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
            return _Exchange(self.url + path, status, {}, json.dumps(body).encode(), 10.0)

    async def main() -> None:
        options = RemoteOptions(concurrency=concurrency)
        endpoint = Slow("http://127.0.0.1:1/v1", options, limiter=Limiter(300, clock=clock))
        client = RemoteChat(endpoint, "m", role="judge", ledger=Ledger())

        async def work(prompt: Prompt) -> ChatReply:
            return await client.chat(ChatRequest(messages=prompt.messages))

        jobs = [Prompt(id=str(i), messages=(Message(role="user", content=str(i)),)) for i in range(600)]
        assert await run_jobs(jobs, work, on_result=lambda *_: None, concurrency=100) == 600
        assert most_in_window(endpoint.arrivals, WINDOW) <= 300
        rate = len(endpoint.arrivals) / clock() * 60
        # 20 slots of 10 s are 120 a minute
        assert rate >= (0.9 * 300 if concurrency == 64 else 0.9 * 120)
        endpoint.arrivals.clear()

    simulate(main)


def test_the_promise_about_jitter_is_no_slacker_than_it_says() -> None:
    """Calls that leave at the pace and arrive late by more than JITTER at first do pass the limit."""

    async def main() -> None:
        limiter, arrivals = Limiter(300, clock=clock), []
        await asyncio.sleep(10.0)
        late = JITTER + 1.0
        for i in range(400):
            await limiter.turn(1)
            arrivals.append(clock() + (late if i < 50 else 0.0))
        # The 50th arrives `late` after it left; what leaves in the minute less `late` after it is as near.
        assert most_in_window(sorted(arrivals), WINDOW) > 300

    simulate(main)


def test_an_idle_minute_is_not_saved_up() -> None:
    async def main() -> None:
        limiter, left = Limiter(60, clock=clock), []
        await limiter.turn(1)
        await asyncio.sleep(100.0)
        for _ in range(5):
            await limiter.turn(1)
            left.append(clock())
        gaps = [b - a for a, b in pairwise(left)]
        assert gaps[0] == pytest.approx(WINDOW / (60 * USED) - 0.5, abs=1e-6)  # what a late timer may catch up
        assert gaps[1:] == pytest.approx([WINDOW / (60 * USED)] * 3)

    simulate(main)


def test_turns_are_given_in_order_and_a_cancelled_one_costs_nothing() -> None:
    async def main() -> None:
        limiter, order = Limiter(60, clock=clock), []

        async def one(i: int) -> None:
            await limiter.turn(1)
            order.append((i, clock()))

        tasks = [asyncio.create_task(one(i)) for i in range(4)]
        await asyncio.sleep(0.1)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spacing = WINDOW / (60 * USED)
        assert [i for i, _ in order] == [0, 2, 3]
        assert order[-1][1] == pytest.approx(2 * spacing - 0.5, abs=1e-6) or order[-1][1] <= 2 * spacing

    simulate(main)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 1000), min_size=5, max_size=40),
    share=st.floats(0.2, 1.0),
    jitter=st.floats(0.0, JITTER),
    seed=st.integers(0, 1000),
)
def test_tokens_of_any_minute_stay_under_their_limit(sizes: list[int], share: float, jitter: float, seed: int) -> None:
    """Each call costs `share` of its reservation; the server counts what it costs, when it arrives."""

    async def main() -> None:
        server, limiter = Arrivals(jitter, seed), Limiter(tokens_per_minute=2000, clock=clock)

        async def one(size: int) -> None:
            turn = await limiter.turn(size)
            used = max(1, int(size * share))
            await server.call(10.0, used)
            turn.settle(used)

        await asyncio.gather(*map(one, sizes))
        assert server.most_tokens() <= 2000

    simulate(main)


def test_tokens_use_most_of_their_limit_once_calls_settle() -> None:
    async def main() -> None:
        server, limiter = Arrivals(0.0, 0), Limiter(tokens_per_minute=100_000, clock=clock)

        async def worker() -> None:
            while clock() < 600.0:
                turn = await limiter.turn(1500)
                await server.call(5.0, 500)
                turn.settle(500)

        await asyncio.gather(*(worker() for _ in range(64)))
        used = sum(n for at, n in server.at if 60.0 <= at < 600.0)
        # In flight are 16 calls that hold 1500 and cost 500: a sixth of the limit is held in vain.
        assert 0.75 * 100_000 * 9 <= used <= 100_000 * 9

    simulate(main)


def test_a_call_that_costs_more_than_it_reserved_is_made_up_for() -> None:
    async def main() -> None:
        limiter = Limiter(tokens_per_minute=100, clock=clock)
        turn = await limiter.turn(10)
        turn.settle(90)
        await limiter.turn(30)
        assert clock() >= WINDOW  # 90 and 30 are too much for one minute

    simulate(main)


def test_without_limits_nothing_waits() -> None:
    async def main() -> None:
        limiter = Limiter(clock=clock)
        for _ in range(1000):
            (await limiter.turn(10**6)).settle(1)
        assert clock() == 0.0

    simulate(main)


def test_limits_out_of_range_and_calls_that_never_fit() -> None:
    with pytest.raises(InputError, match="0 requests a minute: expected at least 1"):
        Limiter(0)
    with pytest.raises(InputError, match="-5 tokens a minute"):
        Limiter(None, -5)
    with pytest.raises(InputError, match=r"needs up to 101 tokens and the limit is 100 a minute: raise the limit"):
        asyncio.run(_turn(Limiter(None, 100), 101))


async def _turn(limiter: Limiter, tokens: int) -> None:
    await limiter.turn(tokens)
