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
    picked = pick(
        torch.from_numpy(np.stack([FOUR, FOUR, FOUR])), [row(), row(greedy=True), row(top_k=2)], [0.95, 0.95, 0.95]
    )
    assert [token for token, _ in picked] == [3, 1, 2]


@pytest.mark.parametrize("ties", [False, True])
def test_picking_for_many_is_drawing_for_each(ties: bool) -> None:
    """Rows of every kind in one batch; with ties, most top-k edges lie between equals."""
    rng = np.random.default_rng(int(ties))
    kinds = [
        {},
        {"top_k": 1},
        {"top_k": 3},
        {"top_k": 3, "greedy": True},
        {"greedy": True},
        {"top_k": 12},
        {"top_k": 99},
    ]
    for _ in range(60):
        count, vocabulary = int(rng.integers(1, 9)), int(rng.integers(1, 16))
        values = rng.integers(-2, 2, (count, vocabulary)) if ties else rng.normal(0, 2, (count, vocabulary))
        logits = torch.tensor(values, dtype=torch.float32)
        rows = [row(**kinds[rng.integers(len(kinds))], temperature=rng.choice([1.0, 0.7, 2.0])) for _ in range(count)]
        numbers = [float(rng.choice([0.0, 1 - 2**-53, rng.random(), rng.random()])) for _ in range(count)]
        picked = pick(logits, rows, numbers)
        drawn = [draw(logits[i].double().numpy(), rows[i], numbers[i]) for i in range(count)]
        assert [token for token, _ in picked] == [token for token, _ in drawn]
        assert [logprob for _, logprob in picked] == pytest.approx([logprob for _, logprob in drawn], abs=1e-12)


def test_a_tie_at_the_edge_goes_to_the_lower_id_whatever_the_device_would_say() -> None:
    """Ten equals, of which three are kept: ids 1, 2 and 3, though any would do for a top-k."""
    logits = torch.tensor([[-1.0] + [2.0] * 10])
    picked = pick(logits.expand(3, -1), [row(top_k=3)] * 3, [0.1, 0.5, 0.9])
    assert picked == [(token, pytest.approx(math.log(1 / 3))) for token in (1, 2, 3)]


@pytest.mark.parametrize("rules", [{}, {"top_k": 1}, {"top_k": 2}, {"greedy": True}, {"greedy": True, "top_k": 2}])
@pytest.mark.parametrize("bad", [[0.0, math.nan, 1.0, 2.0], [math.nan] * 4, [0.0, math.inf, 1.0, 2.0], [-math.inf] * 4])
def test_one_row_that_is_no_numbers_is_told_whatever_it_keeps(bad: list[float], rules: dict[str, object]) -> None:
    """A filter must not hide it: a NaN is not among the most probable, and what is left looks like an answer."""
    with pytest.raises(EngineError, match="not finite"):
        draw(np.array(bad), row(**rules), 0.5)
    with pytest.raises(EngineError, match="not finite"):
        pick(torch.tensor([FOUR.tolist(), bad]), [row(**rules), row(**rules)], [0.5, 0.5])


def test_masked_tokens_are_never_picked() -> None:
    logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    for number in (0.0, 0.3, 1 - 2**-53):
        for rules in ({}, {"top_k": 2}, {"top_k": 3}, {"greedy": True}):
            assert pick(logits, [row(**rules)], [number])[0][0] in (0, 2)
