"""Counts that add up, and alarms that are loud when they should be and silent when not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from inferalign.core.errors import ScoringError
from inferalign.ctrl.reward_statistics import WINDOW, Seen, Watch


def watching() -> Watch:
    """With anchors without number, whose share is certain."""
    return Watch(lambda name: 10**12)


def add(watch: Watch, seen: Seen) -> None:
    watch.add(seen, ["p"] * (seen.calibrated + seen.judge))


def repeat(watch: Watch, seen: Seen, calls: int) -> None:
    for _ in range(calls):
        add(watch, seen)


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
    draw, watch = np.random.default_rng(11), watching()
    for _ in range(400):
        bad = int(draw.binomial(64, 0.1))
        add(watch, Seen(scored=64 - bad, response=bad, unjudgeable_anchors=6.4))
    assert watch.window.calibrated == 64 * WINDOW


def few(k: int, prompts: int, share: float, seed: int) -> tuple[Watch, list[str], float]:
    """A watch over few prompts with k anchors each, drawn at this share, and the share that they show."""
    found = np.random.default_rng(seed).binomial(k * prompts, share) / (k * prompts)
    return Watch(lambda name: k), [f"p{i}" for i in range(prompts)] * 16, float(found)


def test_few_anchors_are_not_taken_for_the_truth() -> None:
    """8 prompts with 16 anchors, 5 % of all text unjudgeable; a training in eight was warned for the anchors' noise."""
    for seed in range(200):
        watch, ids, shown = few(16, 8, 0.05, seed)
        draw = np.random.default_rng(1000 + seed)
        bad = [int(draw.binomial(128, 0.05)) for _ in range(WINDOW)]
        for each in (bad[0], sum(bad)):  # the first call alone, then a window's worth
            texts = 128 if each == bad[0] else 128 * WINDOW
            names = ids * (texts // 128)
            watch.add(Seen(scored=texts - each, response=each, unjudgeable_anchors=shown * texts), names)


def test_growth_is_seen_beside_few_anchors_too() -> None:
    watch, ids, shown = few(16, 8, 0.05, 0)
    seen = Seen(scored=96 * WINDOW, response=32 * WINDOW, unjudgeable_anchors=128 * WINDOW * shown)
    with pytest.warns(UserWarning, match=r"25\.0% of the responses could not be judged"):
        watch.add(seen, ids * WINDOW)


def test_the_noise_of_responses_and_anchors_by_hand() -> None:
    """30 responses to a prompt with 10 anchors, 20 to one with 5: 30^2/10 + 20^2/5 = 170 is 50^2 / 14.7 draws."""
    watch = Watch({"a": 10, "b": 5}.__getitem__)
    watch.add(Seen(scored=40, response=10, unjudgeable_anchors=5.0), ["a"] * 30 + ["b"] * 20)
    n = 50**2 / 170
    s = (10 + 0.1 * n) / (50 + n)
    assert watch._variance(watch.window, 0.0) == pytest.approx((50 + 170) * s * (1 - s))
    s = (10 - 0.1 * 50 + 0.1 * n) / (50 + n)
    assert watch._variance(watch.window, 0.1) == pytest.approx(50 * (s + 0.1) * (0.9 - s) + 170 * s * (1 - s))


def test_growth_is_warned_of_once_and_then_stopped() -> None:
    watch = watching()
    with pytest.warns(UserWarning, match=r"8\.6% of the responses could not be judged, against 1\.0% of the anchors"):
        repeat(watch, Seen(scored=117, response=11, unjudgeable_anchors=1.28), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repeat(watch, Seen(scored=117, response=11, unjudgeable_anchors=1.28), WINDOW)
    with pytest.raises(ScoringError, match="could not be judged"):
        repeat(watch, Seen(scored=64, response=64, unjudgeable_anchors=1.28), WINDOW)


def test_one_odd_call_is_not_growth() -> None:
    watch = watching()
    add(watch, Seen(scored=10, response=40))  # too few to say anything
    watch = watching()
    add(watch, Seen(scored=55, response=9, unjudgeable_anchors=6.4))  # 4 points more, a standard error
    watch = watching()
    for _ in range(WINDOW):
        add(watch, Seen(scored=128))
    add(watch, Seen(scored=108, response=20))


def test_a_judge_that_fails_is_told_apart() -> None:
    watch = watching()
    with pytest.warns(UserWarning, match="25.0% of the judge's verdicts failed"):
        add(watch, Seen(scored=96, judge=32))
    with pytest.raises(ScoringError, match="judge's verdicts failed"):
        add(watch, Seen(judge=256))


def test_the_first_verdicts_stop_a_training_only_where_they_are_clear() -> None:
    """Half of 64 may be 32 by chance, give or take 4 standard errors of 4: up to 48 do not say that most fail."""
    watch = watching()
    with pytest.warns(UserWarning, match=r"75\.0% of the judge's verdicts failed"):
        add(watch, Seen(scored=16, judge=48))
    with pytest.raises(ScoringError, match=r"76\.6% of the judge's verdicts failed"):
        add(watching(), Seen(scored=15, judge=49))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add(watching(), Seen(scored=48, judge=16))  # a tenth of 64 is 6.4, give or take 4 of 2.4
        add(watching(), Seen(scored=64, above=48))
    with pytest.warns(UserWarning, match="above the best anchor"):
        add(watching(), Seen(scored=64, above=49))
    with pytest.warns(UserWarning, match="judge's verdicts"):
        add(watching(), Seen(scored=47, judge=17))


def test_unjudgeable_text_stops_a_training_only_where_it_is_clear() -> None:
    """A quarter of 64 is 16, give or take 4 standard errors of sqrt(64 / 4 * 3 / 4) = 3.46: up to 29."""
    with pytest.warns(UserWarning, match=r"45\.3% of the responses could not be judged"):
        add(watching(), Seen(scored=35, response=29))
    with pytest.raises(ScoringError, match=r"46\.9% of the responses could not be judged"):
        add(watching(), Seen(scored=34, response=30))


def test_most_above_every_anchor_is_warned_of() -> None:
    """There the calibrated reward is 1 for all, and more KL buys nothing."""
    watch = watching()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repeat(watch, Seen(scored=64, above=32), WINDOW)
    with pytest.warns(UserWarning, match="above the best anchor of their prompt"):
        repeat(watch, Seen(scored=64, above=36), WINDOW)
