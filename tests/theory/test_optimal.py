"""The optimal transform: published-style tables, identities that hold only at the optimum, other ways to reach it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.theory import optimal
from inferalign.theory.ascent import ascend, ascend_at_kl
from inferalign.theory.direct import climb
from inferalign.theory.grid import Grid, default_grid
from inferalign.theory.newton import TIGHT, influence, newton
from inferalign.theory.optimal import Optimum, Unconverged, solve
from inferalign.theory.policies import Policy, beta_for_kl, policy, win_rate
from inferalign.theory.procedures import Selection, best_of_n, sample, worst_of_n
from inferalign.theory.shooting import shoot
from inferalign.theory.transforms import Exponential, Identity, Transform, one_shot

TABLE = [
    # (procedure, KL, win rate in percent, beta), from an independent solver
    (sample(), 0.1, 62.78, 0.6259),
    (sample(), 1.0, 86.46, 0.1361),
    (sample(), 5.0, 99.75, 0.002479),
    (best_of_n(2), 0.1, 65.93, 0.7342),
    (best_of_n(2), 0.5, 81.56, 0.234),
    (best_of_n(2), 2.0, 96.36, 0.0368),
    (best_of_n(4), 0.1, 70.59, 0.8798),
    (best_of_n(4), 0.5, 87.33, 0.2166),
    (best_of_n(4), 1.0, 94.11, 0.08305),
    (best_of_n(4), 2.0, 98.38, 0.01957),
    (best_of_n(4), 5.0, 99.94, 0.0006093),
    (worst_of_n(2), 0.5, 86.03, 0.2805),
    (worst_of_n(2), 1.0, 94.86, 0.1028),
    (worst_of_n(4), 0.1, 73.74, 1.147),
    (worst_of_n(4), 0.5, 94.79, 0.2084),
    (worst_of_n(4), 1.0, 99.29, 0.02821),
]
LOSING = [
    (sample(), 10.0, 1.67e-5),
    (best_of_n(2), 5.0, 1.82e-3),
    (best_of_n(2), 10.0, 1.23e-5),
    (best_of_n(4), 2.0, 1.62e-2),
    (best_of_n(4), 10.0, 3.42e-6),
    (worst_of_n(2), 5.0, 1.72e-5),
    (worst_of_n(2), 10.0, 7.83e-10),
    (worst_of_n(4), 2.0, 1.29e-4),
    (worst_of_n(4), 5.0, 7.94e-10),
]
AT_BETA = [
    # (procedure, beta, win rate, KL), from three solvers that agree
    (best_of_n(2), 0.1, 0.907247, 1.096991),
    (best_of_n(2), 0.02, 0.980006, 2.595729),
    (best_of_n(4), 0.1, 0.931170, 0.890862),
    (best_of_n(4), 0.02, 0.983483, 1.983314),
    (worst_of_n(2), 0.1, 0.950000, 1.013609),
    (worst_of_n(4), 0.1, 0.975000, 0.683601),
    (worst_of_n(4), 0.02, 0.995000, 1.085960),
]
HARD = [
    (best_of_n(32), 1.0),
    (best_of_n(32), 10.0),
    (best_of_n(256), 0.01),
    (best_of_n(256), 1.0),
    (best_of_n(1024), 0.1),
    (worst_of_n(32), 0.5),
    (worst_of_n(256), 0.1),
    (worst_of_n(1024), 0.02),
]
"""Losing rates from 0.1 down to 2e-12, where damped iteration is slow or has no bracket."""


def named(value: object) -> str:
    return getattr(value, "name", str(value))


def its_policy(found: Optimum) -> Policy:
    return policy(found.transform, found.beta, found.transform.grid)


def log_f_top(found: Optimum) -> float:
    """log f(1): the transform is 0 there."""
    p = its_policy(found)
    return float(p.log_f[-1] - found.transform.values[-1] / found.beta)


def log_f_bottom(found: Optimum) -> float:
    """log f(0), the transform's value there by its slope g(F) g(u), which is g(0)^2."""
    p = its_policy(found)
    return float(p.log_f[0])


