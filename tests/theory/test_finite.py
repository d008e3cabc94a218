"""What anchors cost: the expectation over anchors against a naive simulation, enumeration and bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inferalign.core.errors import InputError
from inferalign.theory.blackbox import BetaMixture
from inferalign.theory.finite import (
    _mean_kl,
    _mean_loss,
    anchored,
    anchors_for,
    calibrated_values,
    fewest,
    harmonic,
    solve_beta,
)
from inferalign.theory.planner import find
from inferalign.theory.procedures import Selection, best_of_n, sample, worst_of_n
from inferalign.theory.transforms import Exponential, Identity, Log, Transform


def naive(
    selection: Selection, transform: Transform, k: int, beta: float, prompts: int, seed: int
) -> tuple[float, float, float, float]:
    """Mean win rate and mean KL with their standard errors: each prompt's anchors drawn and ranked one by one."""
    draws = np.random.default_rng(seed)
    u = (np.arange(5000) + 0.5) / 5000
    wins, kls = [], []
    for _ in range(prompts):
        reference = np.sort(draws.random(k))
        ranks = np.searchsorted(reference, u)
        f = np.exp(calibrated_values(transform, k)[ranks] / beta)
        f /= f.mean()
        F = np.cumsum(f) / u.size - f / u.size / 2
        wins.append(1 - float(np.mean(selection.G(F, 1 - F) * selection.g(u, 1 - u))))
        kls.append(float(np.mean(f * np.log(f))))
    root = math.sqrt(prompts)
    return float(np.mean(wins)), float(np.std(wins)) / root, float(np.mean(kls)), float(np.std(kls)) / root


@pytest.mark.parametrize(
    ("selection", "transform", "k", "kl"),
    [
        (best_of_n(4), Identity(), 8, 0.5),
        (best_of_n(4), Exponential(10), 32, 0.5),
        (best_of_n(4), Exponential(10), 100, 2.0),
        (worst_of_n(4), Exponential(-10), 16, 0.5),
        (sample(), Log(), 4, 0.3),
        (best_of_n(32), Exponential(150), 64, 0.5),
    ],
)
def test_against_a_naive_simulation(selection: Selection, transform: Transform, k: int, kl: float) -> None:
    found = anchored(selection, transform, k, kl, draws=4096)
    win, win_error, mean_kl, kl_error = naive(selection, transform, k, found.beta, 800, seed=k)
    assert abs(found.win_rate - win) < 4 * win_error + 2e-4
    assert abs(kl - mean_kl) < 4 * kl_error + 2e-4


def test_two_anchors_by_hand() -> None:
    """K = 2: calibrated rewards 0, 1/2 and 1 on three cells with widths 1/3 in the mean, so Z is their mean weight."""
    weights = np.exp(calibrated_values(Identity(), 2))
    np.testing.assert_allclose(weights / weights[-1], np.exp([-1, -0.5, 0]))
    assert harmonic(2) == 1.5
    assert harmonic(4) == pytest.approx(25 / 12, abs=1e-15)
    assert harmonic(5000) == pytest.approx(np.sum(1 / np.arange(1, 5001)), abs=1e-13)


def test_the_draws_of_the_plan_know_a_loss_well() -> None:
    for k in (16, 100, 1000):
        rough = anchored(best_of_n(4), Exponential(10), k, 0.5).win_rate
        fine = anchored(best_of_n(4), Exponential(10), k, 0.5, draws=4096 if k < 1000 else 1024).win_rate
        exact = find(best_of_n(4), "exp:10", kl=0.5).win.win
        assert abs(rough - fine) < 0.1 * (exact - fine)


@pytest.mark.parametrize(
    ("selection", "transform", "name", "k", "loss"),
    [
        (best_of_n(4), Exponential(10), "exp:10", 8, 6.482),
        (best_of_n(4), Exponential(10), "exp:10", 32, 2.332),
        (worst_of_n(4), Exponential(-10), "exp:-10", 8, 3.419),
    ],
)
def test_a_loss_is_known_to_the_decimal_that_is_shown(
    selection: Selection, transform: Transform, name: str, k: int, loss: float
) -> None:
    """Points, beside the mean of eight scrambled Sobol sequences of 1,024 to 2,048 draws (standard error 0.006)."""
    exact = find(selection, name, kl=0.5).win.win
    assert 100 * (exact - anchored(selection, transform, k, 0.5).win_rate) == pytest.approx(loss, abs=0.05)


def test_the_loss_falls_with_every_anchor() -> None:
    rates = [anchored(best_of_n(4), Exponential(10), k, 0.5).win_rate for k in range(168, 182)]
    assert np.all(np.diff(rates) > 0)


