"""The order-statistics estimator against enumeration of all subsets, against simulation, and by its properties."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.theory.procedures import OfN, best_of_n, sample, tied_win_rate, worst_of_n
from inferalign.winrate.estimators import contests, order_weights, selection_weights, subset_share, win_rates

KEYS = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=4, max_size=6)
PROCEDURES = st.builds(OfN, st.sampled_from(["best", "worst"]), st.integers(1, 4))


def enumerated_weights(keys: list[float], procedure: OfN) -> list[Fraction]:
    """The share of all N-subsets in which each answer is kept, ties broken evenly."""
    found = [Fraction(0)] * len(keys)
    subsets = list(combinations(range(len(keys)), procedure.n))
    for subset in subsets:
        values = [keys[i] for i in subset]
        kept = max(values) if procedure.keeps == "best" else min(values)
        winners = [i for i in subset if keys[i] == kept]
        for i in winners:
            found[i] += Fraction(1, len(winners) * len(subsets))
    return found


def enumerated_win_rate(
    ours: list[float], judged: list[float], theirs: list[float], their_judged: list[float], procedure: OfN
) -> float:
    total = Fraction(0)
    for i, a in enumerate(enumerated_weights(ours, procedure)):
        for j, b in enumerate(enumerated_weights(theirs, procedure)):
            outcome = Fraction(int(judged[i] > their_judged[j])) + Fraction(int(judged[i] == their_judged[j]), 2)
            total += a * b * outcome
    return float(total)


def test_a_worked_example() -> None:
    # Pairs of {1, 2, 3}: the best is 2 once and 3 twice, the worst is 1 twice and 2 once.
    assert selection_weights([3.0, 1.0, 2.0], best_of_n(2)) == pytest.approx([2 / 3, 0, 1 / 3])
    assert selection_weights([3.0, 1.0, 2.0], worst_of_n(2)) == pytest.approx([0, 2 / 3, 1 / 3])
    # Against {1.5, 2.5, 0}, best of 2: kept 2.5 with 2/3 and 1.5 with 1/3.
    (rate,) = win_rates([3, 1, 2], [3, 1, 2], [1.5, 2.5, 0], [1.5, 2.5, 0], [best_of_n(2)])
    assert rate == pytest.approx(2 / 3 + 1 / 3 * 1 / 3)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_published_weights(n: int) -> None:
    m = 8
    assert order_weights(m, best_of_n(n)) == pytest.approx([comb(i - 1, n - 1) / comb(m, n) for i in range(1, m + 1)])
    assert order_weights(m, worst_of_n(n)) == pytest.approx([comb(m - i, n - 1) / comb(m, n) for i in range(1, m + 1)])


@given(KEYS, PROCEDURES)
def test_weights_are_those_of_all_subsets(keys: list[float], procedure: OfN) -> None:
    found = selection_weights(keys, procedure)
    assert found == pytest.approx([float(share) for share in enumerated_weights(keys, procedure)], abs=1e-12)
    assert found.sum() == pytest.approx(1)


@given(KEYS, KEYS, PROCEDURES)
def test_win_rates_are_those_of_all_pairs_of_subsets(ours: list[float], theirs: list[float], procedure: OfN) -> None:
    judged, their_judged = [*ours[2:], *ours[:2]], [*theirs[1:], theirs[0]]  # a judge that is not the selector
    (found,) = win_rates(ours, judged, theirs, their_judged, [procedure])
    assert found == pytest.approx(enumerated_win_rate(ours, judged, theirs, their_judged, procedure), abs=1e-12)


@given(KEYS, KEYS, PROCEDURES)
def test_both_sides_add_up_to_one(ours: list[float], theirs: list[float], procedure: OfN) -> None:
    (won,) = win_rates(ours, ours, theirs, theirs, [procedure])
    (lost,) = win_rates(theirs, theirs, ours, ours, [procedure])
    assert won + lost == pytest.approx(1)
    assert 0 <= won <= 1 + 1e-12


@given(KEYS, PROCEDURES)
def test_only_order_counts(keys: list[float], procedure: OfN) -> None:
    moved = [key if key == -np.inf else np.exp(key) + 7 for key in keys]
    assert selection_weights(moved, procedure) == pytest.approx(selection_weights(keys, procedure))


@pytest.mark.parametrize("procedure", [sample(), best_of_n(3), worst_of_n(3)])
def test_pools_estimate_without_bias(procedure: OfN) -> None:
    """Levels with known masses: the mean over many small pools is the exact tied win rate."""
    draws = np.random.default_rng(5)
    policy, base = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1])
    found = [
        win_rates(ours, ours, theirs, theirs, [procedure])[0]
        for ours, theirs in zip(
            draws.choice(4, size=(6000, 5), p=policy), draws.choice(4, size=(6000, 5), p=base), strict=True
        )
    ]
    exact = tied_win_rate(policy, base, procedure).win
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize("procedure", [best_of_n(3), worst_of_n(3)])
def test_selector_and_judge_apart_against_simulated_selection(procedure: OfN) -> None:
    """A selector that sees the judge's score through noise: pools against contests that are really run."""
    draws = np.random.default_rng(6)

    def pool(shape: tuple[int, int], shift: float) -> tuple[np.ndarray, np.ndarray]:
        judged = draws.normal(size=shape) + shift
        return judged + draws.normal(size=shape), judged

    def kept(shift: float) -> np.ndarray:
        selector, judged = pool((200_000, procedure.n), shift)
        place = selector.argmax(axis=1) if procedure.keeps == "best" else selector.argmin(axis=1)
        return judged[np.arange(len(place)), place]

    simulated = (kept(0.5) > kept(0.0)).mean()
    found = [
        win_rates(*(row for side in (ours, theirs) for row in side), [procedure])[0]
        for ours, theirs in (
            (tuple(a[0] for a in pool((1, 9), 0.5)), tuple(a[0] for a in pool((1, 9), 0.0))) for _ in range(3000)
        )
    ]
    assert abs(np.mean(found) - simulated) < 4 * (np.std(found) / np.sqrt(len(found)) + 0.5 / np.sqrt(200_000))


def test_answers_to_blame_lose_to_every_score_and_tie_with_their_like() -> None:
    bad, fair = -np.inf, -1e300
    assert contests([bad, fair], [bad, fair]) == pytest.approx(np.array([[0.5, 0], [1, 0.5]]))
    # Worst of 2 keeps one of the two to blame unless its pair has none; best of 2 only if it has nothing else.
    assert selection_weights([bad, bad, fair], worst_of_n(2)) == pytest.approx([0.5, 0.5, 0])
    assert selection_weights([bad, bad, fair], best_of_n(2)) == pytest.approx([1 / 6, 1 / 6, 2 / 3])


def test_large_pools_do_not_overflow() -> None:
    weights = order_weights(4000, best_of_n(1024))
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)
    assert subset_share(3999, 4000, 1024) == pytest.approx(1 - 1024 / 4000)


def test_what_cannot_be_used() -> None:
    with pytest.raises(InputError, match=r"3 answers are too few for best-of-n:4: draw a pool of 4"):
        selection_weights([1, 2, 3], best_of_n(4))
    with pytest.raises(InputError, match="without NaN"):
        contests([1, np.nan], [1, 2])
