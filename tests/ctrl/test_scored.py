"""Scores as arrays: what is missing is told apart by blame, and never a number."""

from __future__ import annotations

import numpy as np
import pytest

from inferalign.core.errors import InputError
from inferalign.core.types import Score, Unscored
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Counts, Scored

VERDICTS = [Score(1.5), Unscored("no words", "response"), Unscored("timeout", "judge"), Score(-2.0)]


def test_verdicts_keep_their_order_and_their_blame() -> None:
    scored = Scored.of(VERDICTS)
    assert scored.values.tolist() == [1.5, 0.0, 0.0, -2.0]
    assert scored.blame.tolist() == [SCORED, RESPONSE, JUDGE, SCORED]
    assert scored.counts == Counts(scored=2, response=1, judge=1)
    assert scored.scored.tolist() == [True, False, False, True]


def test_rows_and_parts() -> None:
    table = Scored.concatenate([Scored.of(VERDICTS), Scored.of(VERDICTS[::-1])]).reshape(2, 4)
    assert table.shape == (2, 4)
    assert table.row(1).values.tolist() == [-2.0, 0.0, 0.0, 1.5]
    assert table.row(1).blame.tolist() == [SCORED, JUDGE, RESPONSE, SCORED]
    assert Scored.concatenate([]).shape == Scored.of([]).shape == (0,)
    assert Scored.all_scored([[1, 2]]).counts == Counts(scored=2, response=0, judge=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="a score is"):
        Scored.of([Score(1.0), Score(value)])


@pytest.mark.parametrize(
    ("values", "blame", "words"),
    [
        (np.zeros(2), np.zeros(3, np.uint8), "give one each"),
        (np.zeros(2, np.float32), np.zeros(2, np.uint8), "float64"),
        (np.zeros(2), np.zeros(2, np.int64), "uint8"),
        (np.zeros(2), np.array([0, 3], np.uint8), "blame 3"),
        (np.array([1.0, 2.0]), np.array([0, 2], np.uint8), "has a score"),
    ],
)
def test_arrays_that_cannot_be_scores_are_refused(values: np.ndarray, blame: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Scored(values, blame)
