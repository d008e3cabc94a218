"""KL and win rates of policies: closed forms, brute-force sums, Monte Carlo, published orderings, refusals.

The brute force shares no code with the grid: plain trapezoids on 400,000 points, even in the logit of u.
"""

import math
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.theory.grid import Grid, default_grid
from inferalign.theory.policies import Policy, beta_for_kl, from_log_weights, output, policy, win_rate, win_rate_plain
from inferalign.theory.procedures import OfN, best_of_n, sample, worst_of_n
from inferalign.theory.transforms import Exponential, Identity, Log, Power, Tabulated, Transform

GRID = default_grid()
TRANSFORMS = [Identity(), Log(), *map(Exponential, (5.0, 10, 100, -5, -10, -100)), *map(Power, (7.0, 127, -7, -63))]
KLS = (0.05, 0.5, 1.0, 2.0, 5.0)
DRAWS = (1, 2, 4, 16, 64)


@lru_cache
def logit_points() -> tuple[NDArray[np.float64], ...]:
    """(u, 1 - u, du) of trapezoids in y with u = 1 / (1 + e^-y), |y| <= 34."""
    y = np.linspace(-34, 34, 400_001)
    u, s = 1 / (1 + np.exp(-y)), 1 / (1 + np.exp(y))
    return u, s, u * s * (y[1] - y[0])