def test_many_anchors_lose_nothing() -> None:
    exact = find(worst_of_n(4), "exp:-10", kl=0.5)
    found = anchored(worst_of_n(4), exact.transform, 8192, 0.5)
    assert found.win_rate == pytest.approx(exact.win.win, abs=2e-4)
    assert found.beta == pytest.approx(exact.beta, rel=4e-3)


def test_the_smallest_k_of_a_known_loss() -> None:
    for scale in (0.3, 2.0, 7.77):
        found = anchors_for(lambda k, scale=scale: scale / k, 0.5, 0.005)  # type: ignore[misc]
        assert found == math.ceil(scale / 0.005)
    steps = anchors_for(lambda k: 1.0 if k < 777 else 0.0, 0.5, 0.005)
    assert steps == 777
    assert anchors_for(lambda k: -1.0, 0.5, 0.005) == 2
    assert anchors_for(lambda k: 100 / k, 0.5, 0.005) == 20_000  # beyond what is simulated
    assert anchors_for(lambda k: 73.49 / k, 0.5, 0.005) == 15_000  # and known to two digits: 14,698


def test_the_recommended_k_is_the_smallest_by_the_same_forecast() -> None:
    exact = find(best_of_n(4), "exp:5", kl=0.5)

    def loss(k: int) -> float:
        return exact.win.win - anchored(best_of_n(4), exact.transform, k, 0.5).win_rate

    k = anchors_for(loss, 0.5, 0.005)
    assert loss(k) <= 0.005 < loss(k - 1)


def test_an_estimated_density_is_read_from_a_table_without_loss() -> None:
    """Best-of-3 as a Beta mixture: its last component."""
    mixture = BetaMixture(np.array([0.0, 0.0, 1.0]))
    expected = anchored(best_of_n(3), Exponential(8), 50, 0.5).win_rate
    assert anchored(mixture, Exponential(8), 50, 0.5).win_rate == pytest.approx(expected, abs=1e-6)


def test_too_few_anchors_are_refused() -> None:
    for kl in (0.1, 1.0, 1.6, 3.0, 5.0):
        k = fewest(kl)
        assert harmonic(k) > kl
        assert k == 2 or harmonic(k - 1) <= kl
    with pytest.raises(InputError, match=r"below 2.083, and 3 is asked: give at least 11 anchors"):
        anchored(best_of_n(4), Identity(), 4, 3.0)
    with pytest.raises(InputError, match="at least 2"):
        anchored(best_of_n(4), Identity(), 1, 0.1)
    with pytest.raises(InputError, match="at most 65536"):
        anchored(best_of_n(4), Identity(), 10**6, 0.1)


def test_to_first_order_the_widths_that_were_drawn_do_not_matter() -> None:
    selection, k, beta = best_of_n(4), 6, 0.4
    values = np.exp(3 * (np.arange(k + 1) / k - 1))
    even = np.full((k + 1, 1), 1 / (k + 1))
    tilt = np.linspace(-1, 1, k + 1)[:, None] * 1e-4
    logs = (values - values.max()) / beta
    for mean in (lambda w: _mean_loss(selection, values, w, beta), lambda w: _mean_kl(logs, w)[0]):
        assert mean(even + tilt) == pytest.approx(mean(even), abs=2e-7)  # second order; the first is above 1e-5


@pytest.mark.parametrize("variance", [1e-3, 0.3, 1.0, 30.0, math.inf])
@pytest.mark.parametrize("start", [1e-4, 1.0, 1e4])
def test_a_slope_that_is_wrong_costs_time_alone(variance: float, start: float) -> None:
    """A KL of 1/2 beta^-2, whose true slope is 2 KL."""
    beta = solve_beta(lambda at: (0.5 / at**2, variance / at**2), 0.32, start)
    assert beta == pytest.approx(1.25, rel=1e-9)


def test_a_kl_that_is_jumped_over_is_an_error() -> None:
    with pytest.raises(InputError, match=r"mean KL is 0\.5: at 2, the last that was tried, it is (1|0\.1); give"):
        solve_beta(lambda at: (1.0 if at < 2 else 0.1, 1.0), 0.5, 1.0)


def test_a_kl_that_the_draws_stop_short_of_takes_all_that_they_reach() -> None:
    """All mass on the best cell, which is 1/17 wide in the mean."""
    for transform in (Identity(), Log()):
        found = anchored(sample(), transform, 16, 0.9999 * harmonic(16))
        assert found.win_rate == pytest.approx(1 - 1 / (2 * 17), abs=1e-4)
