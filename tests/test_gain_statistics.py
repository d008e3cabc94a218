"""The gain study's arithmetic, on pools whose win rates theory knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.gain_plan import BEST, WORST
from benchmarks.gain_runs import Point
from benchmarks.gain_statistics import (
    Gain,
    Sweeps,
    by_selector,
    cost_to_reach,
    crossed,
    judge_facts,
    nearest,
    smaller,
    smoothed,
)
from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate
from inferalign.theory.procedures import best_of_n
from inferalign.winrate.ceiling import selector_ceiling
from tests.winrate.synthetic import base_pool, density, pool, trained_pool

PROMPTS = 300


def point(recipe: str, kl: float, seed: int = 0, curve: tuple[dict[str, Any], ...] = ()) -> Point:
    """As many draws as the study takes, from the density that a perfect training ends at."""
    found = density(recipe, kl)
    drawn = trained_pool(found, PROMPTS, 16, 1000 * seed + round(100 * kl) + len(recipe))
    return Point(recipe, kl, seed, 1.0, 0.2, drawn, 20.0, curve)


@pytest.fixture(scope="module")
def sweeps() -> Sweeps:
    recipes = ("identity", "exp:10")
    points = [point(recipe, kl, seed) for seed in range(3) for recipe in recipes for kl in (0.35, 0.7)]
    points.append(point("log", 0.2))
    points.append(point("log", 0.3))
    return Sweeps(points, base_pool(PROMPTS, 64, 5))


def test_a_gain_is_that_of_theory(sweeps: Sweeps) -> None:
    curve = selector_ceiling(best_of_n(4))
    gain = sweeps.gain(BEST, "exp:10", "identity")
    theory = curve.of("exp:10", 0.5) - curve.of("identity", 0.5)
    assert theory == pytest.approx(0.0717, abs=1e-3)
    assert gain.over_prompts.low is not None
    assert gain.over_prompts.high is not None
    assert gain.over_prompts.low - 0.004 < theory < gain.over_prompts.high + 0.004
    assert gain.over_prompts.mean == pytest.approx(np.mean(gain.by_seed))
    assert len(gain.by_seed) == gain.over_seeds.n == 3
    assert gain.over_prompts.n == PROMPTS
    turned = sweeps.gain(BEST, "identity", "exp:10")
    assert turned.over_prompts.mean == pytest.approx(-(gain.over_prompts.mean or 0))
    assert (sweeps.gain(WORST, "exp:10", "identity").over_prompts.high or 0) < 0, "the wrong sign hurts"


def test_a_recipe_gains_nothing_over_itself(sweeps: Sweeps) -> None:
    gain = sweeps.gain(BEST, "identity", "identity")
    assert (gain.over_prompts.mean, gain.over_seeds.low, gain.over_seeds.high) == (0.0, 0.0, 0.0)


def test_a_sweep_that_does_not_enclose_the_kl_says_so(sweeps: Sweeps) -> None:
    with pytest.raises(InputError, match="outside of the sweep"):
        sweeps.gain(BEST, "log", "identity")


def test_the_interval_over_seeds_by_hand() -> None:
    """Prompt means .5, 2.5, 4.5: s^2 / 3 = 4/3; seed means 2, 3: s^2 / 2 = 1/4; freedom by both.

    (19/12)^2 / ((4/3)^2 / 2 + 1/16) is 2.635, of which Student's quantile at .975 is 3.447 (4.303 at 2, 3.182 at 3).
    """
    found = crossed(np.array([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]))
    assert found.mean == 2.5
    assert found.n == 2
    assert found.high is not None
    assert found.low is not None
    assert (found.high - 2.5) / (19 / 12) ** 0.5 == pytest.approx(3.447, abs=0.001)
    assert found.high - 2.5 == pytest.approx(2.5 - found.low)


def test_the_interval_over_seeds_covers() -> None:
    """Effects of seeds and of prompts, and noise: 95 % intervals hold the truth nearly so often, or more."""
    draws = np.random.default_rng(11)
    hits, narrow = 0, 0
    for _ in range(400):
        table = draws.normal(0, 0.4, (3, 1)) + draws.normal(0, 1.0, (1, 40)) + draws.normal(0, 1.0, (3, 40))
        found = crossed(table)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
        half = 1.96 * table.mean(axis=0).std(ddof=1) / 40**0.5
        narrow += abs(table.mean()) <= half
    assert hits / 400 > 0.93
    assert narrow / 400 < 0.85, "an interval over prompts alone says nothing of another training"


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert crossed(np.array([[0.1, 0.3]])) == Estimate(mean=0.2, low=None, high=None, n=1)


def gained(procedure: str, mean: float) -> Gain:
    estimate = Estimate(mean=mean, low=mean - 0.01, high=mean + 0.01, n=9)
    return Gain(
        procedure=procedure, recipe="r", against="identity", over_prompts=estimate, over_seeds=estimate, by_seed=(mean,)
    )


def test_the_headline_is_the_smaller_gain_and_needs_both() -> None:
    best, worst = gained(BEST, 0.05), gained(WORST, 0.02)
    assert smaller([best, worst]) is worst
    assert smaller([best]) is None


def test_cost_to_reach_by_hand() -> None:
    """Means of 5 steps first reach .64 at step 7: (.5 + .6 + .7 + .7 + .7) / 5."""
    wins = (0.5, 0.5, 0.5, 0.6, 0.7, 0.7, 0.7, 0.9)
    curve = [{"wins": {BEST: win}, "tokens": 10, "cpu": 2.0} for win in wins]
    assert cost_to_reach(curve, BEST, 0.64) == (7, 70.0, 14.0)
    assert cost_to_reach(curve, BEST, 0.95) == (None, 80.0, 16.0)


def test_steps_that_drew_nothing_keep_the_last_win_rate() -> None:
    wins: list[dict[str, float]] = [{}, {BEST: 0.6}, {}, {}, {BEST: 0.9}]
    curve = [{"wins": each, "tokens": 0, "cpu": 1.0} for each in wins]
    assert smoothed(curve, BEST) == pytest.approx([(0.5 + 0.6 + 0.6 + 0.6 + 0.9) / 5])


def test_judge_facts_by_hand() -> None:
    """Pairs of the judge's 1, 2, 2: one tie of three; the selector has one of the other two the right way round."""
    facts = judge_facts(pool(np.array([[1.0, 0.0, 3.0]]), np.array([[1.0, 2.0, 2.0]]), np.zeros((1, 3))))
    assert facts.accuracy.mean == 0.5
    assert (facts.judge_ties, facts.selector_ties) == (pytest.approx(1 / 3), 0.0)


def test_the_selector_as_judge_agrees_with_itself() -> None:
    two = pool(np.array([[1.0, 2.0]]), np.array([[2.0, 1.0]]), np.zeros((1, 2)))
    assert judge_facts(two).accuracy.mean == 0.0
    assert judge_facts(by_selector(two)).accuracy.mean == 1.0


def test_nearest_is_by_measured_kl() -> None:
    points = [point("identity", kl) for kl in (0.2, 0.45, 1.0)]
    assert nearest(points, "identity", 0).target == 0.45
