import asyncio
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from inferalign.agency.embed import Embedding, TfidfEmbedder
from inferalign.agency.records import Item
from inferalign.agency.select import Selection, distinct, representatives, select
from inferalign.core.errors import InputError
from tests.agency.scripted_chat import message


class Written:
    """Vectors that are written down, by text."""

    near_duplicate = 0.95

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self.vectors = vectors

    def describe(self) -> Mapping[str, object]:
        return {"embedding": "written"}

    async def embed(self, texts: Sequence[str]) -> Embedding:
        return Embedding.of(np.array([self.vectors[text] for text in texts], dtype=np.float64))


def item(name: str, text: str = "", **provenance: object) -> Item:
    return Item(id=name, dimension="d", prompt=text or name, provenance=provenance)


def blobs(groups: int, each: int, seed: int = 0) -> dict[str, list[float]]:
    """`each` vectors around each of `groups` axes, near to each other but no duplicates."""
    rng = np.random.default_rng(seed)
    axes = np.eye(groups, 80)
    return {
        f"{group}-{k}": [float(x) for x in axes[group] + rng.normal(0, 0.05, 80)]
        for group in range(groups)
        for k in range(each)
    }


def chosen(selection: Selection) -> list[str]:
    return [one.id for one in selection.items]


def test_one_item_of_each_group_is_chosen() -> None:
    vectors = blobs(6, 5)
    found = asyncio.run(select([item(name) for name in vectors], Written(vectors), wanted=6, seed=0))
    assert [name[0] for name in chosen(found)] == list("012345")
    assert found.coverage.cluster_sizes == (5,) * 6


def test_the_representative_is_the_member_nearest_to_the_centre() -> None:
    vectors = blobs(4, 7)
    points = np.array(list(vectors.values()))
    for row, cluster, size in representatives(points, 4, seed=1):
        members = range(7 * cluster, 7 * cluster + 7)
        centre = points[members].mean(axis=0)
        # 50 of the 27 directions that 28 points have: distances are those of the points themselves
        assert row == min(members, key=lambda k: float(np.linalg.norm(points[k] - centre)))
        assert size == 7


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    items = [item(f"{k:02}", message(f"topic {k % 9}", k)) for k in range(40)]
    first = asyncio.run(select(items, TfidfEmbedder(), wanted=12, seed=3))
    for order in (items[::-1], items[17:] + items[:17]):
        assert asyncio.run(select(order, TfidfEmbedder(), wanted=12, seed=3)) == first
    assert chosen(first) == sorted(chosen(first))
    assert len(set(chosen(first))) == 12


def test_another_seed_may_choose_others() -> None:
    items = [item(f"{k:02}", message(f"topic {k % 9}", k)) for k in range(40)]
    choices = {tuple(chosen(asyncio.run(select(items, TfidfEmbedder(), wanted=12, seed=seed)))) for seed in range(3)}
    assert len(choices) > 1


def test_near_duplicates_leave_before_the_clustering() -> None:
    vectors = blobs(3, 2) | {"0-copy": blobs(3, 2)["0-0"], "1-copy": blobs(3, 2)["1-1"]}
    found = asyncio.run(select([item(name) for name in vectors], Written(vectors), wanted=3, seed=0))
    assert [(twin.item, twin.of) for twin in found.near_duplicates] == [("0-copy", "0-0"), ("1-copy", "1-1")]
    assert all(twin.cosine == pytest.approx(1.0) for twin in found.near_duplicates)
    assert found.coverage.pool == 6
    assert found.embedding == {"embedding": "written", "near_duplicate": 0.95}


def test_of_two_near_duplicates_the_better_one_stays() -> None:
    vectors = blobs(3, 2) | {"0-copy": blobs(3, 2)["0-0"]}
    items = [item(name) for name in vectors]
    found = asyncio.run(select(items, Written(vectors), wanted=3, seed=0, scores={"0-copy": 900, "0-0": 800}))
    assert [(twin.item, twin.of) for twin in found.near_duplicates] == [("0-0", "0-copy")]


