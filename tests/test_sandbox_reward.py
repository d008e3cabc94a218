"""What the reward benchmark says of a reward model: by hand, on rows of four replies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.sandbox_reward import Row, agreement, check, facts, grades_of
from inferalign.core.types import Candidate, Completion, Result, StopReason, Usage
from inferalign.sandbox.world import prompts


def row(grades: Sequence[float], rewards: Sequence[float], texts: str = "abcd") -> Row:
    return Row(texts=tuple(texts), grades=np.array(grades), rewards=np.array(rewards))


def test_equal_rewards_order_no_pair() -> None:
    """Neither where the better reply comes first nor where it comes last: a constant reward is right in no pair."""
    assert row([1, 2, 3, 3], [0, 0, 0, 0]).right() == [False] * 5
    assert row([3, 2, 1, 1], [0, 0, 0, 0]).right() == [False] * 5
    assert row([1, 2, 3, 3], [0, 5, 5, 9]).right() == [True, True, True, False, True]


def test_facts_by_hand() -> None:
    """Best-of-4 picks grades 4 and 1 where 4 and 3 could be had and 2.5 and 1.5 are drawn."""
    rows = [row([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]), row([0, 1, 2, 3], [0.0, 0.9, 0.1, 0.2])]
    found = facts(rows)
    assert found.accuracy.mean == pytest.approx((6 + 4) / 12)
    assert (found.random, found.best_of_4, found.perfect) == (2.0, 2.5, 3.5)
    assert found.gap_closed == pytest.approx(0.5 / 1.5)
    assert found.within.mean == pytest.approx((1 + (4 - 2) / 6) / 2)
    assert found.ties.mean == 0.0


def test_ties_are_of_different_texts_at_the_top() -> None:
    assert row([1, 1, 2, 2], [0, 0, 5, 5]).tied()
    assert not row([1, 1, 2, 2], [0, 0, 5, 5], "abcc").tied()
    assert not row([1, 1, 2, 2], [0, 0, 0, 5]).tied()


def test_a_constant_reward_and_equal_grades_end_in_a_report_and_not_in_a_crash() -> None:
    constant, equal = facts([row([1, 2, 3, 4], [0, 0, 0, 0])]), facts([row([2, 2, 2, 2], [1, 2, 3, 4])])
    assert (constant.rank, constant.within.mean, constant.accuracy.mean, constant.ties.mean) == (None, None, 0.0, 1.0)
    assert (equal.rank, equal.gap_closed, equal.accuracy.mean) == (None, None, None)
    json.dumps([asdict(constant), asdict(equal)], allow_nan=False)
    assert not any(check({"all": constant, "harmful": equal}).values())


def test_two_reward_models_agree_where_both_are_right_or_both_wrong() -> None:
    one, other = row([1, 2, 3, 4], [1, 2, 3, 4]), row([1, 2, 3, 4], [4, 2, 3, 1])
    assert agreement([one], [one]).mean == 1.0
    assert agreement([one], [other]).mean == pytest.approx(1 / 6)
    constant, reversed_ = row([1, 2, 3, 4], [0, 0, 0, 0]), row([1, 2, 3, 4], [4, 3, 2, 1])
    assert agreement([constant], [reversed_]).mean == 0.0, "no order is not the wrong one"
    assert agreement([constant], [constant]).mean == 1.0
    assert agreement([row([2, 2, 2, 2], [1, 2, 3, 4])], [row([2, 2, 2, 2], [1, 2, 3, 4])]).mean is None


def test_a_reply_that_does_not_parse_has_grade_0() -> None:
    (prompt,) = prompts("harmful", 1, 0)
    texts = ("I have to say no to this one.", "colourless green ideas.")
    made = tuple(Candidate(completion=Completion(token_ids=(), text=t, stop=StopReason.END)) for t in texts)
    (found,) = grades_of([Result(prompt=prompt, candidates=made, chosen=0, usage=Usage(), seconds=0.0)])
    assert found[0] > 0
    assert found[1] == 0
