from itertools import product

import numpy as np
import pytest

from inferalign.agency.analysis import OVERALL
from inferalign.agency.analysis_paired import Difference, compare_arms, difference_of, rank_intervals
from inferalign.agency.table import Arm, Table
from inferalign.agency.table_build import build_table
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate
from tests.agency.tables import ACQ, DID, item, reply, scored, verdict

A, B, C = (Arm(name, "default") for name in "abc")


def test_a_pair_by_hand() -> None:
    """Differences 4, 2, 0, 2: mean 2; of the 8 patterns of the three that are not 0, 2 reach 8 in sum."""
    table = scored({"a": [8, 6, 4, 10], "b": [4, 4, 4, 8]})
    did, overall = compare_arms(table, "j").differences
    assert (did.a, did.b, did.dimension, did.dropped) == (A, B, DID, 0)
    assert (did.estimate.mean, did.estimate.n) == (2.0, 4)
    assert did.p == did.p_holm == 0.25
    assert (overall.dimension, overall.estimate, overall.p) == (OVERALL, did.estimate, 0.25)
    assert did.bounds == (2.0, 2.0)


def test_pairs_with_an_unscored_side_are_dropped_counted_and_bounded() -> None:
    """8-2 and 6-6 remain; 4 against nothing may be 4-10 or 4-0; nothing against 5 0-5 or 10-5."""
    table = scored({"a": [8, 6, 4, None], "b": [2, 6, None, 5]})
    did, _ = compare_arms(table, "j").differences
    assert (did.estimate.mean, did.estimate.n, did.dropped) == (3.0, 2, 2)
    assert did.bounds == ((6 + 0 - 6 - 5) / 4, (6 + 0 + 4 + 5) / 4)


def test_an_item_that_one_side_was_not_asked_is_no_part_of_a_pair() -> None:
    """a was asked i0 and i1, b i1 and i2, c all three, d i0 alone: a and b share i1, and b and d share nothing."""
    items = [item(f"i{n}") for n in range(3)]
    asked = {A: {"i0", "i1"}, B: {"i1", "i2"}, Arm("d", "default"): {"i0"}}
    of = {"a": (0, 1), "b": (1, 2), "c": (0, 1, 2), "d": (0,)}
    replies = [reply(f"i{n}", name) for name, numbers in of.items() for n in numbers]
    table = build_table(items, replies, [verdict(r, 8.0 if r.subject == "a" else 4.0) for r in replies], due=asked)
    found = {(d.a.subject, d.b.subject): d for d in compare_arms(table, "j").differences if d.dimension == DID}
    assert [(found[pair].estimate.n, found[pair].dropped) for pair in (("a", "b"), ("a", "c"))] == [(1, 0), (2, 0)]
    assert found["a", "c"].bounds == (4.0, 4.0)
    apart = found["b", "d"]
    assert (apart.estimate, apart.dropped, apart.p, apart.bounds) == (Estimate.empty(), 0, None, (-10.0, 10.0))


def test_no_pair_at_all_is_no_difference_and_no_test() -> None:
    table = scored({"a": [1, None], "b": [None, 1], "c": [1, 1]})
    first = compare_arms(table, "j").differences[0]
    assert (first.a, first.b, first.p, first.p_holm, first.dropped) == (A, B, None, None, 2)
    assert first.estimate == Estimate.empty()
    assert difference_of(table, A, B, DID, "j") is None


def six_items(seed: int, effect: float) -> Table:
    """Two dimensions with clusters of two; b gets `effect` less than a."""
    rng = np.random.default_rng(seed)
    items = [item(f"{d}{i}", d, f"c{i // 2}") for d in (DID, ACQ) for i in range(6)]
    replies = [reply(each.id, subject) for each in items for subject in "ab"]
    level = {each.id: rng.integers(2, 9) for each in items}
    scores = [level[r.item] + rng.normal() - effect * (r.subject == "b") for r in replies]
    return build_table(items, replies, [verdict(r, float(s)) for r, s in zip(replies, scores, strict=True)])


def test_overall_test_equals_enumeration_over_all_clusters() -> None:
    table = six_items(1, 1.0)
    *_, overall = compare_arms(table, "j").differences
    parts = [table.item_scores(A, d, "j").mean - table.item_scores(B, d, "j").mean for d in (DID, ACQ)]
    blocks = [part[2 * k : 2 * k + 2].sum() / 6 / 2 for part in parts for k in range(3)]
    assert overall.estimate.mean == pytest.approx(sum(blocks))
    totals = [abs(np.dot(signs, blocks)) for signs in product((1, -1), repeat=6)]
    assert overall.p == pytest.approx(np.mean(np.array(totals) >= abs(sum(blocks)) - 1e-12))


