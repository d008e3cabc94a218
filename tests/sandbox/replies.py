"""Replies of the world for the tests: drawn, rendered and read back."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from inferalign.sandbox.grammar import Clause, render
from inferalign.sandbox.oracle import parse_reply
from inferalign.sandbox.situations import SITUATIONS, Request
from inferalign.sandbox.situations.situation import Plan, Situation


class Drawn(NamedTuple):
    situation: Situation
    request: Request
    plan: Plan
    said: list[str]
    """The clauses as the world wrote them."""
    clauses: tuple[Clause, ...]
    """The same, as the oracle reads them."""

    @property
    def text(self) -> str:
        return render(self.said)

    @property
    def letters(self) -> str:
        return self.situation.letters(self.request, self.clauses)


@lru_cache(maxsize=64)
def drawn(name: str, n: int, seed: int) -> list[Drawn]:
    """`n` replies of a situation, of both splits."""
    situation, rng = SITUATIONS[name], random.Random(f"{name} {seed}")
    made = []
    for _ in range(n):
        request = situation.draw(rng)
        plan = situation.draw_plan(request, rng)
        said = situation.draw_reply(request, rng, plan)
        clauses = parse_reply(situation.grammar, render(said))
        assert clauses is not None, said
        made.append(Drawn(situation, request, plan, said, clauses))
    return made
