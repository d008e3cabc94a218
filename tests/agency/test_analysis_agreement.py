import numpy as np
import pytest

from inferalign.agency.agreement import cohen_kappa, krippendorff_alpha
from inferalign.agency.analysis_agreement import against_truth, balanced_accuracy, judge_agreement
from inferalign.agency.table import Table
from inferalign.agency.table_build import build_table
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate, wilson
from tests.agency.tables import ACQ, DID, item, reply, verdict


def judged(letters: dict[str, list[str | None]], dimension: str = DID) -> Table:
    """judge -> the letters it named on reply 0, 1, ...; None is unscored. 10 less one point a letter."""
    size = len(next(iter(letters.values())))
    replies = [reply(f"i{i:03}") for i in range(size)]
    verdicts = [
        verdict(r, None if found is None else 10.0 - len(found), judge, letters=found or "")
        for judge, row in letters.items()
        for r, found in zip(replies, row, strict=True)
    ]
    return build_table([item(f"i{i:03}", dimension) for i in range(size)], replies, verdicts)


ROWS: dict[str, list[str | None]] = {
    "x": ["A", "", "AB", "B", None, "A", ""],
    "y": ["A", "B", "AB", "", "A", "", ""],
    "z": ["AB", "B", "AB", "B", "A", None, "A"],
}


def test_agreement_is_alpha_of_the_columns() -> None:
    table = judged(ROWS)
    found = judge_agreement(table, ["x", "y", "z"], DID, "AB", seed=1)
    nan = np.nan
    named_a = [[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], [nan, 1, 1], [1, 0, nan], [0, 0, 1]]
    scores = [[9, 9, 8], [10, 9, 9], [8, 8, 8], [9, 10, 9], [nan, 9, 9], [9, 10, nan], [10, 10, 9]]
    assert found.letters["A"].mean == pytest.approx(krippendorff_alpha(named_a, "nominal"))
    assert found.score.mean == pytest.approx(krippendorff_alpha(scores, "interval"))
    assert (found.score.n, found.kappa, found.dimension) == (7, {}, DID)


def test_two_judges_have_a_kappa_for_each_letter() -> None:
    found = judge_agreement(judged(ROWS), ["x", "y"], DID, "AB", seed=1)
    assert found.kappa["A"].mean == pytest.approx(cohen_kappa([1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 0, 0]))
    assert (found.kappa["B"].n, set(found.kappa)) == (6, {"A", "B"})


def test_only_replies_of_the_dimension_count() -> None:
    found = judge_agreement(judged(ROWS), ["x", "y"], ACQ, "AB")
    assert (found.score.mean, found.score.n) == (None, 0)
    with pytest.raises(ScoringError, match="needs two"):
        judge_agreement(judged(ROWS), ["x"], DID, "A")


def test_against_truth_by_hand() -> None:
    """Issue A: truth 8 times, found 6 of them; 12 times absent, 3 false alarms; once unscored."""
    truth: list[str | None] = ["A"] * 8 + [""] * 12 + ["A"]
    judge: list[str | None] = ["A"] * 6 + [""] * 2 + ["A"] * 3 + [""] * 9 + [None]
    (found,) = against_truth(judged({"j": judge, "oracle": truth}), "j", "oracle", DID, "A")
    assert (found.sensitivity.mean, found.specificity.mean, found.balanced.mean) == (0.75, 0.75, 0.75)
    assert (found.unscored, found.sensitivity.n, found.specificity.n) == (1, 8, 12)
    assert (found.sensitivity, found.specificity) == (wilson(6, 8), wilson(9, 12)), "items that stand alone"
    assert (found.sensitivity.low or 0) < (found.balanced.low or 0) < 0.75 < (found.balanced.high or 0)


def test_a_perfect_judge_and_an_issue_that_never_occurs() -> None:
    table = judged({"j": ["A", "", "A", ""], "oracle": ["A", "", "A", ""]})
    one, other = against_truth(table, "j", "oracle", DID, "AB")
    assert (one.sensitivity.mean, one.specificity.mean, one.balanced.mean, one.balanced.high) == (1.0, 1.0, 1.0, 1.0)
    assert (other.sensitivity, other.specificity.mean, other.balanced.mean) == (Estimate.empty(), 1.0, None)


def test_balanced_accuracy_by_hand() -> None:
    """.8 in (.7, .86) and .6 in (.5, .68): .7 - sqrt(.01 + .01)/2, .7 + sqrt(.0036 + .0064)/2 = .75."""
    found = balanced_accuracy(
        Estimate(mean=0.8, low=0.7, high=0.86, n=10), Estimate(mean=0.6, low=0.5, high=0.68, n=20)
    )
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.7, 0.7 - 0.070711, 0.75, 30), abs=1e-6)
    without = balanced_accuracy(Estimate(mean=0.8, low=None, high=None, n=1), found)
    assert (without.mean, without.low) == (0.75, None)


def test_balanced_accuracy_interval_covers() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        found = balanced_accuracy(wilson(int(rng.binomial(30, 0.9)), 30), wilson(int(rng.binomial(60, 0.7)), 60))
        hits += (found.low or 0) <= 0.8 <= (found.high or 0)
    assert hits / 1000 == pytest.approx(0.95, abs=0.025)
