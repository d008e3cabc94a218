from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inferalign.agency.permutation import DRAWS, EXACT, enough_draws, holm, sign_flip_p, sign_flip_ps
from inferalign.core.errors import ScoringError


def test_sign_flips_by_hand() -> None:
    """1, 2, 3 add up to 6: of 8 patterns only +++ and --- reach it. 1, 1, -1 to 1: all 8 do."""
    assert sign_flip_p([1, 2, 3], seed=0) == 2 / 8
    assert sign_flip_p([1, 1, -1], seed=0) == 1.0


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_sign_flips_equal_plain_enumeration(sums: list[int]) -> None:
    totals = [
        sum(sign * value for sign, value in zip(signs, sums, strict=True))
        for signs in product((1, -1), repeat=len(sums))
    ]
    expected = np.mean([abs(total) >= abs(sum(sums)) for total in totals])
    assert sign_flip_p(sums, seed=0) == pytest.approx(expected)
    assert sign_flip_p([-value for value in sums], seed=0) == pytest.approx(expected)


def test_rounding_does_not_break_ties() -> None:
    """.1 + .2 is not .3 in floating point, but the pattern that gives it ties."""
    assert sign_flip_p([0.1, 0.2, 0.3, 0.6], seed=0) == sign_flip_p([1, 2, 3, 6], seed=0)


def test_random_signs_agree_with_all_of_them() -> None:
    sums = np.random.default_rng(2).normal(0.4, 1, size=EXACT)
    exact = sign_flip_p(sums, seed=0)
    # A second, tiny cluster takes it over the limit and does not change the answer but by chance.
    sampled = sign_flip_p([*sums, 1e-300], seed=3, draws=20_000)
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
    assert sampled == sign_flip_p([*sums, 1e-300], seed=3, draws=20_000)
    assert sampled != sign_flip_p([*sums, 1e-300], seed=4, draws=20_000)


def test_the_smallest_p_of_random_signs_is_not_zero() -> None:
    assert sign_flip_p(np.ones(200), seed=0, draws=999) == 1 / 1000


def test_clusters_without_a_difference_do_not_count() -> None:
    assert sign_flip_p([0.0] * 50, seed=0) == 1.0
    assert sign_flip_p([1, 2, 3, *[0.0] * 40], seed=0) == 2 / 8
    with pytest.raises(ScoringError):
        sign_flip_p([], seed=0)


def test_the_level_is_kept() -> None:
    """Skewed symmetric nulls: a difference of two draws from one skewed distribution. 400 tests at 10 %."""
    rng = np.random.default_rng(6)
    p = [sign_flip_p(rng.exponential(size=12) - rng.exponential(size=12), seed=0) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.045)


def test_tests_on_the_same_clusters_share_their_signs() -> None:
    """Exact rows, rows of zeros and random rows together give what each gives alone."""
    rng = np.random.default_rng(8)
    rows = np.vstack([np.zeros(40), rng.normal(0.2, 1, size=(3, 40)), np.pad([1.0, 2.0, 3.0], (0, 37))])
    assert sign_flip_ps(rows, seed=4) == pytest.approx([sign_flip_p(row, seed=4) for row in rows])
    assert sign_flip_ps(rows, seed=4)[::4] == [1.0, 2 / 8]


def test_more_draws_are_made_where_few_patterns_reach() -> None:
    """200 equal clusters are reached by no pattern, noise by many; the exact p between them by the normal tail."""
    rng = np.random.default_rng(9)
    noise = rng.normal(size=200)
    between = np.where(np.arange(200) < 124, 1.0, -1.0)  # 48 more + than -: p = P(|2 Bin(200, 1/2) - 200| >= 48)
    clear, unclear, middle = sign_flip_ps([np.ones(200), noise, between], seed=1, draws=99_999)
    assert clear == 1 / 100_000
    assert unclear == sign_flip_p(noise, seed=1, draws=DRAWS) > 0.01
    exact = 2 * stats.binom.sf(123, 200, 0.5)
    assert middle == pytest.approx(exact, abs=5 * np.sqrt(exact / 100_000))
    assert middle * 100_000 == pytest.approx(round(middle * 100_000))


def test_draws_grow_with_the_family() -> None:
    assert enough_draws(6) == enough_draws(100) == DRAWS
    assert holm([1 / (enough_draws(1140) + 1)] * 1140)[0] == pytest.approx(0.01)


def test_holm_by_hand() -> None:
    """.01 x 4; .03 x 2 after .02 x 3; .04 x 1 is under .06 and takes it over."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.5))
def test_holm_equals_the_step_down_procedure(p_values: list[float], alpha: float) -> None:
    rejected: set[int] = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - step) > alpha:
            break
        rejected.add(index)
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected
    assert all(q >= p for p, q in zip(p_values, adjusted, strict=True))