def test_swapping_the_sides_mirrors_everything() -> None:
    table = six_items(2, 1.0)
    for one, other in zip(
        compare_arms(table, "j", [A, B]).differences, compare_arms(table, "j", [B, A]).differences, strict=True
    ):
        assert one.p == other.p
        assert one.estimate.mean == pytest.approx(-(other.estimate.mean or 0))
        assert one.estimate.low == pytest.approx(-(other.estimate.high or 0))
        assert one.bounds == pytest.approx((-other.bounds[1], -other.bounds[0]))


def test_holm_runs_over_pairs_and_dimensions_and_overall_apart() -> None:
    table = scored({"a": [8] * 8, "b": [4] * 8, "c": [4] * 8})
    rows = compare_arms(table, "j").differences
    by_pair = {(row.a.subject, row.b.subject, row.dimension): row for row in rows}
    assert len(by_pair) == 6
    assert by_pair["a", "b", DID].p == 2 / 2**8
    assert by_pair["a", "b", DID].p_holm == pytest.approx(3 * 2 / 2**8)
    assert by_pair["b", "c", DID].p_holm == 1.0


def test_ranks_by_hand() -> None:
    """a beats c; nothing else is certain: a is 1st or 2nd, c 2nd or 3rd, b anything."""

    def difference(a: Arm, b: Arm, mean: float, p: float | None) -> Difference:
        estimate = Estimate(mean=mean, low=None, high=None, n=9)
        return Difference(a=a, b=b, dimension=DID, estimate=estimate, p=p, p_holm=p, dropped=0, bounds=(0, 0))

    rows = [difference(A, B, 1, 0.2), difference(C, A, -3, 0.01), difference(B, C, 2, None)]
    ranks = rank_intervals([A, B, C], DID, rows)
    assert [(rank.arm.subject, rank.best, rank.worst) for rank in ranks] == [("a", 1, 2), ("b", 1, 3), ("c", 2, 3)]
    assert rank_intervals([A, B, C], ACQ, rows)[0].worst == 3


def test_ranks_of_a_clear_order() -> None:
    table = scored({"a": [9] * 12, "b": [5] * 12, "c": [1] * 12})
    ranks = {rank.arm.subject: (rank.best, rank.worst) for rank in compare_arms(table, "j").ranks}
    assert ranks == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}


def test_a_clear_order_of_many_arms_is_found() -> None:
    """34 arms are 561 pairs: with 9,999 random signs the smallest adjusted p would be .056, and no rank certain."""
    rng = np.random.default_rng(3)
    table = scored({f"m{k:02}": (0.3 * k + rng.normal(0, 0.02, 30)).clip(0, 10).tolist() for k in range(34)})
    found = compare_arms(table, "j")
    assert max(row.p_holm or 0 for row in found.differences) <= 0.01
    assert all(rank.best == rank.worst for rank in found.ranks)


def test_conditions_of_one_subject_are_arms_too() -> None:
    items = [item(f"i{i}") for i in range(4)]
    replies = [reply(each.id, "a", condition=c) for each in items for c in ("none", "short")]
    table = build_table(items, replies, [verdict(r, 8.0 if r.condition == "none" else 6.0) for r in replies])
    did, _ = compare_arms(table, "j").differences
    assert (did.a.condition, did.b.condition, did.estimate.mean) == ("none", "short", 2.0)


def test_the_false_positive_rate_is_the_level() -> None:
    """Two alike subjects, 300 runs of 24 items in clusters of 3 (8 clusters: p comes in steps of 1/128)."""
    rng = np.random.default_rng(5)
    clusters = [f"c{i // 3}" for i in range(24)]
    found = []
    for seed in range(300):
        level = np.repeat(rng.normal(size=8), 3)
        a, b = (np.clip(np.round(5 + 2 * level + 4 * rng.normal(size=24)), 0, 10).tolist() for _ in range(2))
        found.append(compare_arms(scored({"a": a, "b": b}, clusters=clusters), "j", seed=seed).differences[0].p)
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_what_cannot_be_compared_is_refused() -> None:
    table = scored({"a": [1, 2]})
    with pytest.raises(ScoringError, match="1 arms"):
        compare_arms(table, "j")
    with pytest.raises(ScoringError, match="no replies of z"):
        compare_arms(table, "j", [A, Arm("z", "default")])
    items = [item("d", DID), item("q", ACQ)]
    replies = [reply("d", "a"), reply("q", "b")]
    apart = build_table(items, replies, [verdict(each, 1.0) for each in replies])
    with pytest.raises(ScoringError, match="no dimension in common"):
        compare_arms(apart, "j")