@pytest.mark.parametrize(("selection", "kl", "percent", "beta"), TABLE, ids=named)
def test_the_table_of_kl_and_win_rate(selection: Selection, kl: float, percent: float, beta: float) -> None:
    found = solve(selection, kl=kl)
    assert 100 * found.win_rate == pytest.approx(percent, abs=0.00501)
    assert found.beta == pytest.approx(beta, rel=6e-4)
    assert found.kl == pytest.approx(kl, rel=1e-10)
    assert not found.limiting
    assert found.residual <= TIGHT


@pytest.mark.parametrize(("selection", "kl", "losing"), LOSING, ids=named)
def test_the_table_of_losing_rates(selection: Selection, kl: float, losing: float) -> None:
    assert solve(selection, kl=kl).losing_rate == pytest.approx(losing, rel=4e-3)


@pytest.mark.parametrize(("selection", "beta", "win", "kl"), AT_BETA, ids=named)
def test_the_table_at_fixed_beta(selection: Selection, beta: float, win: float, kl: float) -> None:
    found = solve(selection, beta=beta)
    assert found.beta == pytest.approx(beta, rel=1e-12)
    assert found.win_rate == pytest.approx(win, abs=1e-6)
    assert found.kl == pytest.approx(kl, abs=1e-5)


def test_plain_sampling_in_closed_form() -> None:
    """W = 1 / (1 - e^(-1/beta)) - beta and KL = W / beta - log(beta (e^(1/beta) - 1)); the transform is x."""
    for beta in (2.0, 0.5, 0.1, 0.02):
        found = solve(sample(), beta=beta)
        win = 1 / (1 - math.exp(-1 / beta)) - beta
        assert found.win_rate == pytest.approx(win, abs=1e-12)
        assert found.kl == pytest.approx(win / beta - 1 / beta - math.log(beta * -math.expm1(-1 / beta)), abs=1e-11)
        np.testing.assert_allclose(found.transform.values, -found.transform.grid.s, atol=1e-13)


@pytest.mark.parametrize(("selection", "kl"), [*((s, k) for s, k, _, _ in TABLE), *HARD], ids=named)
def test_identities_that_hold_only_at_the_optimum(selection: Selection, kl: float) -> None:
    found = solve(selection, kl=kl)
    share = found.beta / (selection.n or 1)
    if selection.g_increasing:
        assert found.win_rate == pytest.approx(share * math.expm1(log_f_top(found)), abs=1e-6)
        assert found.losing_rate == pytest.approx(share * (log_f_top(found) - found.kl), rel=1e-6)
    else:
        assert found.losing_rate == pytest.approx(share * -math.expm1(log_f_bottom(found)), rel=1e-6)
        assert found.win_rate == pytest.approx(share * (found.kl - log_f_bottom(found)), abs=1e-6)


@pytest.mark.parametrize(("selection", "beta", "win", "kl"), AT_BETA, ids=named)
def test_mirror_ascent_and_shooting_agree(selection: Selection, beta: float, win: float, kl: float) -> None:
    found, shot = solve(selection, beta=beta), shoot(selection, beta)
    climbed = ascend(selection, beta, default_grid())
    assert shot.win_rate == pytest.approx(found.win_rate, abs=1e-9)
    assert shot.kl == pytest.approx(found.kl, abs=1e-9)
    assert win_rate(climbed.policy, selection).win == pytest.approx(found.win_rate, abs=1e-9)
    assert climbed.policy.kl == pytest.approx(found.kl, abs=1e-8)
    assert climbed.iterations < 1500


@pytest.mark.parametrize(
    ("selection", "kl"),
    [
        (best_of_n(32), 1.0),
        (best_of_n(256), 0.01),
        (best_of_n(1024), 0.01),
        (worst_of_n(32), 0.5),
        (worst_of_n(1024), 0.02),
    ],
    ids=named,
)
def test_shooting_agrees_where_damping_is_slow_or_fails(selection: Selection, kl: float) -> None:
    found = solve(selection, kl=kl)
    shot = shoot(selection, found.beta)
    assert shot.win_rate == pytest.approx(found.win_rate, abs=1e-9)
    assert shot.kl == pytest.approx(found.kl, rel=1e-6)


