"""Selection densities, and everything on tied rewards against enumeration of every tuple of draws."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferalign.core.errors import InputError, UnknownName
from inferalign.theory.grid import default_grid
from inferalign.theory.procedures import (
    OfN,
    best_of_n,
    parse_selection,
    sample,
    tied_kl,
    tied_output,
    tied_policy,
    tied_reward,
    tied_win_rate,
    worst_of_n,
)

SMALL = [sample(), *(maker(n) for maker in (best_of_n, worst_of_n) for n in (2, 3))]
ALL_N = [maker(n) for maker in (best_of_n, worst_of_n) for n in (1, 2, 3, 4, 32, 64, 1024)]
LAWS = st.lists(st.integers(1, 9), min_size=4, max_size=4).map(lambda counts: np.array(counts) / sum(counts))


@pytest.mark.parametrize("selection", ALL_N, ids=lambda s: f"{s.keeps}:{s.n}")
def test_g_is_a_density_and_G_its_integral(selection: OfN) -> None:
    grid = default_grid()
    assert grid.integrate(selection.g(grid.u, grid.s)) == pytest.approx(1, abs=1e-12)
    with np.errstate(divide="ignore"):
        while (steep := grid.steep(np.log(selection.g(grid.u, grid.s)))).any():
            grid = grid.halved(steep)
    g = selection.g(grid.u, grid.s)
    assert grid.integrate(g) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(selection.G(grid.u, grid.s), grid.cumulative(g), atol=1e-12)
    np.testing.assert_allclose(selection.tail(grid.u, grid.s), grid.tail(g), atol=1e-12)
    increasing = bool(np.all(np.diff(g) >= 0))
    assert selection.g_increasing == increasing


@pytest.mark.parametrize("selection", ALL_N, ids=lambda s: f"{s.keeps}:{s.n}")
def test_small_values_keep_their_digits(selection: OfN) -> None:
    """Against exact fractions at q = 2^-40 and at s = 2^-40."""
    small = Fraction(1, 2**40)
    for q in (small, 1 - small, Fraction(1, 4)):
        kept = q if selection.keeps == "best" else 1 - q
        power, rest = float(kept**selection.n), float(1 - kept**selection.n)
        below, above = (power, rest) if selection.keeps == "best" else (rest, power)
        at = np.array(float(q)), np.array(float(1 - q))
        assert float(selection.G(*at)) == pytest.approx(below, rel=1e-12, abs=1e-300)
        assert float(selection.tail(*at)) == pytest.approx(above, rel=1e-12, abs=1e-300)


def test_the_ends() -> None:
    for selection in ALL_N:
        q = np.array([0.0, 1.0])
        np.testing.assert_array_equal(selection.G(q, 1 - q), [0, 1])
        np.testing.assert_array_equal(selection.tail(q, 1 - q), [1, 0])


@pytest.mark.parametrize("text", ["sample", "best-of-n:4", "worst-of-n:1024"])
def test_text_forms(text: str) -> None:
    assert parse_selection(text).name == text


def test_one_draw_is_sampling() -> None:
    assert parse_selection("best-of-n:1").name == parse_selection("worst-of-n:1").name == "sample"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("best-of-n:0", "N must be from 1 to 1024"),
        ("worst-of-n:5000", "N must be from 1 to 1024"),
        ("best-of-n", "for example `best-of-n:4`"),
        ("best-of-n:-3", "for example `best-of-n:4`"),
        ("best-of-4", "Did you mean 'best-of-n'"),
        ("sample:2", "Did you mean 'sample'"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_selection(text)


def test_rain_has_no_known_density() -> None:
    with pytest.raises(UnknownName, match="no selection density is known"):
        parse_selection("rain")


def enumerated_output(law: np.ndarray, selection: OfN) -> np.ndarray:
    """Every tuple of draws with its probability, and what the procedure keeps of it."""
    masses = np.zeros(law.size)
    keep = max if selection.keeps == "best" else min
    for draws in itertools.product(range(law.size), repeat=selection.n):
        masses[keep(draws)] += np.prod(law[list(draws)])
    return masses


@settings(max_examples=15)
@given(policy=LAWS, reference=LAWS)
@pytest.mark.parametrize("selection", SMALL, ids=lambda s: s.name)
def test_ties_equal_enumeration(policy: np.ndarray, reference: np.ndarray, selection: OfN) -> None:
    ours, theirs = (enumerated_output(law, selection) for law in (policy, reference))
    np.testing.assert_allclose(tied_output(policy, selection), ours, rtol=0, atol=1e-12)
    wins = sum(ours[i] * theirs[j] * ((i > j) + (i == j) / 2) for i in range(4) for j in range(4))
    got = tied_win_rate(policy, reference, selection)
    assert got.win == pytest.approx(wins, rel=0, abs=1e-12)
    assert got.lose == pytest.approx(1 - wins, rel=0, abs=1e-12)


def test_a_worked_tie() -> None:
    """A coin against a coin, the better of two draws: heads 3/4 each side, a draw half: 1/2. A sure head: 1 - 3/8."""
    coin, sure = [0.5, 0.5], [0.0, 1.0]
    assert tied_win_rate(coin, coin, best_of_n(2)) == pytest.approx((0.5, 0.5))
    assert tied_win_rate(sure, coin, best_of_n(2)) == pytest.approx((0.625, 0.375))
    np.testing.assert_allclose(tied_output(coin, worst_of_n(2)), [0.75, 0.25])
    assert tied_kl(sure, coin) == pytest.approx(np.log(2))


@given(policy=LAWS, reference=LAWS)
@pytest.mark.parametrize("selection", SMALL, ids=lambda s: s.name)
def test_the_tied_reward_is_the_derivative(policy: np.ndarray, reference: np.ndarray, selection: OfN) -> None:
    """Central differences along directions that keep the sum at 1."""
    reward, h = tied_reward(policy, reference, selection), 1e-5
    for j in range(1, 4):
        move = np.zeros(4)
        move[0], move[j] = -h, h
        ahead, behind = (tied_win_rate(policy + sign * move, reference, selection).win for sign in (1, -1))
        assert (ahead - behind) / (2 * h) == pytest.approx(reward[j] - reward[0], abs=1e-7)


def test_the_tied_policy_is_the_optimum() -> None:
    """Its value E[r] - beta KL is beta log Z, and every other law has less."""
    rng = np.random.default_rng(3)
    reference, values, beta = rng.dirichlet(np.ones(5)), rng.normal(size=5), 0.4
    best = tied_policy(values, beta, reference)

    def worth(law: np.ndarray) -> float:
        return float(law @ values) - beta * tied_kl(law, reference)

    assert worth(best) == pytest.approx(beta * np.log(reference @ np.exp(values / beta)), abs=1e-12)
    assert all(worth(rng.dirichlet(np.ones(5))) < worth(best) for _ in range(50))


def test_many_fine_levels_approach_the_continuum() -> None:
    """Identity at beta = .2 on 4,000 levels, against the closed forms of plain sampling."""
    beta, m = 0.2, 4000
    reference = np.full(m, 1 / m)
    policy = tied_policy((np.arange(m) + 0.5) / m, beta, reference)
    win = 1 / (1 - np.exp(-1 / beta)) - beta
    assert tied_win_rate(policy, reference, sample()).win == pytest.approx(win, abs=1e-6)
    assert tied_kl(policy, reference) == pytest.approx(win / beta - np.log(beta * np.expm1(1 / beta)), abs=1e-6)


@pytest.mark.parametrize(
    ("policy", "reference", "words"),
    [
        ([0.5, 0.6], [0.5, 0.5], "divide counts by their total"),
        ([1.5, -0.5], [0.5, 0.5], "none negative"),
        ([float("nan"), 1.0], [0.5, 0.5], "none negative"),
        ([1.0], [0.5, 0.5], "the same levels"),
        ([[1.0]], [0.5, 0.5], "one row"),
    ],
)
def test_laws_that_are_refused(policy: list[float], reference: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tied_win_rate(policy, reference, sample())


def test_mass_where_the_reference_has_none() -> None:
    with pytest.raises(InputError, match="KL is infinite"):
        tied_kl([0.5, 0.5], [1.0, 0.0])
    with pytest.raises(InputError, match="one a level"):
        tied_policy([1.0], 0.5, [0.5, 0.5])