def printed(transform: Transform, u: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normalised form, written again from its text; powers of 1 - u from s."""
    kind, _, number = transform.name.partition(":")
    t = float(number or 0)
    if kind == "identity":
        return -s
    if kind == "log":
        return np.where(s < 0.1, np.log1p(-s), np.log(u))
    if kind == "power":
        return u**t if t > 0 else -(s**-t)
    return np.exp(-t * s) if t > 0 else -np.exp(t * u)


def brute(transform: Transform, beta: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """F, 1 - F and KL at the logit points."""
    u, s, du = logit_points()
    a = printed(transform, u, s) / beta
    mass = np.exp(a - a.max()) * du
    mass /= mass.sum()
    below = np.minimum(np.cumsum(mass) - mass / 2, 1.0)
    above = np.cumsum(mass[::-1])[::-1] - mass / 2
    held = mass > 0
    return below, above, float(np.sum(mass[held] * np.log(mass[held] / du[held])))


def brute_losing(below: NDArray[np.float64], above: NDArray[np.float64], selection: OfN) -> float:
    u, s, du = logit_points()
    n = selection.n
    if selection.keeps == "best":
        return float(np.sum(below**n * n * u ** (n - 1) * du))
    with np.errstate(divide="ignore"):  # log 0 where nothing lies above
        return float(np.sum(-np.expm1(n * np.log1p(-below)) * n * s ** (n - 1) * du))


def both(n: int) -> tuple[OfN, OfN]:
    return best_of_n(n), worst_of_n(n)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_win_rates_equal_brute_force(transform: Transform) -> None:
    """1e-6 absolute, over N 1 to 64 and KL .05 to 5; losing rates down to 1e-12 to 1e-4 of themselves.

    The relative bound is the trapezoids' own, at truncations a hundredth of their place wide.
    """
    for kl in KLS:
        beta = beta_for_kl(transform, kl, GRID)
        below, above, brute_kl = brute(transform, beta)
        ours = policy(transform, beta, GRID)
        assert ours.kl == pytest.approx(kl, abs=1e-10)
        assert brute_kl == pytest.approx(kl, abs=1e-6)
        for selection in (s for n in DRAWS for s in both(n)):
            losing = brute_losing(below, above, selection)
            got = win_rate(ours, selection)
            assert got.lose == pytest.approx(losing, rel=0, abs=1e-6)
            assert got.win + got.lose == pytest.approx(1, abs=1e-10)
            if losing > 1e-12:
                assert got.lose == pytest.approx(losing, rel=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_losing_rates_have_converged(transform: Transform) -> None:
    """A grid four times as fine changes no losing rate above 1e-12 by more than a millionth of itself, N = 1024 too."""
    fine = Grid.graded(cap=1 / 256, ratio=1.5)
    for kl in KLS:
        ours, finer = (policy(transform, beta_for_kl(transform, kl, grid), grid) for grid in (GRID, fine))
        for selection in (s for n in (*DRAWS, 1024) for s in both(n)):
            reference = win_rate(finer, selection)
            if reference.lose > 1e-12:
                assert win_rate(ours, selection).lose == pytest.approx(reference.lose, rel=1e-6)


@pytest.mark.parametrize("beta", [0.02, 0.1, 0.5, 3.0])
def test_identity_under_sampling_has_a_closed_form(beta: float) -> None:
    p = policy(Identity(), beta, GRID)
    win = 1 / -math.expm1(-1 / beta) - beta
    assert win_rate_plain(p).win == pytest.approx(win, abs=1e-9)
    assert p.kl == pytest.approx(win / beta - math.log(beta) - 1 / beta - math.log(-math.expm1(-1 / beta)), abs=1e-9)
    np.testing.assert_allclose(p.F, np.expm1(p.grid.u / beta) / math.expm1(1 / beta), rtol=1e-9)


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("n", [1, 4, 64])
def test_log_wins_a_share_that_no_n_changes(beta: float, n: int) -> None:
    """F = u^a with a = 1 + 1/beta: W = a / (a + 1) under best-of-N for every N, KL = log a - 1 + 1/a."""
    p, a = policy(Log(), beta, GRID), 1 + 1 / beta
    assert win_rate(p, best_of_n(n)) == pytest.approx((a / (a + 1), 1 / (a + 1)), abs=1e-9)
    assert p.kl == pytest.approx(math.log(a) - 1 + 1 / a, abs=1e-9)


@pytest.mark.parametrize("m", [2, 5, 32])
def test_distilled_best_of_m_is_the_log_family(m: int) -> None:
    """The output law of best-of-M on the reference has KL log M - (M - 1)/M and wins M/(M + 1)."""
    reference = from_log_weights(np.zeros_like(GRID.u), GRID)
    distilled = output(reference, best_of_n(m))
    assert reference.kl == 0
    assert distilled.kl == pytest.approx(math.log(m) - (m - 1) / m, abs=1e-10)
    assert win_rate_plain(distilled).win == pytest.approx(m / (m + 1), abs=1e-10)
    same = policy(Log(), 1 / (m - 1), GRID)
    assert same.kl == pytest.approx(distilled.kl, abs=1e-9)


def test_the_output_law_of_any_policy() -> None:
    """Its CDF is G(F), and its plain win rate against the reference's output law is the win rate."""
    p = policy(Exponential(10), beta_for_kl(Exponential(10), 0.5, GRID), GRID)
    for selection in both(4):
        out = output(p, selection)
        np.testing.assert_allclose(out.F, selection.G(p.F, p.S), atol=1e-9)
        theirs = p.grid.integrate(selection.g(p.grid.u, p.grid.s) * out.S)
        assert theirs == pytest.approx(win_rate(p, selection).win, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_small_kl(n: int) -> None:
    """W - 1/2 is N sqrt(KL / (2 (4N - 1))) to first order, for the one-shot transform of either procedure."""
    kl = 1e-6
    for selection, transform in zip(both(n), (Power(2 * n - 1), Power(1 - 2 * n)), strict=True):
        p = policy(transform, beta_for_kl(transform, kl, GRID), GRID)
        gain = win_rate(p, selection).win - 0.5
        assert gain == pytest.approx(n * math.sqrt(kl / (2 * (4 * n - 1))), rel=0.01)


def optimum(selection: OfN, beta: float) -> Policy:
    """The fixed point log f = Phi[F] / beta by plain damped steps; slow and simple on purpose."""
    density = selection.g(GRID.u, GRID.s)
    bound = (selection.n - 1) * (1 - 1 / selection.n) ** (selection.n - 1)
    eta = beta / (beta + bound) if selection.g_increasing else 1.0
    p = from_log_weights(np.zeros_like(GRID.u), GRID)
    for _ in range(400 if selection.g_increasing else 60):
        image = -GRID.tail(selection.g(p.F, p.S) * density) / beta
        p = from_log_weights((1 - eta) * p.log_f + eta * image, GRID)
    return p


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_optimum_keeps_its_identities(n: int) -> None:
    """By parts of (log f)' = g(F) g(u) / beta, true at the exact optimum alone."""
    beta = 0.1
    best, worst = optimum(best_of_n(n), beta), optimum(worst_of_n(n), beta)
    top, bottom = best.f[-1], worst.f[0]
    win, lose = win_rate(best, best_of_n(n))
    assert win == pytest.approx(beta / n * (top - 1), abs=1e-6)
    assert lose == pytest.approx(beta / n * (math.log(top) - best.kl), abs=1e-6)
    assert best.kl == pytest.approx(top - 1 + math.log(top) - n / beta, abs=1e-4)
    win, lose = win_rate(worst, worst_of_n(n))
    assert lose == pytest.approx(beta / n * (1 - bottom), abs=1e-6)
    assert win == pytest.approx(beta / n * (worst.kl - worst.log_f[0]), abs=1e-6)


def test_wins_equal_monte_carlo() -> None:
    """Contests drawn one by one, N draws a side: within five standard errors."""
    rng = np.random.default_rng(2024)
    contests = 100_000
    for transform, kl in ((Exponential(10), 1.0), (Exponential(-10), 0.5), (Log(), 0.5), (Identity(), 1.0)):
        p = policy(transform, beta_for_kl(transform, kl, GRID), GRID)
        for selection in both(3):
            draws = np.interp(rng.random((contests, 3)), p.F, p.grid.u)
            others = rng.random((contests, 3))
            keep = np.max if selection.keeps == "best" else np.min
            seen = float(np.mean(keep(draws, axis=1) > keep(others, axis=1)))
            exact = win_rate(p, selection)
            assert abs(seen - exact.win) < 5 * math.sqrt(exact.win * exact.lose / contests)


def test_the_order_of_transforms_for_each_procedure() -> None:
    """Percent, as derived twice independently: best-of-4 at KL 1, worst-of-4 at KL .5, sampling at KL 1."""

    def percent(transform: Transform, selection: OfN, kl: float) -> float:
        return round(100 * win_rate(policy(transform, beta_for_kl(transform, kl, GRID), GRID), selection).win, 2)

    best = [percent(t, best_of_n(4), 1) for t in (Log(), Identity(), Exponential(5), Power(7), Exponential(10))]
    assert best == [86.31, 87.70, 91.92, 92.84, 93.51]
    increasing = (Exponential(10), Identity(), Log(), Exponential(-5), Power(-7), Exponential(-10))
    worst = [percent(t, worst_of_n(4), 0.5) for t in increasing]
    assert worst == [67.63, 88.60, 92.70, 94.39, 94.75, 94.76]
    assert [percent(t, sample(), 1) for t in (Exponential(10), Identity())] == [80.10, 86.46]


@settings(max_examples=40, deadline=None)
@given(
    transform=st.sampled_from(TRANSFORMS),
    kl=st.floats(0.02, 6),
    n=st.integers(1, 1024),
    worst=st.booleans(),
)
def test_bounds_of_every_policy(transform: Transform, kl: float, n: int, worst: bool) -> None:
    beta = beta_for_kl(transform, kl, GRID)
    p = policy(transform, beta, GRID)
    selection = worst_of_n(n) if worst else best_of_n(n)
    got = win_rate(p, selection)
    assert p.kl == pytest.approx(kl, rel=1e-9)
    assert 0.5 <= got.win <= 1 + 1e-12  # an increasing transform never loses
    assert 0 <= got.lose <= 0.5
    assert got.win + got.lose == pytest.approx(1, abs=1e-9)
    assert np.all(np.diff(p.F) >= -1e-15)
    assert np.all(np.diff(p.S) <= 1e-15)
    np.testing.assert_allclose(p.F + p.S, 1, atol=1e-12)


def test_integrals_of_polynomials_are_exact() -> None:
    for power in range(8):
        y = GRID.u**power
        assert GRID.integrate(y) == pytest.approx(1 / (power + 1), rel=1e-14)
        # within the first panel a high power of u is a sum that cancels: there to 1e-3 of itself
        for rows, rtol in ((slice(None), 1e-3), (slice(8, None), 1e-12)):
            exact = GRID.u ** (power + 1) / (power + 1)
            np.testing.assert_allclose(GRID.cumulative(y)[rows], exact[rows], rtol=rtol)
            np.testing.assert_allclose(
                GRID.tail(GRID.s**power)[::-1][rows], GRID.s[::-1][rows] ** (power + 1) / (power + 1), rtol=rtol
            )
    np.testing.assert_allclose(GRID.cumulative(-GRID.u), -(GRID.u**2) / 2, rtol=1e-12)


def test_halving_keeps_the_rest() -> None:
    marked = np.zeros(GRID.u.size // 8, dtype=bool)
    marked[[3, -2]] = True
    finer = GRID.halved(marked)
    assert finer.u.size == GRID.u.size + 16
    assert np.all(np.diff(finer.u) > 0)
    assert np.isin(GRID.s[32:-16], finer.s).all()
    assert finer.integrate(np.ones_like(finer.u)) == pytest.approx(1, abs=1e-14)


def test_values_at_nodes_make_the_same_policy() -> None:
    transform = Exponential(5)
    values = transform.from_top(GRID.u, GRID.s)
    beta = beta_for_kl(transform, 1.0, GRID)
    assert beta_for_kl(values, 1.0, GRID) == pytest.approx(beta, rel=1e-9)
    table = Tabulated(GRID, values)
    assert win_rate(policy(table, beta, GRID), best_of_n(4)) == pytest.approx(
        win_rate(policy(transform, beta, GRID), best_of_n(4)), abs=1e-9
    )


@pytest.mark.parametrize("kl", [0.0, -1.0, float("nan"), 25.0])
def test_kl_that_no_policy_has(kl: float) -> None:
    with pytest.raises(InputError, match="cannot be reached with identity: give a KL above 0 and below 20"):
        beta_for_kl(Identity(), kl, GRID)


def test_a_flat_top_bounds_kl() -> None:
    """Flat above u = 3/4: KL stays below log 4."""
    values = np.minimum(GRID.u - 0.75, 0.0)
    assert policy(values, beta_for_kl(values, 1.38, GRID), GRID).kl == pytest.approx(1.38)
    with pytest.raises(InputError, match=r"below 1\.38"):
        beta_for_kl(values, 1.39, GRID)
    with pytest.raises(InputError, match="cannot be reached with power:-2047"):
        beta_for_kl(Power(-2047), 2.0, GRID)


@pytest.mark.parametrize("beta", [0.0, -1.0, 1e-320, float("nan"), float("inf")])
def test_beta_must_be_positive(beta: float) -> None:
    with pytest.raises(InputError, match="expected a positive number"):
        policy(Identity(), beta, GRID)
