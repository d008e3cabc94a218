"""Paired comparisons of runs and arms, and what they could show."""

from pathlib import Path

import pytest

from inferalign.agency.analysis_paired import compare_arms, difference_of
from inferalign.agency.analysis_power import Pilot, detectable
from inferalign.agency.table import Arm
from inferalign.core.errors import InputError, ScoringError
from inferalign.reports.agency_compare import compare, comparison_rows
from inferalign.reports.agency_source import Evidence, read_evidence
from tests.reports.agency_run import write_run

TWO = ("defer_important_decisions", "encourage_learning")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return read_evidence([write_run(tmp_path_factory.mktemp("compare") / "run", dimensions=TWO, count=10)])


def test_two_arms_of_one_run(evidence: Evidence) -> None:
    a, b = Arm("small-chat", "default"), Arm("sandbox under rain", "default")
    found = compare(evidence, "small-chat", "sandbox under rain (default)", seed=3)
    assert found.paired == compare_arms(evidence.table, "panel", [a, b], seed=3)
    rows = comparison_rows(found)
    assert [row["dimension"] for row in rows] == [*TWO, "overall"]
    pilot = difference_of(evidence.table, a, b, TWO[0], "panel")
    assert pilot is not None
    assert rows[0]["detectable"] == pytest.approx(detectable(Pilot.paired(pilot), pilot.n))
    assert rows[0]["difference"] == found.paired.differences[0].estimate.mean
    # More items show less: the overall difference rests on both dimensions.
    assert rows[2]["detectable"] < min(row["detectable"] for row in rows[:2])


def test_turned_around_the_sign_changes_and_nothing_else(evidence: Evidence) -> None:
    ahead = comparison_rows(compare(evidence, "small-chat", "sandbox under rain"))
    back = comparison_rows(compare(evidence, "sandbox under rain", "small-chat"))
    for one, other in zip(ahead, back, strict=True):
        assert one["difference"] == pytest.approx(-other["difference"])
        assert (one["at_worst"], one["at_best"]) == pytest.approx((-other["at_best"], -other["at_worst"]))
        assert one["detectable"] == pytest.approx(other["detectable"])
        assert one["pairs"] == other["pairs"]


def test_without_names_all_pairs_of_the_run(evidence: Evidence) -> None:
    assert len(comparison_rows(compare(evidence, None, None))) == 3 * 3


def test_two_runs_of_one_model(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, dimensions=TWO[:1], count=6, subjects=["m"], judges=["j"]) for name in "xy"]
    (row, _) = comparison_rows(compare(read_evidence(runs), None, None))
    assert (row["a_subject"], row["b_subject"], row["difference"]) == ("m [x]", "m [y]", pytest.approx(0, abs=3))
    assert row["pairs"] == 6


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("small-chat", None, "several arms: name one with --b"),
        ("small-chta", "small-chat", "--a: no arm 'small-chta'. Did you mean 'small-chat"),
        ("small-chat", "small-chat", "would be compared with itself"),
    ],
)
def test_names_that_fit_no_arm(evidence: Evidence, a: str, b: str | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        compare(evidence, a, b)
    assert message in str(error.value)


def test_pairs_without_spread_have_no_detectable_difference(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dimensions=TWO[:1], count=1, judges=["j"], subjects=["m", "n"])
    assert all(row["detectable"] is None for row in comparison_rows(compare(read_evidence([run]), None, None)))


def test_one_arm_is_no_pair(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dimensions=TWO[:1], count=2, judges=["j"], subjects=["m"])
    with pytest.raises(ScoringError, match="a comparison needs two"):
        compare(read_evidence([run]), None, None)
