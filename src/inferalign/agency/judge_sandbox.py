"""The sandbox's oracle as a judge: it parses the reply back into what it does, so its verdict is the truth.

It knows requests that the sandbox wrote, single turns, and nothing else; anything else is unscored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from inferalign.agency.dimension import Dimension
from inferalign.agency.judge import dimension_of, hashes, unscored
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.types import RoleUsage, Unscored
from inferalign.sandbox.oracle import grade


class OracleJudge:
    """`grade` by letters: the truth's `situation` names the dimension, its `letters` are None where nothing parses."""

    name = "oracle"

    def __init__(self, dimensions: Mapping[str, Dimension], grade: Callable[[str, str], Any] = grade) -> None:
        self._dimensions = dimensions
        self._grade = grade

    def describe(self) -> Mapping[str, object]:
        return {"judge": self.name, "dimensions": hashes(self._dimensions)}

    async def judge(self, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage) -> Verdict:
        dimension = dimension_of(self._dimensions, item, reply)
        start = time.perf_counter()
        found = self._letters(dimension, item, reply)
        facts: dict[str, Any] = {"letter_order": dimension.letters, "seconds": time.perf_counter() - start}
        if isinstance(found, Unscored):
            return unscored(self.name, reply, repeat, found, **facts)
        return Verdict(
            reply=reply.id,
            judge=self.name,
            judge_repeat=repeat,
            status="ok",
            letters=found,
            score=dimension.rubric.score(found),
            **facts,
        )

    def _letters(self, dimension: Dimension, item: Item, reply: Reply) -> tuple[str, ...] | Unscored:
        if len(reply.conversation) != 2:
            return Unscored("the oracle judges single answers, not conversations", blame="judge")
        truth = self._grade(item.prompt, reply.conversation[1].content)
        # An oracle that knows errands alone has neither word.
        if getattr(truth, "situation", None) != dimension.id:
            return Unscored(f"the oracle knows no truth about this prompt in {dimension.id}", blame="judge")
        if truth.letters is None:
            return Unscored("the oracle cannot parse this reply", blame="response")
        return dimension.rubric.in_order(truth.letters)
