"""Forecasts for one reward: without ties those of `theory.finite`, with ties exact enumeration in the limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inferalign.core.errors import InputError
from inferalign.theory.finite import anchored, harmonic
from inferalign.theory.procedures import Selection, best_of_n, tied_kl, tied_policy, tied_win_rate, worst_of_n
from inferalign.theory.scores import Forecast, forecast, quality
from inferalign.theory.transforms import Exponential, Identity, Log, Transform


def normal(prompts: int, k: int, seed: int = 0) -> list[np.ndarray]:
    draws = np.random.default_rng(seed)
    return list(draws.normal(size=(prompts, k)) + draws.normal(size=(prompts, 1)))


@pytest.mark.parametrize(
    ("selection", "transform"),
    [(best_of_n(4), Exponential(10)), (worst_of_n(4), Exponential(-10)), (best_of_n(4), Log())],
)
def test_without_ties_it_is_the_finite_k_forecast(selection: Selection, transform: Transform) -> None:
    found = forecast(normal(64, 32), selection, transform, 0.5, seed=1)
    expected = anchored(selection, transform, 32, 0.5, draws=4096)
    assert abs(found.win_rate - expected.win_rate) < 4 * found.win_rate_se
    assert found.beta == pytest.approx(expected.beta, rel=0.03)


@pytest.mark.parametrize("masses", [[0.5, 0.5], [0.2, 0.3, 0.5], [0.1] * 10])
@pytest.mark.parametrize("selection", [best_of_n(3), worst_of_n(2)])
def test_many_scores_with_ties_are_the_exact_levels(masses: list[float], selection: Selection) -> None:
    """With 20,000 anchors the calibrated reward is exact, and so is the policy over levels."""
    row = np.repeat(np.arange(len(masses), dtype=float), [round(20_000 * m) for m in masses])
    found = forecast([row], selection, Identity(), 0.2, seed=3)
    middle = np.cumsum(masses) - np.array(masses) / 2
    low, high = 1e-3, 10.0
    for _ in range(100):
        beta = math.sqrt(low * high)
        low, high = (beta, high) if tied_kl(tied_policy(middle, beta, masses), masses) > 0.2 else (low, beta)
    exact = tied_win_rate(tied_policy(middle, beta, masses), masses, selection).win
    assert found.win_rate == pytest.approx(exact, abs=4 * found.win_rate_se + 1e-4)
    assert found.beta == pytest.approx(beta, rel=0.01)


def test_quality_by_hand() -> None:
    """Scores 0 0 1 3: one of six pairs ties; rewards 1/4, 5/8, 7/8; the variances by definition."""
    row = np.array([3.0, 0.0, 1.0, 0.0])
    found = quality([row])
    assert (found.prompts, found.anchors, found.levels) == (1, 4, 3)
    assert found.tied == pytest.approx(1 / 6)
    wins = [np.where(row < c, 1.0, np.where(row == c, 0.5, 0.0)) for c in row]
    assert found.error == pytest.approx(math.sqrt(np.mean([w.var() for w in wins]) / 4))
    assert found.global_error == 0
    assert quality([np.arange(4.0)]).kl_limit == pytest.approx(harmonic(4), abs=0.08)
    often_top = quality([np.repeat([0.0, 1.0], [10, 30])]).kl_limit  # all forty anchors but never miss the top
    assert often_top == pytest.approx(math.log(4 / 3), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_limit_told_is_the_limit_that_refuses(seed: int) -> None:
    scores = [np.roll([5.0, 5.0, 3.0, 1.0], p) for p in range(20)]
    limit = quality(scores, seed).kl_limit
    assert limit < math.log(2)
    assert forecast(scores, best_of_n(2), Identity(), 0.999 * limit, seed).kl < limit
    with pytest.raises(InputError, match=f"allow a mean KL below {limit:.3f}"):
        forecast(scores, best_of_n(2), Identity(), 1.001 * limit, seed)


def test_scores_that_are_all_the_same_are_told() -> None:
    scores = [np.full(6, float(p)) for p in range(3)]
    assert quality(scores).kl_limit == 0
    with pytest.raises(InputError, match="every score of a prompt is the same"):
        forecast(scores, best_of_n(2), Identity(), 0.5, 0)


def test_quality_sees_that_prompts_differ() -> None:
    assert quality(normal(100, 50)).global_error > 0.1
    assert quality([row - row.mean() for row in normal(100, 50)]).global_error < 0.05
    assert quality(normal(2, 100)).error == pytest.approx(math.sqrt(1 / 6 / 100), rel=0.02)  # mean of u(1-u)/K


def test_the_same_seed_gives_the_same_forecast() -> None:
    def made(seed: int) -> Forecast:
        return forecast(normal(8, 16), best_of_n(2), Identity(), 0.3, seed)

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_invariant_under_increasing_maps() -> None:
    scores = normal(8, 16)
    first = forecast(scores, best_of_n(2), Identity(), 0.3, 0)
    assert forecast([np.exp(3 * row - 7) for row in scores], best_of_n(2), Identity(), 0.3, 0) == first


def test_too_many_ties_are_refused() -> None:
    with pytest.raises(InputError, match="allow a mean KL below"):
        forecast([np.roll([0.0, 1.0, 1.0, 1.0, 1.0], p) for p in range(20)], best_of_n(2), Identity(), 1.5, 0)
    with pytest.raises(InputError, match="prompt 0 has too few"):
        quality([np.array([1.0])])
