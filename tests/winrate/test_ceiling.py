"""The measured ceiling against theory where the judge is the selector, and against integrals where it is not."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm

from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate
from inferalign.theory.optimal import solve
from inferalign.theory.policies import win_rate
from inferalign.theory.procedures import OfN, best_of_n, sample, worst_of_n
from inferalign.winrate.ceiling import ceilings, exceeds, judge_ceiling, selector_ceiling
from tests.winrate.synthetic import base_pool, copula_pool, density, pool

PAIRS_AGREE = 0.85
RHO = math.sin(math.pi * (PAIRS_AGREE - 0.5))
"""The correlation at which judge and selector agree on that share of pairs: 1/2 + asin(rho) / pi."""


def copula_win_rate(procedure: OfN, transform: str, kl: float) -> float:
    """W by integrals over the judge's score: each side's output law is a mixture of normals over selector ranks."""
    found = density(transform, kl)
    grid, spread = found.grid, math.sqrt(1 - RHO**2)
    place = np.where(grid.u > 0.5, -norm.ppf(grid.s), norm.ppf(grid.u))
    score = np.linspace(-8, 8, 1601)

    def law(weights: np.ndarray) -> np.ndarray:
        kept = weights > 1e-9
        return norm.cdf((score[:, None] - RHO * place[kept]) / spread) @ weights[kept]

    theirs = law(grid.weights * procedure.g(grid.u, grid.s))
    ours = law(grid.weights * found.f * procedure.g(found.F, found.S))
    return float(np.diff(ours) @ (theirs[1:] + theirs[:-1]) / 2)


@pytest.mark.parametrize("procedure", [best_of_n(4), worst_of_n(4), sample()])
def test_where_the_judge_is_the_selector_it_is_that_of_theory(procedure: OfN) -> None:
    measured, exact = judge_ceiling(procedure, base_pool(300, 64, 1)), selector_ceiling(procedure)
    for kl in (0.1, 0.5, 1.0):
        assert exact.at(kl) == pytest.approx(solve(procedure, kl=kl).win_rate, abs=1e-9)
        assert measured.at(kl) == pytest.approx(exact.at(kl), abs=0.006)
        assert exact.of("identity", kl) == pytest.approx(win_rate(density("identity", kl), procedure).win, abs=1e-6)
        assert measured.of("exp:5", kl) == pytest.approx(exact.of("exp:5", kl), abs=0.006)
        assert exact.of("optimal", kl) == pytest.approx(exact.at(kl), abs=1e-6)


@pytest.mark.parametrize(("procedure", "transform"), [(best_of_n(4), "exp:10"), (worst_of_n(4), "exp:-10")])
def test_another_judge_is_predicted_from_the_base_pool(procedure: OfN, transform: str) -> None:
    measured = judge_ceiling(procedure, copula_pool(600, 64, RHO, 3))
    for name in ("identity", transform):
        assert measured.of(name, 0.5) == pytest.approx(copula_win_rate(procedure, name, 0.5), abs=0.012)
    assert measured.at(0.5) >= measured.of(transform, 0.5) - 1e-6
    assert measured.at(0.5) < selector_ceiling(procedure).at(0.5) - 0.03


def test_the_gains_that_a_selector_of_pair_accuracy_85_allows() -> None:
    """Theory's own numbers, by integrals: exp over identity at KL 0.5, in points."""
    best = copula_win_rate(best_of_n(4), "exp:10", 0.5) - copula_win_rate(best_of_n(4), "identity", 0.5)
    worst = copula_win_rate(worst_of_n(4), "exp:-10", 0.5) - copula_win_rate(worst_of_n(4), "identity", 0.5)
    assert 100 * best == pytest.approx(7.55, abs=0.05)
    assert 100 * worst == pytest.approx(4.04, abs=0.05)


def test_more_kl_allows_more_and_none_allows_nothing() -> None:
    measured = judge_ceiling(best_of_n(2), copula_pool(100, 32, RHO, 4))
    found = [measured.at(kl) for kl in (0.0, 0.01, 0.1, 0.5, 1.0, 2.0)]
    assert found[0] == 0.5
    assert all(low < high for low, high in pairwise(found))
    assert found[-1] < measured.at(100.0) == measured.top


def test_a_judge_that_the_selector_does_not_know_allows_nothing() -> None:
    constant = np.zeros((20, 16))
    u = np.random.default_rng(0).random((20, 16))
    assert judge_ceiling(best_of_n(4), pool(u, constant, constant)).at(1.0) == pytest.approx(0.5, abs=1e-6)


def test_a_warning_needs_more_than_the_intervals() -> None:
    ceiling = selector_ceiling(best_of_n(4))
    kl = Estimate(mean=0.5, low=0.45, high=0.55, n=100)
    most = ceiling.at(0.55)
    assert not exceeds(ceiling, Estimate(mean=most + 0.02, low=most - 0.001, high=0.99, n=100), kl)
    assert exceeds(ceiling, Estimate(mean=most + 0.02, low=most + 0.001, high=0.99, n=100), kl)
    assert exceeds(ceiling, Estimate(mean=most + 0.02, low=None, high=None, n=1), kl)
    assert not exceeds(ceiling, Estimate.empty(), kl)


def test_pools_that_are_too_small() -> None:
    with pytest.raises(InputError, match=r"worst-of-n:4 needs 8 answers of the base model.*--base-m"):
        ceilings({"worst-of-n:4": worst_of_n(4)}, base_pool(5, 7, 0), judged_by_selector=False)
    assert ceilings({"worst-of-n:4": worst_of_n(4)}, base_pool(5, 7, 0), judged_by_selector=True)


def test_a_solver_that_does_not_get_there_leaves_the_loosest_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge_ceiling(best_of_n(4), copula_pool(100, 32, RHO, 4))
    assert found.at(2.0) < found.top
    monkeypatch.setattr("inferalign.theory.ascent.MOST", 1)
    assert found.at(2.5) == found.top
