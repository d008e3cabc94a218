"""Several judges as one: mean of their scores, majority per letter; each judge's own verdict stays beside it.

    quorum    more than half of the judges reached a verdict; without it the panel's is unscored
    score     the mean of the scores that there are
    letters   those that more than half of these verdicts name: a tie is no majority, and the letter is left out

The mean score is not the score of the majority's letters. Who did not reach a verdict is counted, never guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferalign.agency.judge import Judge, judged
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.errors import InputError, ScoringError
from inferalign.core.types import RoleUsage
from inferalign.scorers.verdicts import Rubric


@dataclass(frozen=True, kw_only=True)
class PanelVerdict:
    """What a panel makes of one reply. Unscored: `score` and `letters` None."""

    reply: str
    verdicts: tuple[Verdict, ...]
    """One a judge, in the panel's order."""
    score: float | None
    letters: tuple[str, ...] | None
    """None as well where no score has letters, as those of a foreign log."""
    shares: Mapping[str, float]
    """Letter -> share of the judges with letters who name it; empty where `letters` is None."""

    @property
    def scored(self) -> int:
        """How many judges reached a verdict."""
        return sum(1 for verdict in self.verdicts if verdict.score is not None)


class Panel:
    """Two judges or more, each under its own name."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        """Raises `InputError` for fewer than two judges, and for a name that stands twice."""
        names = [judge.name for judge in judges]
        if len(names) < 2:
            raise InputError(f"a panel of {len(names)}: name two judges or more")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"judge {twice[0]!r} is on the panel twice: its verdicts would be counted as two opinions")
        self.judges = tuple(judges)

    async def judge(self, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage, rubric: Rubric) -> PanelVerdict:
        """Every judge is asked at the same time. Raises what a judge raises."""
        found = await asyncio.gather(*(judged(one, item, reply, repeat=repeat, usage=usage) for one in self.judges))
        return combine(found, rubric)


def combine(verdicts: Sequence[Verdict], rubric: Rubric) -> PanelVerdict:
    """The panel's verdict out of its judges', one each. Raises `ScoringError` when they are of different replies."""
    if len({verdict.reply for verdict in verdicts}) != 1:
        raise ScoringError("a panel's verdicts must be of one reply: group them by reply first")
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    named = [verdict.letters for verdict in verdicts if verdict.letters is not None]
    quorum = 2 * len(scores) > len(verdicts)
    lettered = quorum and bool(named)
    shares = {letter: sum(letter in one for one in named) / len(named) for letter in rubric.issues} if lettered else {}
    return PanelVerdict(
        reply=verdicts[0].reply,
        verdicts=tuple(verdicts),
        score=sum(scores) / len(scores) if quorum else None,
        letters=tuple(letter for letter, share in shares.items() if share > 0.5) if lettered else None,
        shares=shares,
    )
