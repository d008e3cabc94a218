"""Counts that add up, and alarms that are loud when they should be and silent when not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from inferalign.core.errors import ScoringError
from inferalign.ctrl.reward_statistics import WINDOW, Seen, Watch


def repeat(watch: Watch, seen: Seen, calls: int) -> None:
    for _ in range(calls):
        watch.add(seen)


def test_counts_add_up_and_shares_are_of_what_was_calibrated() -> None:
    first = Seen(scored=6, response=2, judge=2, rank_sum=4.0, above=1, tied=4, unjudgeable_anchors=0.8)
    assert (first + first).metrics() == pytest.approx(first.metrics())
    assert first.metrics() == pytest.approx(
        {
            "calibrated/mean": 0.5,
            "calibrated/above_best_anchor": 0.125,
            "calibrated/tied": 0.5,
            "unscored/response": 0.25,
            "unscored/response_in_anchors": 0.1,
            "unscored/judge": 0.2,
        }
    )


def test_a_mean_of_nothing_is_an_error_and_is_not_logged() -> None:
    with pytest.raises(ScoringError, match="failed on all 3"):
        _ = Seen(judge=3).mean_rank
    assert Seen(judge=3).metrics() == {"unscored/judge": 1.0}
    assert Seen().metrics() == {}


def test_a_policy_like_its_reference_raises_no_alarm() -> None:
    """A tenth of the text unjudgeable, as among the anchors, for 400 calls: warnings are errors in these tests."""
    draw, watch = np.random.default_rng(11), Watch()
    for _ in range(400):
        bad = int(draw.binomial(64, 0.1))
        watch.add(Seen(scored=64 - bad, response=bad, unjudgeable_anchors=6.4))
    assert watch.window.calibrated == 64 * WINDOW


def test_growth_is_warned_of_once_and_then_stopped() -> None:
    watch = Watch()
    with pytest.warns(UserWarning, match=r"8\.6% of the responses could not be judged, against 1\.0% of the anchors"):
        repeat(watch, Seen(scored=117, response=11, unjudgeable_anchors=1.28), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repeat(watch, Seen(scored=117, response=11, unjudgeable_anchors=1.28), WINDOW)
    with pytest.raises(ScoringError, match="could not be judged"):
        repeat(watch, Seen(scored=64, response=64, unjudgeable_anchors=1.28), WINDOW)


def test_one_odd_call_is_not_growth() -> None:
    watch = Watch()
    watch.add(Seen(scored=10, response=40))  # too few to say anything
    watch = Watch()
    watch.add(Seen(scored=55, response=9, unjudgeable_anchors=6.4))  # 4 points more, a standard error
    watch = Watch()
    for _ in range(WINDOW):
        watch.add(Seen(scored=128))
    watch.add(Seen(scored=108, response=20))


def test_a_judge_that_fails_is_told_apart() -> None:
    watch = Watch()
    with pytest.warns(UserWarning, match="25.0% of the judge's verdicts failed"):
        watch.add(Seen(scored=96, judge=32))
    with pytest.raises(ScoringError, match="judge's verdicts failed"):
        watch.add(Seen(judge=256))


def test_most_above_every_anchor_is_warned_of() -> None:
    """There the calibrated reward is 1 for all, and more KL buys nothing."""
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repeat(watch, Seen(scored=64, above=32), WINDOW)
    with pytest.warns(UserWarning, match="above the best anchor of their prompt"):
        repeat(watch, Seen(scored=64, above=33), WINDOW)
