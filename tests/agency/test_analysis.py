import numpy as np
import pytest

from inferalign.agency.analysis import LIMITS, OVERALL, summarise
from inferalign.agency.clusters import clustered_mean, score_interval
from inferalign.agency.table import Arm, Table
from inferalign.agency.table_build import build_table
from inferalign.cli.agency_run import cell_name
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate
from tests.agency.tables import ACQ, DID, item, reply, scored, verdict

A = Arm("a", "default")


def two_dimensions(did: list[float | None], acq: list[float | None]) -> Table:
    items = [item(f"d{i}", DID) for i in range(len(did))] + [item(f"q{i}", ACQ) for i in range(len(acq))]
    replies = [reply(each.id) for each in items]
    verdicts = [verdict(each, score) for each, score in zip(replies, [*did, *acq], strict=True)]
    return build_table(items, replies, verdicts)


def test_means_by_hand() -> None:
    """8, 10, 6 | 0, 2: means 8 and 1, V = 4/3 and 1, overall 4.5 with V = (4/3 + 1)/4 and Welch's df."""
    did, acq, overall = summarise(two_dimensions([8, 10, 6], [0, 2]), "j")
    assert [each.dimension for each in (did, acq, overall)] == [DID, ACQ, OVERALL]
    assert (did.score.mean, acq.score.mean, overall.score.mean) == (8.0, 1.0, 4.5)
    assert overall.percent.mean == 45.0
    assert (overall.error or 0) ** 2 == pytest.approx((4 / 3 + 1) / 4)
    assert overall.dimensions == (DID, ACQ)
    assert overall.left_out == ()
    assert (did.arm, did.clusters, overall.clusters, overall.score.n) == (A, 3, 5, 5)
    assert did.score == score_interval(clustered_mean([8, 10, 6], range(3)), LIMITS)


def test_overall_weighs_dimensions_alike_whatever_their_sizes() -> None:
    *_, overall = summarise(two_dimensions([10.0] * 30, [0.0, 1.0]), "j")
    assert overall.score.mean == 5.25


def test_what_was_not_scored_is_counted_and_bounded() -> None:
    did, _, overall = summarise(two_dimensions([8, None, 6, None], [4]), "j")
    assert (did.score.mean, did.score.n, did.counts.unscored, did.counts.due) == (7.0, 2, 2, 4)
    assert did.bounds == (3.5, 8.5)
    assert overall.bounds == (3.75, 6.25)
    assert overall.counts.unscored == 2
    assert did.counts.blamed_judge == 2


def test_a_dimension_without_a_score_has_no_mean() -> None:
    did, _, overall = summarise(two_dimensions([None, None], [4, 6]), "j")
    assert did.score == overall.score == did.percent == Estimate.empty()
    assert (did.error, did.clusters) == (None, 0)
    assert did.bounds == (0.0, 10.0)
    assert overall.bounds == (2.5, 7.5)


def test_an_overall_mean_names_what_it_is_over() -> None:
    table = scored({"a": [1, 2], "b": [3, 4]})
    rows = summarise(table, "j")
    assert [(row.arm.subject, row.dimension) for row in rows] == [
        ("a", DID),
        ("a", OVERALL),
        ("b", DID),
        ("b", OVERALL),
    ]
    assert rows[1].dimensions == (DID,)
    assert rows[1].left_out == ()
    assert rows[1].score.mean == rows[0].score.mean
    answered = reply("i0")
    (did, overall) = summarise(build_table([item("i0"), item("q0", ACQ)], [answered], [verdict(answered, 4)]), "j")
    assert (overall.dimensions, overall.left_out) == ((DID,), (ACQ,))
    assert (did.left_out, cell_name(overall), cell_name(did)) == ((), "overall (1 of 2 dimensions)", DID)


def test_repeats_belong_to_their_item() -> None:
    """Two items, one with three repeats 0, 0, 6: its mean is 2, and it counts once."""
    items = [item("x"), item("y")]
    replies = [reply("x", repeat=r) for r in range(3)] + [reply("y", repeat=r) for r in range(3)]
    scores = [0, 0, 6, 10, 10, None]
    table = build_table(items, replies, [verdict(each, s) for each, s in zip(replies, scores, strict=True)])
    did, _ = summarise(table, "j")
    assert (did.score.mean, did.score.n, did.clusters) == (6.0, 2, 2)
    assert did.counts.due == 6
    assert did.bounds == (pytest.approx((2 + 20 / 3) / 2), pytest.approx(6.0))


def test_clusters_widen_the_interval() -> None:
    values = np.repeat([0, 10, 4, 8, 2, 6], 3).tolist()
    alone, _ = summarise(scored({"a": values}), "j")
    together, _ = summarise(scored({"a": values}, clusters=[f"c{i // 3}" for i in range(18)]), "j")
    assert together.clusters == 6
    assert (together.score.high or 0) - (together.score.low or 0) > 1.7 * (
        (alone.score.high or 0) - (alone.score.low or 0)
    )


def test_an_unknown_judge_is_refused() -> None:
    with pytest.raises(ScoringError, match="no verdicts of the judge"):
        summarise(scored({"a": [1, 2]}), "nobody")
