"""A draw is the row's filtered distribution, inverted at the number it is given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from inferalign.core.errors import EngineError
from inferalign.core.seeds import uniforms
from inferalign.engines.base import Row
from inferalign.engines.draws import draw, most_probable, pick

FOUR = np.log([0.1, 0.4, 0.4, 0.1])


def row(**changes: object) -> Row:
    return Row(**({"seed": 0, "max_new_tokens": 1} | changes))


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.4999, 1), (0.5001, 2), (0.95, 3), (1 - 2**-53, 3)]
)
def test_by_hand(number: float, token: int) -> None:
    """Cumulated by id: 0.1, 0.5, 0.9, 1."""
    assert draw(FOUR, row(), number) == (token, pytest.approx(math.log([0.1, 0.4, 0.4, 0.1][token])))


def test_top_k_keeps_the_lower_id_of_equals_and_renormalises() -> None:
    assert draw(FOUR, row(top_k=1), 0.999) == (1, pytest.approx(0.0))
    # Of the two that are left at 0.1, id 0 stays: 1/9, 4/9, 4/9.
    assert draw(FOUR, row(top_k=3), 0.11) == (0, pytest.approx(math.log(1 / 9)))
    assert draw(FOUR, row(top_k=3), 0.999) == (2, pytest.approx(math.log(4 / 9)))


def test_temperature_divides_the_logits() -> None:
    token, logprob = draw(FOUR, row(temperature=0.5), 0.5001)
    assert (token, logprob) == (2, pytest.approx(math.log(0.16 / 0.34)))


def test_greedy_takes_the_lower_id_of_equals_and_reports_the_filtered_distribution() -> None:
    assert draw(FOUR, row(greedy=True), 0.999) == (1, pytest.approx(math.log(0.4)))
    assert draw(FOUR, row(greedy=True, top_k=2), 0.999) == (1, pytest.approx(math.log(0.5)))


@given(
    st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=40),
    st.integers(1, 50),
    st.floats(0, 1, exclude_max=True),
)
def test_against_a_full_sort(values: list[float], k: int, number: float) -> None:
    logits = np.array(values)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert most_probable(logits, k).tolist() == order
    kept = sorted(order)
    weights = [math.exp(values[i]) for i in kept]
    token, logprob = draw(logits, row(top_k=k), number)
    below = sum(w for i, w in zip(kept, weights, strict=True) if i < token)
    own = weights[kept.index(token)]
    assert below - 1e-9 <= number * sum(weights) <= below + own + 1e-9
    assert logprob == pytest.approx(math.log(own / sum(weights)))


def test_a_tiny_change_of_a_logit_does_not_change_the_draws() -> None:
    """Two thousand nearly equal tokens: their ranks change with the last bits, their draws must not."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1e-3, 2000)
    numbers = uniforms(7, 500)
    moved = logits + rng.normal(0, 1e-7, 2000)
    same = [draw(logits, row(), u)[0] == draw(moved, row(), u)[0] for u in numbers]
    assert sum(same) >= 499


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_not_drawn_from(bad: float) -> None:
    for greedy in (False, True):
        with pytest.raises(EngineError, match="not finite"):
            draw(np.array([0.0, bad, 1.0]), row(greedy=greedy), 0.5)
    assert draw(np.array([0.0, -math.inf, 1.0]), row(), 0.5)[0] == 2, "a token that is masked out is only impossible"


def test_frequencies() -> None:
    probabilities = np.array([0.05, 0.3, 0.15, 0.5])
    tokens = [draw(np.log(probabilities), row(), u)[0] for u in uniforms(3, 4000)]
    assert chisquare(np.bincount(tokens, minlength=4), 4000 * probabilities).pvalue > 0.01


def test_rows_are_drawn_each_by_its_own_rule() -> None:
    picked = pick(torch.from_numpy(np.stack([FOUR, FOUR, FOUR])), [row(), row(greedy=True), row(top_k=2)], [0.95, 0.95, 0.95])
    assert [token for token, _ in picked] == [3, 1, 2]
