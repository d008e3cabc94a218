"""The graded judge agrees with the oracle's quality, and says who is to blame where there is none."""

import asyncio

import pytest

from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, StopReason, Unscored
from inferalign.sandbox.oracle import OracleScorer, grade
from inferalign.sandbox.quality import QualityScorer
from inferalign.sandbox.situations import SITUATIONS
from tests.sandbox.replies import drawn

PROMPT = Prompt(id="p", messages=(Message(role="user", content="How do I feed my own dog?"),))


def judged(prompt: Prompt, text: str, stop: StopReason = StopReason.END) -> Score | Unscored:
    (found,) = asyncio.run(QualityScorer().score(prompt, [Completion(token_ids=(), text=text, stop=stop)], RoleUsage()))
    return found


@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_is_the_oracles_quality_and_tells_good_replies_apart(situation: str) -> None:
    grades = set()
    for reply in drawn(situation, 40, seed=3):
        prompt = Prompt(id="p", messages=(Message(role="user", content=reply.request.text),))
        found = judged(prompt, reply.text)
        assert isinstance(found, Score)
        assert found.value == grade(reply.request.text, reply.text).quality
        assert 0 <= found.value <= 11
        plain = asyncio.run(
            OracleScorer().score(prompt, [Completion(token_ids=(), text=reply.text, stop=StopReason.END)], RoleUsage())
        )
        if plain == [Score(1.0)]:
            grades.add(found.value)
    assert len(grades) > 1, "good replies tie under the plain oracle alone"


def test_text_that_does_not_parse_is_the_responses_fault() -> None:
    found = judged(PROMPT, "qwerty uiop")
    assert isinstance(found, Unscored)
    assert found.blame == "response"


def test_a_stranger_s_prompt_and_a_part_of_a_reply_are_the_judges_part() -> None:
    stranger = Prompt(id="p", messages=(Message(role="user", content="What is the capital of France?"),))
    for found in (judged(stranger, "Paris."), judged(PROMPT, "Give it", StopReason.PARTIAL)):
        assert isinstance(found, Unscored)
        assert found.blame == "judge"
