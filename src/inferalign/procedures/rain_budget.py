"""The budget of a whole answer: inner iterations, tokens or seconds, whichever runs out first.

Tokens are counted so that an answer can be made again. What an engine was *fed* depends on what it happened to hold
already, so the count is of what was *asked*, each thing once: a place in a prompt, a template or an answer counts when
this search first asks about it, a drawn token when it is drawn, and a judge's question in full each time. That is
what a cold engine that forgets nothing is fed, but for last tokens that are drawn and never continued.
"""

from __future__ import annotations

from time import perf_counter
from typing import Literal

from inferalign.core.types import RoleUsage, TokenIds, Usage
from inferalign.procedures.rain_settings import RainSettings

Limit = Literal["iterations", "tokens", "seconds"]


class Budget:
    """What one search has spent, and the limit that ended it. The clock starts here."""

    def __init__(self, settings: RainSettings, usage: Usage) -> None:
        self.ran_out: Limit | None = None
        self._settings = settings
        self._usage = usage
        self._started = perf_counter()
        self._places = 0
        self._questions = 0
        # What was asked about or drawn, as a tree: of what it follows (the prompt, a template) the root, and of a
        # beginning and its next token the beginning with that. Tuples of all beginnings would grow with the square.
        self._roots: dict[TokenIds, int] = {}
        self._next: dict[tuple[int, int], int] = {}

    @property
    def seconds(self) -> float:
        return perf_counter() - self._started

    @property
    def tokens(self) -> int:
        """Tokens asked for, each once (see above): the same for the same search, whatever the engine held before."""
        return self._places + self._questions + self._usage.generator.new_tokens

    def allows(self, iterations: int) -> bool:
        """Whether there may be another inner iteration after so many; if not, the search is over and says why."""
        limits: dict[Limit, tuple[float, float | None]] = {
            "iterations": (iterations, self._settings.budget_iterations),
            "tokens": (self.tokens, self._settings.budget_tokens),
            "seconds": (self.seconds, self._settings.budget_seconds),
        }
        over = (name for name, (spent, limit) in limits.items() if limit is not None and spent >= limit)
        self.ran_out = next(over, None)
        return self.ran_out is None

    def ask(self, base: TokenIds, reply: TokenIds) -> None:
        """A request about `base + reply` is made: its places that are new count."""
        self._places += self._learn(base, reply)

    def drawn(self, base: TokenIds, reply: TokenIds) -> None:
        """`base + reply` was drawn to its end. The engine's `new_tokens` has counted that."""
        self._learn(base, reply)

    def judged(self, spent: RoleUsage, before: int, context: tuple[TokenIds, TokenIds] | None) -> None:
        """A verdict cost `spent`, which stood at `before`. `context` is what it was asked in, if the guide says.

        An engine accounts for every token of a request as fed or as reused: what is not context is the question.
        """
        asked = asked_tokens(spent) - before
        if context is None:
            self._questions += asked
            return
        base, reply = context
        self.ask(base, reply)
        self._questions += max(0, asked - len(base) - len(reply))

    def _learn(self, base: TokenIds, reply: TokenIds) -> int:
        """Note every beginning of `base + reply`; returns how many places were not known."""
        before = len(self._next)
        new = 0 if base in self._roots else len(base)
        node = self._roots.setdefault(base, -len(self._roots))
        for token in reply:
            node = self._next.setdefault((node, token), len(self._next) + 1)
        return new + len(self._next) - before


def asked_tokens(usage: RoleUsage) -> int:
    """Tokens of all requests so far, held or not."""
    return usage.tokens_fed + usage.tokens_reused
