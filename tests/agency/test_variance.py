import numpy as np
import pytest

from inferalign.agency.variance import nested_components
from inferalign.core.errors import ScoringError


def test_a_balanced_design_by_hand() -> None:
    """Two outer groups, two inner each, two values each: (1,3),(5,7) | (9,9),(9,13).

    Means 2, 6, 9, 11; 4, 10; 7. MS rest = (2+2+0+8)/4 = 3. MS inner = 2(4+4+1+1)/2 = 10, so inner = (10-3)/2 = 3.5.
    MS outer = 4(9+9)/1 = 72, so outer = (72-10)/4 = 15.5.
    """
    found = nested_components([1, 3, 5, 7, 9, 9, 9, 13], [0] * 4 + [1] * 4, [0, 0, 1, 1, 0, 0, 1, 1])
    assert (found.rest, found.inner, found.outer) == pytest.approx((3.0, 3.5, 15.5))
    assert found.shares() == pytest.approx({"outer": 15.5 / 22, "inner": 3.5 / 22, "rest": 3 / 22})


def test_it_is_unbiased_without_balance() -> None:
    """Mean of 400 draws of an unbalanced design with variances 4, 2, 1."""
    rng = np.random.default_rng(1)
    sizes = [[1, 2, 3], [2], [1, 1], [4, 2], [2, 2, 2], [1, 3]]
    outer = np.concatenate([[i] * sum(inner) for i, inner in enumerate(sizes)])
    inner = np.concatenate([np.repeat(range(len(row)), row) for row in sizes])
    cell = np.unique(outer * 10 + inner, return_inverse=True)[1]
    found = []
    for _ in range(400):
        a, b = 2 * rng.normal(size=6), np.sqrt(2) * rng.normal(size=cell.max() + 1)
        parts = nested_components(a[outer] + b[cell] + rng.normal(size=outer.size), outer, inner)
        found.append((parts.outer, parts.inner, parts.rest))
    errors = np.std(found, axis=0) / 20
    assert np.abs(np.mean(found, axis=0) - (4, 2, 1)) == pytest.approx(0, abs=float(3.5 * errors.max()))
    assert (np.abs(np.mean(found, axis=0) - (4, 2, 1)) < 3.5 * errors).all()


def test_what_was_not_repeated_is_not_told_apart() -> None:
    once = nested_components([1, 2, 4, 9], [0, 0, 1, 1], [0, 1, 0, 1])
    assert once.rest is None
    assert once.inner == pytest.approx((0.5 + 12.5) / 2)
    alone = nested_components([1, 2, 4], [0, 0, 0], [0, 0, 0])
    assert (alone.outer, alone.inner) == (None, None)
    assert alone.rest == pytest.approx(np.var([1, 2, 4], ddof=1))


def test_shares_take_negative_components_for_zero() -> None:
    found = nested_components([0, 10, 0, 10], [0, 0, 1, 1], [0, 0, 0, 0])
    assert found.outer is not None
    assert found.outer < 0
    assert found.shares() == {"outer": 0.0, "rest": 1.0}
    assert nested_components([3, 3, 3], [0, 0, 1], [0, 0, 0]).shares() is None


def test_components_of_nothing_raise() -> None:
    with pytest.raises(ScoringError):
        nested_components([], [], [])
