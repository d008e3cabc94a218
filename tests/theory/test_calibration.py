"""Calibration against counting by hand, and the properties that make it worth having."""

import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inferalign.core.errors import InputError
from inferalign.theory.calibration import Anchors, mid_rank, randomised, ranks, smoothed

LEVELS = st.integers(-3, 3).map(float)
"""Coarse on purpose: ties are the rule."""


def counted(score: float, anchors: list[float]) -> Fraction:
    """Eq. (12) of arXiv 2412.19792, one pairwise win at a time."""
    return Fraction(sum(2 * int(score > z) + int(score == z) for z in anchors), 2 * len(anchors))


def alike(reference: Any) -> Anchors:
    """Coarse draws may agree on every prompt, which only one prompt's batch may: equal ids say that it is one."""
    return Anchors.of(reference, ["x"] * len(reference))


def test_a_worked_example() -> None:
    """Anchors 1 2 2 5: 0 beats none, 1 ties one, 2 beats one and ties two, 3 beats three, 9 beats all."""
    scores, anchors = [[0, 1, 2, 3, 9]], [[2, 5, 1, 2]]
    np.testing.assert_array_equal(mid_rank(scores, anchors), [[0, 1 / 8, 2 / 4, 3 / 4, 1]])
    np.testing.assert_allclose(smoothed(scores, anchors), [[0.1, 0.2, 0.5, 0.7, 0.9]], rtol=1e-15)


@given(
    scores=arrays(float, (3, 5), elements=LEVELS),
    anchors=st.lists(st.lists(LEVELS, min_size=2, max_size=9), min_size=3, max_size=3),
)
def test_ragged_anchors_agree_with_counting(scores: np.ndarray, anchors: list[list[float]]) -> None:
    got = mid_rank(scores, alike(anchors))
    for row, candidates, reference in zip(got, scores, anchors, strict=True):
        np.testing.assert_allclose(row, [float(counted(c, reference)) for c in candidates], rtol=1e-15)


@settings(max_examples=30)
@given(k=st.integers(2, 140), seed=st.integers(0, 2**32 - 1), digits=st.integers(0, 3))
def test_ranks_agree_with_searchsorted(k: int, seed: int, digits: int) -> None:
    """Every K meets another width of the padded search, powers of two and their neighbours included."""
    rng = np.random.default_rng(seed)
    anchors, scores = rng.normal(size=(2, k)).round(digits), rng.normal(size=(2, 50)).round(digits)
    below, equal = ranks(scores, alike(anchors))
    for i in range(2):
        ordered = np.sort(anchors[i])
        np.testing.assert_array_equal(below[i], np.searchsorted(ordered, scores[i], "left"))
        np.testing.assert_array_equal(below[i] + equal[i], np.searchsorted(ordered, scores[i], "right"))


@given(
    scores=arrays(float, (2, 6), elements=LEVELS),
    anchors=arrays(float, (2, 7), elements=LEVELS),
    scales=arrays(float, (2, 1), elements=st.sampled_from([0.25, 1.0, 8.0])),
    offsets=arrays(float, (2, 1), elements=LEVELS),
)
def test_increasing_maps_of_each_prompt_change_nothing(
    scores: np.ndarray, anchors: np.ndarray, scales: np.ndarray, offsets: np.ndarray
) -> None:
    for form in (mid_rank, smoothed):
        expected = form(scores, alike(anchors))
        np.testing.assert_array_equal(form(scales * scores + offsets, alike(scales * anchors + offsets)), expected)
        np.testing.assert_array_equal(form(np.exp(scores), alike(np.exp(anchors))), expected)


@given(scores=arrays(float, (1, 8), elements=LEVELS), anchors=arrays(float, (1, 5), elements=LEVELS))
def test_order_and_bounds(scores: np.ndarray, anchors: np.ndarray) -> None:
    ordered = np.sort(scores)
    for form in (mid_rank, smoothed):
        assert np.all(np.diff(form(ordered, anchors)) >= 0)
    assert np.all((mid_rank(scores, anchors) >= 0) & (mid_rank(scores, anchors) <= 1))
    assert np.all((smoothed(scores, anchors) > 0) & (smoothed(scores, anchors) < 1))


@given(pool=st.lists(LEVELS, min_size=3, max_size=9))
def test_the_mean_over_fresh_reference_draws_is_one_half(pool: list[float]) -> None:
    """K + 1 exchangeable draws, each in turn the fresh one: the mean is 1/2 exactly, whatever ties."""
    rest = [pool[:i] + pool[i + 1 :] for i in range(len(pool))]
    fresh = [[score] for score in pool]
    ids = [str(i) for i in range(len(pool))]
    assert mid_rank(fresh, rest).mean() == pytest.approx(0.5, abs=1e-15)
    assert smoothed(fresh, rest).mean() == pytest.approx(0.5, abs=1e-15)
    assert np.all(randomised(fresh, rest, ids, seed=1) <= 1)


def test_ranks_of_fresh_draws_are_uniform() -> None:
    """Chi-square over the K + 1 places, 20,000 prompts, against its mean and five standard deviations."""
    k, prompts = 7, 20_000
    draws = np.random.default_rng(11).normal(size=(prompts, k + 1))
    below, equal = ranks(draws[:, :1], Anchors.of(draws[:, 1:]))
    seen = np.bincount(below.ravel(), minlength=k + 1)
    expected = prompts / (k + 1)
    assert not equal.any()
    assert ((seen - expected) ** 2 / expected).sum() < k + 5 * np.sqrt(2 * k)


