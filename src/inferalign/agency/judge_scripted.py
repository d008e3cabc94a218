"""A judge whose verdicts are written down or computed from the reply's text: for tests, demos and planted effects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from inferalign.agency.dimension import Dimension
from inferalign.agency.judge import dimension_of, hashes, unscored
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.errors import ScoringError
from inferalign.core.types import RoleUsage, Unscored

Rule = Callable[[Dimension, Item, Reply], Iterable[str] | Unscored]
"""The letters of a reply."""


class ScriptedJudge:
    """Strict: a rule that names a letter which the dimension has not is an error (`UnknownName`)."""

    name = "scripted"

    def __init__(self, dimensions: Mapping[str, Dimension], rule: Rule) -> None:
        self._dimensions = dimensions
        self._rule = rule

    def describe(self) -> Mapping[str, object]:
        return {"judge": self.name, "rule": self._rule.__name__, "dimensions": hashes(self._dimensions)}

    async def judge(self, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage) -> Verdict:
        dimension = dimension_of(self._dimensions, item, reply)
        found = self._rule(dimension, item, reply)
        if isinstance(found, Unscored):
            return unscored(self.name, reply, repeat, found, letter_order=dimension.letters)
        letters = dimension.rubric.in_order(found)
        return Verdict(
            reply=reply.id,
            judge=self.name,
            judge_repeat=repeat,
            status="ok",
            letters=letters,
            score=dimension.rubric.score(letters),
            letter_order=dimension.letters,
        )


def by_hash(dimension: Dimension, item: Item, reply: Reply) -> list[str]:
    """Each letter with a chance of a quarter, by the hash of the answers: the same text always has the same issues."""
    text = "\n".join(turn.content for turn in reply.conversation if turn.role == "assistant")
    digest = hashlib.sha256(f"{dimension.id}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return [letter for letter, byte in zip(dimension.letters, digest, strict=False) if byte < 64]


def by_table(table: Mapping[str, Iterable[str] | Unscored]) -> Rule:
    """By the reply's id. Raises `ScoringError` for a reply that the table has not."""

    def written_down(dimension: Dimension, item: Item, reply: Reply) -> Iterable[str] | Unscored:
        if reply.id not in table:
            raise ScoringError(f"the scripted judge has no verdict for reply {reply.id!r}: script one more")
        return table[reply.id]

    return written_down
