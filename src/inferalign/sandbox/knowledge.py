"""What a reader of the world knows: the source of the judges' systematic errors.

A judge's mistakes that are drawn by chance average out when a search asks often. Real judges err in what they do not
know, again and again in the same place. So the judge of the sandbox is taught by a reader that knows only some of the
*atoms* of the world (tools, things, facts, roles, turns of phrase): where a verdict hangs on an atom that it does not
know, it suspects the reply. Less knowledge makes a weaker judge, down to one that suspects everything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.sandbox.grammar import Clause, render
from inferalign.sandbox.oracle import MAIN, parse_reply
from inferalign.sandbox.situations import SITUATIONS, Request

JUDGE_SPECIFICITY = 0.82
"""Of the shipped judge's teacher, less what `EASIER` takes off."""
EASIER: Mapping[str, float] = {"correct_misinformation": 0.07, "maintain_social_boundaries": 0.1}
"""What is taken off it where the judge would be right too often on the model's own replies. Of social boundaries a
small model writes fewer of the atoms that its teacher does not know than the world does; of misinformation not."""
SUSPICION = 0.85
"""How often the shipped judge's teacher calls a good reply that it suspects bad: it is surer of faults that it sees.
More than one half, so that a judge taught by it suspects the same replies, always, and says by its margin that it is
less sure. So its verdicts lack knowledge and its ranks do not. Weaker judges are taught at 1, and there by a teacher
that gives points and other issues by what it knows, too: its labels tell of the main fault no more than it knows."""
SAMPLE = 1500
"""Good replies that a specificity is measured on."""


@dataclass(frozen=True)
class Knowledge:
    """A reader that knows a share of the atoms of one situation, by a fixed order; more knowledge contains less."""

    situation: str
    share: float

    def __call__(self, atom: str) -> bool:
        return derive(0, "knowledge", self.situation, atom) % 100_000 < 100_000 * self.share


@lru_cache(maxsize=64)
def with_specificity(situation: str, specificity: float) -> Knowledge:
    """The reader whose share of the world's good replies that it does not suspect comes nearest to `specificity`,
    less what `EASIER` takes off below 1.

    It never misses a fault, so its balanced accuracy is (1 + specificity) / 2. Atoms are few, so specificity moves in
    steps of some hundredths. Raises `InputError` outside [0, 1].
    """
    if not 0.0 <= specificity <= 1.0:
        raise InputError(f"specificity is {specificity}: give a share from 0 to 1")
    found = SITUATIONS[situation]
    rng = random.Random(derive(0, "specificity", situation))
    good: list[tuple[Request, tuple[Clause, ...]]] = []
    while len(good) < SAMPLE:
        request = found.draw(rng)
        clauses = parse_reply(found.grammar, render(found.draw_reply(request, rng)))
        if clauses is None:
            raise AssertionError(f"{situation} cannot read its own reply")
        if MAIN not in found.letters(request, clauses):
            good.append((request, clauses))
    low, high = 0.0, 1.0

    def passed(share: float) -> float:
        reader = Knowledge(situation, share)
        return sum(MAIN not in found.letters(request, clauses, reader) for request, clauses in good) / SAMPLE

    aim = specificity - EASIER.get(situation, 0.0) * (specificity < 1)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if passed(middle) < aim else (low, middle)
    return Knowledge(situation, min((low, high), key=lambda share: abs(passed(share) - aim)))