def test_shooting_refuses_what_a_float_cannot_aim() -> None:
    with pytest.raises(Unconverged, match="not 1"):
        shoot(best_of_n(32), solve(best_of_n(32), kl=10.0).beta)


@pytest.mark.parametrize(("selection", "beta"), [(best_of_n(4), 0.1), (best_of_n(32), 0.1), (worst_of_n(4), 0.02)])
def test_direct_maximisation_comes_within_a_ten_thousandth_and_never_above(selection: Selection, beta: float) -> None:
    found, direct = solve(selection, beta=beta), climb(selection, beta)
    best = found.win_rate - beta * found.kl
    assert best - 1e-4 < direct.objective < best + 1e-9
    assert direct.masses.sum() == pytest.approx(1)
    assert direct.objective == pytest.approx(direct.win_rate - beta * direct.kl)


def test_ascent_at_fixed_kl_agrees() -> None:
    selection, grid = best_of_n(4), default_grid()
    density = selection.g(grid.u, grid.s)
    found = ascend_at_kl(lambda p: influence(selection, p, density), 1.0, grid)
    assert win_rate(found.policy, selection).win == pytest.approx(solve(selection, kl=1.0).win_rate, abs=1e-9)


@pytest.mark.parametrize("selection", [best_of_n(2), best_of_n(8), worst_of_n(2), worst_of_n(8)], ids=named)
@pytest.mark.parametrize("kl", [0.05, 0.5, 2.0])
def test_no_other_transform_wins_more_at_equal_kl(selection: Selection, kl: float) -> None:
    best = solve(selection, kl=kl)
    grid = best.transform.grid
    n = selection.n or 1
    sign = 1 if selection.g_increasing else -1
    others: list[Transform] = [Identity(), one_shot(selection), *(Exponential(sign * n * k) for k in (1, 2, 3, 5))]
    for other in others:
        rival = win_rate(policy(other, beta_for_kl(other, kl, grid), grid), selection)
        assert rival.lose >= best.losing_rate * (1 - 1e-9), other.name


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 64), best=st.booleans(), log_kl=st.floats(math.log(0.01), math.log(5.0)))
def test_the_optimum_is_increasing_stationary_and_beats_the_log_family(n: int, best: bool, log_kl: float) -> None:
    selection, kl = (best_of_n if best else worst_of_n)(n), math.exp(log_kl)
    found = solve(selection, kl=kl)
    p = its_policy(found)
    assert np.all(np.diff(found.transform.values) >= -1e-15)
    assert p.kl == pytest.approx(kl, rel=1e-9)
    assert found.win_rate + found.losing_rate == pytest.approx(1)
    assert found.limiting == (found.losing_rate < 1e-12)
    if best and not found.limiting:  # BoN distillation wins a / (a + 1) whatever N
        a = 1.0
        for _ in range(200):
            a = math.exp(kl + 1 - 1 / a)
        assert found.losing_rate < 1 / (a + 1) + 1e-12


def test_small_kl_is_the_one_shot_transform() -> None:
    """W = 1/2 + N sqrt(KL / (2 (4N - 1))) to first order, and the transform x^(2N-1) up to scale."""
    for n in (1, 2, 4, 32):
        found = solve(best_of_n(n), kl=1e-8)
        assert found.win_rate - 0.5 == pytest.approx(n * math.sqrt(1e-8 / (2 * (4 * n - 1))), rel=2e-2)
        shape = np.array(found.transform.values) * (2 * n - 1) / n**2
        np.testing.assert_allclose(1 + shape, found.transform.grid.u ** (2 * n - 1), atol=0.01)


def test_beta_and_kl_are_two_ways_to_ask_for_the_same() -> None:
    for selection in (best_of_n(8), worst_of_n(8)):
        by_kl = solve(selection, kl=0.7)
        by_beta = solve(selection, beta=by_kl.beta)
        assert by_beta.kl == pytest.approx(0.7, abs=1e-8)
        assert by_beta.win_rate == pytest.approx(by_kl.win_rate, abs=1e-10)
        assert by_beta.beta == pytest.approx(by_kl.beta, rel=1e-12)


