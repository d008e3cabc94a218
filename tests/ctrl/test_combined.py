"""Scorers combined before calibration: values by hand, blame by brute force, and why the order matters."""

from __future__ import annotations

import asyncio
from itertools import product

import numpy as np
import pytest

from inferalign.core.errors import InputError
from inferalign.core.types import Completion, RoleUsage, Score, StopReason, Unscored
from inferalign.ctrl.combined import CombinedScorer, combine
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Scored
from inferalign.scorers.scripted import ScriptedScorer
from inferalign.theory.transforms import Identity
from tests.toy import a_prompt

ANSWER = Completion(token_ids=(1,), text="a", stop=StopReason.END)


def test_sum_and_minimum_of_raw_scores() -> None:
    parts = [Scored.all_scored([1.0, 4.0]), Scored.all_scored([3.0, -2.0])]
    assert combine(parts, (2.0, 0.5)).values.tolist() == [3.5, 7.0]
    assert combine(parts, "min").values.tolist() == [1.0, -2.0]


def test_any_unscored_part_leaves_the_whole_unscored_and_the_response_is_blamed_first() -> None:
    cases = list(product((SCORED, RESPONSE, JUDGE), repeat=3))
    blames = np.array(cases, dtype=np.uint8).T
    parts = [Scored(np.where(blame == SCORED, 7.0, 0.0), blame) for blame in blames]
    for weights in ("min", (1.0, 1.0, 1.0)):
        found = combine(parts, weights)  # type: ignore[arg-type]
        expected = [RESPONSE if RESPONSE in case else JUDGE if JUDGE in case else SCORED for case in cases]
        assert found.blame.tolist() == expected
        assert found.values[0] == (7.0 if weights == "min" else 21.0)
        assert not found.values[1:].any()


def test_the_scorer_does_what_the_arrays_do_and_keeps_the_reason_that_counts() -> None:
    first = ScriptedScorer([Score(1.0), Unscored("slow", "judge"), Unscored("slow", "judge"), Score(2.0)])
    second = ScriptedScorer([Score(3.0), Score(1.0), Unscored("blank", "response"), Score(-4.0)])
    scorer = CombinedScorer([first, second], (1.0, 0.5))
    verdicts = asyncio.run(scorer.score(a_prompt("Hi?"), [ANSWER] * 4, RoleUsage()))
    assert verdicts == [Score(2.5), Unscored("slow", "judge"), Unscored("blank", "response"), Score(0.0)]
    assert scorer.name == "1*scripted + 0.5*scripted"
    assert scorer.describe()["weights"] == [1.0, 0.5]
    least = CombinedScorer([ScriptedScorer([Score(1.0)]), ScriptedScorer([Score(3.0)])], "min")
    assert asyncio.run(least.score(a_prompt("Hi?"), [ANSWER], RoleUsage())) == [Score(1.0)]
    assert (least.name, least.describe()["weights"]) == ("min(scripted, scripted)", "min")


def test_a_sum_of_calibrated_rewards_is_not_calibrated_and_a_calibrated_sum_is() -> None:
    """Uniform has variance 1/12; the mean of two independent uniforms has half of it."""
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, 1, 4000))
    parts = [Scored.all_scored(a), Scored.all_scored(b)]
    ids = ("p",)
    together = combine(parts, (1.0, 1.0))
    whole = CalibratedReward(HeldAnchors(ids, together), Identity()).ranks(ids, together)
    apart = [CalibratedReward(HeldAnchors(ids, part), Identity()).ranks(ids, part) for part in parts]
    assert np.var(whole) == pytest.approx(1 / 12, abs=1e-4)
    assert np.var((apart[0] + apart[1]) / 2) == pytest.approx(1 / 24, rel=0.1)


@pytest.mark.parametrize(
    ("parts", "weights", "words"),
    [
        ([], (), "at least one"),
        ([Scored.all_scored([1.0])], (1.0, 2.0), "one finite number"),
        ([Scored.all_scored([1.0])], (np.nan,), "one finite number"),
        ([Scored.all_scored([1.0]), Scored.all_scored([1.0, 2.0])], "min", "same responses"),
    ],
)
def test_what_cannot_be_combined_is_refused(parts: list[Scored], weights: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        combine(parts, weights)  # type: ignore[arg-type]


def test_a_scorer_of_nothing_is_refused_when_it_is_made() -> None:
    with pytest.raises(InputError, match="at least one"):
        CombinedScorer([], "min")
