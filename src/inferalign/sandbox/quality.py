"""The oracle's graded judgement as a scorer: 0 to 11, where `OracleScorer` only says good or bad.

Two answers without the main fault tie under the plain oracle, and a win rate between them says nothing; the quality
tells them apart by their lesser faults, and within equal faults by what else they say. It is truth all the same: a
judge, and no guide (`scorers.base.TRUTHS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inferalign.core.types import Completion, Prompt, RoleUsage, Score, StopReason, Unscored
from inferalign.sandbox.oracle import grade, parse_request


class QualityScorer:
    """The oracle's quality of whole replies. One that does not parse is `Unscored`, and the response is to blame."""

    name = "oracle-quality"

    def describe(self) -> Mapping[str, object]:
        return {"scorer": self.name}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        return [quality(prompt, response) for response in responses]


def quality(prompt: Prompt, response: Completion) -> Score | Unscored:
    """The grade of one reply; a partial one has none yet, and that is the judge's part to say."""
    if parse_request(prompt.text) is None:
        return Unscored("the oracle knows no truth about a request that the sandbox did not write", blame="judge")
    if response.stop is StopReason.PARTIAL:
        return Unscored("only a whole reply has a quality, and this one was judged on its way", blame="judge")
    found = grade(prompt.text, response.text).quality
    if found is None:
        return Unscored("the oracle cannot parse this reply", blame="response")
    return Score(found)
