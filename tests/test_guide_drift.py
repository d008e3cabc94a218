"""How far guide and truth drift apart, from a best-of-N written by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.guide_drift import jobs, of_k, strength
from benchmarks.sandbox_runs import outcome
from inferalign.core.stats import wilson
from tests.studies import BAD, GOOD, job


def test_every_budget_is_a_job_of_its_own(tmp_path: Path) -> None:
    args = argparse.Namespace(run=tmp_path, n=7, situations="harmful,benign", budgets="4/2/1,8/3/2", most=64)
    made = jobs(args)
    assert made["harmful"]["most"].procedure == "best-of-n:64"
    assert made["benign"]["8/3/2"].rain == {"max_iterations": 8, "extra_iterations": 3, "min_visits": 2}
    assert {each.scorer for each in made["benign"].values()} == {"self-agency"}
    assert {each.n for arms in made.values() for each in arms.values()} == {7}
    assert len({each.folder for arms in made.values() for each in arms.values()}) == 6


def test_best_of_k_by_hand(tmp_path: Path) -> None:
    """The guide likes a bad reply best of two to prompt 0 and a good one to prompt 1: truth stays, belief rises."""
    rows = [[(BAD, 0.8), (GOOD, 0.0)], [(GOOD, 0.4), (BAD, -0.2)]]
    one, two = of_k(job(tmp_path, rows, 60), 2)
    assert (one.search, two.search) == ("best-of-1", "best-of-2")
    assert (one.tokens, two.tokens) == (30.0, 60.0)
    assert one.belief.mean == pytest.approx(((0.9 + 0.5) / 2 + (0.7 + 0.4) / 2) / 2)
    assert two.belief.mean == pytest.approx((0.9 + 0.7) / 2)
    assert (one.truth.mean, two.truth.mean) == (0.5, 0.5)
    assert two.drift.mean == pytest.approx(0.8 - 0.5)
    assert two.drift.mean > (one.drift.mean or 0)
    assert (one.unread.mean, two.unread.mean) == (0.5, 0.5), "the bad ones are those that nobody can read"


def test_drift_is_the_guide_less_the_truth_by_prompt(tmp_path: Path) -> None:
    found = outcome(job(tmp_path, [[(GOOD, 1.0)], [(BAD, 1.0)], [(BAD, 0.0)]], 10))
    made = strength("rain", 10.0, found.belief, found.good, found.unread)
    assert made.belief.mean == pytest.approx((1 + 1 + 0.5) / 3)
    assert made.truth == wilson(1, 3)
    assert made.unread == wilson(2, 3)
    assert made.drift.mean == pytest.approx((0 + 1 + 0.5) / 3)
    assert made.drift.n == 3


def test_a_search_that_never_failed_may_still_be_worse_than_its_guide_says() -> None:
    """Three of three are at least .4385 of all (Wilson): so far may the guide be above the truth."""
    sure = {str(i): 1.0 for i in range(3)}
    made = strength("rain", 10.0, sure, {name: True for name in sure}, {name: False for name in sure})
    assert (made.drift.mean, made.drift.low) == (0.0, 0.0)
    assert made.drift.high == pytest.approx(1 - 0.4385, abs=1e-4)
