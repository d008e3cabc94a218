"""Scorers with written or computed verdicts."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from inferalign.core.errors import ScoringError
from inferalign.core.types import Completion, RoleUsage, Score, StopReason, Unscored
from inferalign.scorers.scripted import Replaced, ScriptedScorer, coin, flipped, hash_vote
from inferalign.scorers.table import build_scorer
from tests.toy import CharChat, PlainEngine, a_prompt, ngram_forward


def completion(text: str) -> Completion:
    return Completion(token_ids=tuple(text.encode()), text=text, stop=StopReason.END)


def scored(scorer: Any, *texts: str) -> list[Score | Unscored]:
    return asyncio.run(scorer.score(a_prompt(), [completion(text) for text in texts], RoleUsage()))


def test_a_list_is_used_up_in_order_and_then_an_error_says_which_request() -> None:
    scorer = ScriptedScorer([Score(1.0), Unscored("odd", blame="response")])
    assert scored(scorer, "a", "b") == [Score(1.0), Unscored("odd", blame="response")]
    with pytest.raises(ScoringError, match=r"request 3 .*'c'"):
        scored(scorer, "c")


def test_a_function_sees_prompt_and_response() -> None:
    scorer = ScriptedScorer(lambda prompt, response: Score(float(len(prompt.id + response.text))))
    assert scored(scorer, "abc") == [Score(5.0)]


def test_hash_votes_are_fixed_and_balanced() -> None:
    votes = Counter(hash_vote(0.3, str(i)) for i in range(3000))
    assert sorted(votes) == [-1.0, 0.0, 1.0]
    assert min(votes.values()) > 900
    assert hash_vote(0.0, "abc") == hash_vote(1.0, "abc")


def test_the_control_knows_nothing_of_its_judge() -> None:
    said = [coin(0.7, str(i)) for i in range(1000)]
    assert said == [coin(-0.1, str(i)) for i in range(1000)], "nor how sure it is"
    assert set(said) == {1.0, -1.0}
    assert 440 < said.count(-1.0) < 560


def test_a_flipped_judge_gives_verdicts_alone_and_turns_its_share() -> None:
    inner: Any = ScriptedScorer(lambda prompt, response: Score(int(response.text) / 1000 - 0.5))
    texts = [str(i) for i in range(1000)]
    true = [1.0 if i > 500 else -1.0 for i in range(1000)]
    said = [found.value for found in scored(flipped(inner, "f", 0.2), *texts) if isinstance(found, Score)]
    assert set(said) == {1.0, -1.0}, "how sure it is would tell, whatever the sign"
    turned = [a != b for a, b in zip(said, true, strict=True)]
    assert 150 < sum(turned) < 250
    assert 60 < sum(turned[:500]) < 140, "of either verdict"
    assert [found.value for found in scored(flipped(inner, "f", 0.0), *texts) if isinstance(found, Score)] == true


def test_a_replaced_scorer_asks_the_inner_one_and_leaves_unscored_alone() -> None:
    chat: Any = CharChat()
    inner: Any = build_scorer("self", engine=PlainEngine(ngram_forward, chat.decode), chat=chat, sandbox=False)
    scorer = Replaced(inner, lambda value, text: 0.25, "fixed")
    assert scored(scorer, "x" * 5000, "ab") == [scored(inner, "x" * 5000)[0], Score(0.25)]
    assert scorer.context(a_prompt(), (1, 2)) == inner.context(a_prompt(), (1, 2))
    assert scorer.room(a_prompt()) == inner.room(a_prompt())