def test_near_duplicates_of_what_is_to_be_avoided_are_never_chosen() -> None:
    vectors = blobs(3, 2) | {"example": blobs(3, 2)["2-1"]}
    items = [item(name) for name in vectors if name != "example"]
    found = asyncio.run(select(items, Written(vectors), wanted=3, seed=0, avoid=["example"]))
    assert [(twin.item, twin.of) for twin in found.near_duplicates] == [("2-1", "example 1")]
    assert "2-1" not in chosen(found)


def naive_distinct(cosines: np.ndarray, order: Sequence[int], threshold: float) -> list[int]:
    stay: list[int] = []
    for row in order:
        if all(cosines[row, other] < threshold for other in [*stay, *range(len(order), len(cosines))]):
            stay.append(row)
    return sorted(stay)


@pytest.mark.parametrize("seed", range(5))
def test_distinct_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    order = [int(k) for k in rng.permutation(27)]
    for threshold in (0.5, 0.8, 0.95):
        stay, out = distinct(cosines, order, threshold)
        assert stay == naive_distinct(cosines, order, threshold)
        assert sorted([*stay, *(row for row, _, _ in out)]) == list(range(27))
        assert all(cosine >= threshold for _, _, cosine in out)


def test_a_higher_threshold_takes_no_more_out_of_a_chain() -> None:
    cosines = np.array([[1.0, 0.9, 0.7], [0.9, 1.0, 0.9], [0.7, 0.9, 1.0]])
    assert distinct(cosines, [0, 1, 2], 0.8) == ([0, 2], [(1, 0, 0.9)])
    assert distinct(cosines, [1, 0, 2], 0.8) == ([1], [(0, 1, 0.9), (2, 1, 0.9)])
    assert distinct(cosines, [0, 1, 2], 0.9) == ([0, 2], [(1, 0, 0.9)])
    assert distinct(cosines, [0, 1, 2], 0.91) == ([0, 1, 2], [])


def test_all_items_can_be_wanted() -> None:
    vectors = blobs(3, 2)
    found = asyncio.run(select([item(name) for name in vectors], Written(vectors), wanted=6, seed=0))
    assert chosen(found) == sorted(vectors)
    assert found.coverage.pool_to_selected.greatest == pytest.approx(0.0, abs=1e-9)


def test_a_single_item_is_chosen_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = asyncio.run(select([item("only")], Written({"only": [1.0, 0.0]}), wanted=1, seed=0))
    assert (chosen(found), found.coverage.cluster_sizes) == (["only"], (1,))


def test_clusters_are_in_the_provenance_and_the_rest_of_it_stays() -> None:
    vectors = blobs(2, 3)
    found = asyncio.run(select([item(name, theme="t") for name in vectors], Written(vectors), wanted=2, seed=0))
    assert [one.provenance for one in found.items] == [
        {"theme": "t", "selection": {"cluster": 0, "size": 3}},
        {"theme": "t", "selection": {"cluster": 1, "size": 3}},
    ]


def test_too_few_items_say_what_to_do() -> None:
    vectors = blobs(2, 2) | {"copy": blobs(2, 2)["0-0"]}
    items = [item(name) for name in vectors]
    for wanted in (0, 6):
        with pytest.raises(InputError, match="ask for 1 to 5, or simulate more calls"):
            asyncio.run(select(items, Written(vectors), wanted=wanted, seed=0))
    with pytest.raises(InputError, match="4 distinct ones are left after 1 near-duplicates"):
        asyncio.run(select(items, Written(vectors), wanted=5, seed=0))
    with pytest.raises(InputError, match="item '0-0' stands twice"):
        asyncio.run(select([*items, item("0-0")], Written(vectors), wanted=2, seed=0))
