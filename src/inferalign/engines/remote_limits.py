"""Keeps calls under a server's requests and tokens a minute, by pacing them rather than by bursts and pauses.

A server counts arrivals in windows of 60 seconds that begin when it likes. Calls leave here at least
60 / (USED x limit) seconds apart, late ones catching up by at most CATCH_UP seconds, so that at most

    floor((60 + CATCH_UP + jitter) / spacing) + 1  <=  limit    whenever    jitter < JITTER

of them arrive in any such window, the first included; `jitter` is how much the time from leaving to arriving varies.
The latency itself does not matter: a call takes its place when it leaves, not until it returns. Tokens are paced
by what calls have cost of late; because that is a guess, and a single call may be a large part of the limit, the
tokens of the last 60 / USED seconds are also added up, and a call waits until its own fit. There it counts by its
reservation until `settle` says what it cost, so a limit is used the less, the more was reserved in vain.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from inferalign.core.errors import InputError

WINDOW = 60.0
"""Seconds that a limit is about."""
USED = 0.97
"""Share of a limit that is used."""
CATCH_UP = 0.5
"""Seconds by which a call that left late lets the next ones leave early: timers and busy event loops are late."""
JITTER = WINDOW / USED - WINDOW - CATCH_UP
"""Seconds by which the way to the server may vary without a window ever holding more than its limit; about 1.36."""
_POLL = 0.5
_MEMORY = 20
"""Calls."""


@dataclass(slots=True)
class Turn:
    """Leave to send one call now."""

    at: float
    """On the limiter's clock, in seconds."""
    tokens: int
    _limiter: Limiter

    def settle(self, tokens: int) -> None:
        """What the call really cost, once the server has said so, in place of its reservation."""
        self._limiter.settle(self, tokens)


class Limiter:
    """Gives turns in the order in which they are asked for. One event loop; several clients may share one limiter."""

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """None does not limit. `clock` is in seconds. Raises `InputError` for a limit below 1."""
        for what, limit in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if limit is not None and limit < 1:
                raise InputError(f"{limit} {what} a minute: expected at least 1, or no limit")
        self._token_limit = tokens_per_minute
        self._request_spacing = WINDOW / (USED * requests_per_minute) if requests_per_minute else 0.0
        self._token_spacing = WINDOW / (USED * tokens_per_minute) if tokens_per_minute else 0.0
        self._clock = clock
        self._queue = asyncio.Lock()
        self._next = -math.inf
        self._share = 1.0
        """Running mean of what calls cost, as a share of what they reserved: it sets the pace, not the limit."""
        self._recent: deque[Turn] = deque()
        self._held = 0
        """Tokens of `_recent`."""

    async def turn(self, tokens: int) -> Turn:
        """Waits until a call that reserves `tokens` may leave. Raises `InputError` when it never may."""
        if not self._request_spacing and self._token_limit is None:
            return Turn(self._clock(), tokens, self)
        if self._token_limit is not None and tokens > self._token_limit:
            raise InputError(
                f"a call needs up to {tokens} tokens and the limit is {self._token_limit} a minute: raise the limit, "
                "or lower the call's max_tokens"
            )
        async with self._queue:
            # In short steps: a call that settles below its reservation lets the next one leave earlier.
            while (wait := self._wait(tokens)) > 0:
                await asyncio.sleep(min(wait, _POLL))
            return self._take(tokens)

    def settle(self, turn: Turn, tokens: int) -> None:
        """As `Turn.settle`."""
        self._share += (tokens / max(turn.tokens, 1) - self._share) / _MEMORY
        if self._recent and turn.at >= self._recent[0].at:
            self._held += tokens - turn.tokens
        turn.tokens = tokens

    def _wait(self, tokens: int) -> float:
        """Seconds until a call of these tokens may leave, as far as is known now; 0 or less: it may."""
        now = self._clock()
        wait = self._next - now
        if self._token_limit is not None:
            # The same sum as below: were it rounded otherwise here, a call could be neither over nor waited for.
            while self._recent and self._recent[0].at + WINDOW / USED <= now:
                self._held -= self._recent.popleft().tokens
            if self._recent and self._held + tokens > self._token_limit:
                wait = max(wait, self._recent[0].at + WINDOW / USED - now)
        return wait

    def _take(self, tokens: int) -> Turn:
        now = self._clock()
        turn = Turn(now, tokens, self)
        spacing = max(self._request_spacing, tokens * self._share * self._token_spacing)
        self._next = max(self._next, now - CATCH_UP) + spacing
        if self._token_limit is not None:
            self._recent.append(turn)
            self._held += tokens
        return turn