def test_randomised_ties_fill_the_tie_and_nothing_else() -> None:
    anchors, scores = [[0.0, 1.0, 1.0, 1.0]], np.array([[1.0] * 4000 + [0.5]])
    got = randomised(scores, anchors, ["a"], seed=5)[0]
    assert got[-1] == 0.25
    ties = (got[:-1] - 0.25) / 0.75
    assert ties.min() >= 0
    assert ties.max() <= 1
    assert abs(ties.mean() - 0.5) < 5 / np.sqrt(12 * 4000)
    assert abs(ties.var() - 1 / 12) < 0.005


def test_randomised_ties_depend_on_the_prompt_and_the_seed_alone() -> None:
    scores, anchors = np.ones((2, 3)), np.ones((2, 4))
    both = randomised(scores, anchors, ["a", "b"], seed=1)
    swapped = randomised(scores, anchors, ["b", "a"], seed=1)
    np.testing.assert_array_equal(both, swapped[::-1])
    np.testing.assert_array_equal(both[:1], randomised(scores[:1], anchors[:1], ["a"], seed=1))
    assert not np.any(both == randomised(scores, anchors, ["a", "b"], seed=2))


def test_a_constant_reward_is_one_half() -> None:
    np.testing.assert_array_equal(mid_rank(np.zeros((4, 3)), np.zeros((4, 5))), np.full((4, 3), 0.5))


@pytest.mark.parametrize(
    ("scores", "anchors", "words"),
    [
        ([[1.0]], [[1.0]], "draw more rollouts"),
        ([[1.0], [1.0]], [[1.0, 2.0], [3.0]], "prompt 1 has too few"),
        ([[1.0]], [[]], "too few"),
        ([[float("nan")]], [[1.0, 2.0]], "candidate score 0 of prompt 0 is nan: leave out"),
        ([[1.0]], [[1.0, float("nan")]], "reference score 1 of prompt 0 is nan"),
        ([[1.0]], [[1.0, float("inf")]], "reference score 1 of prompt 0 is inf"),
        ([[1.0], [2.0]], [1.0, 2.0, 3.0], "rollouts drawn for that prompt"),
        ([[1.0], [2.0]], [[1.0, 2.0, 3.0]], "rollouts drawn for that prompt"),
        ([[1.0], [2.0]], np.broadcast_to(np.arange(3.0), (2, 3)), "rollouts drawn for that prompt"),
        (np.ones((9, 1)), np.tile(np.arange(3.0), (9, 1)), "for 9 prompts .* equal `prompt_ids`"),
        ([[1.0], [2.0]], [[1.0, 2.0, 3.0]] * 2, "for 2 prompts .* equal `prompt_ids`"),
        ([[1.0], [2.0], [3.0]], [[1.0, 2.0], [1.0, 3.0]], "3 prompts have candidates and 2"),
        ([1.0, 2.0], [[1.0, 2.0]], "expected \\[prompts, candidates"),
        ([[1.0]], [[[1.0, 2.0]]], "expected \\[prompts, K\\]"),
        ([[1.0]], [], "expected \\[prompts, K\\]"),
    ],
)
def test_what_is_refused(scores: object, anchors: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        mid_rank(scores, anchors)  # type: ignore[arg-type]


def test_one_row_may_serve_one_prompt_repeated_and_a_constant_reward_only() -> None:
    row, scores = np.array([3.0, 1.0, 2.0]), np.full((3, 1), 1.5)
    with pytest.raises(InputError, match="one set of reference scores for 3 prompts"):
        randomised(scores, np.tile(row, (3, 1)), ["a", "b", "a"], seed=0)
    for same in (np.tile(row, (3, 1)), [row.tolist()] * 3, np.broadcast_to(row, (3, 3))):
        np.testing.assert_allclose(mid_rank(scores, Anchors.of(same, ["a"] * 3)), np.full((3, 1), 1 / 3))
        np.testing.assert_allclose(randomised(scores, same, ["a"] * 3, seed=0), np.full((3, 1), 1 / 3))
    for other in ([1.0, 3.0, 2.0], [3.0, 1.0], [3.0, 1.0, 2.5]):
        assert Anchors.of([row, row, np.array(other)]).counts[2] == len(other)
    assert Anchors.of(np.full((3, 4), 7.0)).counts.tolist() == [4, 4, 4]
    assert Anchors.of([[0.0, 1.0, 1.0]] * 2).counts.tolist() == [3, 3]  # pass or fail agrees by chance


def test_a_million_copies_are_refused_within_a_second() -> None:
    copies = np.tile(np.arange(4.0), (250_000, 1))
    start = time.process_time()
    with pytest.raises(InputError, match="250000 prompts is not calibration"):
        Anchors.of(copies)
    assert time.process_time() - start < 1


def test_one_id_a_prompt() -> None:
    with pytest.raises(InputError, match="one id a prompt"):
        Anchors.of([[1.0, 2.0], [1.0, 2.0]], ["a"])
    with pytest.raises(InputError, match="one id a prompt"):
        randomised([[1.0]], [[1.0, 2.0]], ["a", "b"], seed=0)


def test_the_callers_array_is_left_as_it_was() -> None:
    anchors = np.array([[3.0, 1.0, 2.0]])
    mid_rank([[2.0]], anchors)
    np.testing.assert_array_equal(anchors, [[3.0, 1.0, 2.0]])
