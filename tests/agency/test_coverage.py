from itertools import pairwise

import numpy as np
import pytest

from inferalign.agency.coverage import Coverage, coverage
from inferalign.agency.records import Item

POOL = [
    Item(id="a", dimension="d", prompt="a", provenance={"theme": "t1", "topic": "x", "examples": ["e2", "e1"]}),
    Item(id="b", dimension="d", prompt="b", provenance={"theme": "t1", "topic": "y", "examples": ["e1", "e2"]}),
    Item(id="c", dimension="d", prompt="c", provenance={"theme": "t2", "topic": "z", "examples": ["e1", "e3"]}),
    Item(id="d", dimension="d", prompt="d"),
]
COSINES = np.array([[1.0, 0.9, 0.5, 0.1], [0.9, 1.0, 0.4, 0.2], [0.5, 0.4, 1.0, 0.3], [0.1, 0.2, 0.3, 1.0]])


def of(*chosen: int) -> Coverage:
    return coverage(POOL, COSINES, chosen, [1] * len(chosen))


def test_distances_by_hand() -> None:
    found = of(0, 2, 3)
    assert found.between_selected is not None
    # a to c .5, c to a .5, d to c .7
    assert found.between_selected.least == pytest.approx(0.5)
    assert found.between_selected.median == pytest.approx(0.5)
    assert found.between_selected.greatest == pytest.approx(0.7)
    # only b is not selected, and a is its nearest
    assert found.pool_to_selected.greatest == pytest.approx(0.1)
    assert found.pool_to_selected.median == 0.0


def test_shares_by_hand() -> None:
    found = of(0, 1, 3)
    assert found.themes.selected == {"t1": pytest.approx(2 / 3), "": pytest.approx(1 / 3)}
    assert found.themes.missing == ("t2",)
    assert found.topics.missing == ("z",)
    assert found.topics.largest == pytest.approx(1 / 3)
    # the order in which examples were shown makes no other set
    assert found.example_sets.selected == {"e1, e2": pytest.approx(2 / 3), "": pytest.approx(1 / 3)}


def test_more_selected_items_leave_no_item_further_away() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = [Item(id=str(k), dimension="d", prompt=str(k)) for k in range(20)]
    found = [coverage(pool, vectors @ vectors.T, range(k), [1] * k).pool_to_selected for k in range(1, 21)]
    for fewer, more in pairwise(found):
        assert more.greatest <= fewer.greatest
        assert more.median <= fewer.median
    assert found[-1].greatest == pytest.approx(0.0, abs=1e-9)


def test_a_single_item_has_no_other() -> None:
    assert of(1).between_selected is None
    assert (of(1).pool, of(1).selected) == (4, 1)


def test_sizes_come_largest_first() -> None:
    assert coverage(POOL, COSINES, [0, 1, 2], [1, 2, 1]).cluster_sizes == (2, 1, 1)