def test_the_grid_does_not_matter() -> None:
    for selection in (best_of_n(4), worst_of_n(16)):
        fine = Grid.graded(cap=1 / 100, ratio=1.6, finest=1e-15)
        assert solve(selection, kl=0.6, grid=fine).win_rate == pytest.approx(
            solve(selection, kl=0.6).win_rate, abs=1e-9
        )


def test_the_limit_of_worst_of_n_is_a_scaled_copy() -> None:
    """Far in, spending d more nats squeezes the policy to the top e^-d: losing rate times e^(-N d), exactly."""
    for n in (2, 4, 8):
        near, far = solve(worst_of_n(n), kl=16 / n), solve(worst_of_n(n), kl=22 / n)
        assert far.losing_rate == pytest.approx(near.losing_rate * math.exp(-6), rel=1e-5)
    known = solve(worst_of_n(4), kl=5.0)
    limit = solve(worst_of_n(4), kl=10.0)
    assert limit.limiting
    assert not known.limiting
    assert limit.losing_rate == pytest.approx(known.losing_rate * math.exp(-20), rel=0.01)
    assert limit.beta == pytest.approx(known.beta * math.exp(-20), rel=1e-3)


@pytest.mark.parametrize(
    ("selection", "kl"),
    [
        (worst_of_n(32), 2.0),
        (worst_of_n(64), 0.5),
        (worst_of_n(1024), 10.0),
        (best_of_n(256), 2.0),
        (best_of_n(1024), 10.0),
        (best_of_n(64), 10.0),
    ],
    ids=named,
)
def test_the_limiting_form_is_marked_and_keeps_its_kl(selection: Selection, kl: float) -> None:
    found = solve(selection, kl=kl)
    assert found.limiting
    assert found.losing_rate < 1e-12
    assert found.win_rate == pytest.approx(1, abs=2e-12)
    assert found.kl == pytest.approx(kl, rel=1e-9)
    assert its_policy(found).kl == pytest.approx(kl, rel=1e-9)
    assert np.all(np.isfinite(found.transform.values))


def test_the_limiting_form_at_fixed_beta() -> None:
    by_kl = solve(worst_of_n(8), kl=4.5)
    by_beta = solve(worst_of_n(8), beta=by_kl.beta)
    assert by_beta.limiting
    assert by_beta.kl == pytest.approx(4.5, abs=0.01)
    assert by_beta.beta == pytest.approx(by_kl.beta, rel=1e-9)


def test_an_unconverged_answer_is_raised_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal, "_step", lambda *_, **__: None)
    with pytest.raises(Unconverged, match="could not be followed to KL"):
        solve(best_of_n(4), kl=0.5)
    with pytest.raises(Unconverged, match="could not be followed to beta"):
        solve(best_of_n(4), beta=0.1)
    monkeypatch.setattr(optimal, "newton", lambda *_, **__: None)
    with pytest.raises(Unconverged, match="near the reference"):
        solve(best_of_n(4), kl=0.5)


def test_newton_says_when_its_start_is_too_far() -> None:
    grid = default_grid()
    assert newton(best_of_n(64), grid, np.zeros_like(grid.u), 1e-9, kl=8.0) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "one of beta and kl"),
        ({"beta": 0.1, "kl": 0.5}, "one of beta and kl"),
        ({"kl": 0.0}, "KL 0"),
        ({"kl": -1.0}, "KL -1"),
        ({"kl": math.nan}, "KL nan"),
        ({"kl": 25.0}, "at most 20"),
        ({"beta": 0.0}, "beta is 0"),
        ({"beta": math.inf}, "beta is inf"),
        ({"beta": 1e-30}, "give a larger beta"),
    ],
)
def test_bad_questions(asked: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve(best_of_n(4), **asked)


def test_shooting_refuses_what_it_cannot_reach() -> None:
    with pytest.raises(InputError, match="positive"):
        shoot(best_of_n(4), 0.0)
    with pytest.raises(Unconverged, match="larger beta"):
        shoot(best_of_n(2), 1e-30)
