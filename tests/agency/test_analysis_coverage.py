"""What the benchmark `agency_statistics` measures at length, on two dimensions: 2,000 runs, planted effects."""

import numpy as np
import pytest

from benchmarks.agency_statistics import (
    CLUSTER,
    CLUSTER_SD,
    PROFILES,
    SHIFT,
    measure,
    scores,
    simulate,
    true_mean,
    verdicts,
)
from inferalign.agency.analysis import LIMITS, OVERALL
from inferalign.agency.analysis_paired import DIFFERENCES
from inferalign.agency.clusters import clustered_mean, score_interval
from inferalign.core.stats import Estimate

ACQ, DID = "ask_clarifying_questions", "defer_important_decisions"
RUNS = 2000


def within(estimate: Estimate, truth: float) -> bool:
    return (estimate.low or 0) <= truth <= (estimate.high or 0)


@pytest.mark.parametrize("dimension", [ACQ, DID])
@pytest.mark.parametrize("items", [40, 500])
def test_intervals_cover_the_planted_mean(dimension: str, items: int) -> None:
    rng, clusters, truth = np.random.default_rng(items), np.arange(items) // CLUSTER, true_mean(dimension)
    hits = 0
    for _ in range(RUNS):
        effect = CLUSTER_SD * rng.normal(size=clusters[-1] + 1)[clusters]
        hits += within(score_interval(clustered_mean(scores(dimension, 0.0, effect, rng), clusters), LIMITS), truth)
    assert 0.935 <= hits / RUNS <= 0.965


def test_intervals_cover_the_planted_difference() -> None:
    rng, clusters = np.random.default_rng(1), np.arange(40) // CLUSTER
    truth, hits = true_mean(DID, SHIFT) - true_mean(DID), 0
    for _ in range(RUNS):
        effect = CLUSTER_SD * rng.normal(size=clusters[-1] + 1)[clusters]
        differences = scores(DID, SHIFT, effect, rng) - scores(DID, 0.0, effect, rng)
        hits += within(score_interval(clustered_mean(differences, clusters), DIFFERENCES), truth)
    assert 0.935 <= hits / RUNS <= 0.965


@pytest.mark.parametrize("dimension", PROFILES)
def test_true_means_equal_monte_carlo(dimension: str) -> None:
    rng = np.random.default_rng(2)
    draws = scores(dimension, SHIFT, CLUSTER_SD * rng.normal(size=100_000), rng)
    assert draws.mean() == pytest.approx(true_mean(dimension, SHIFT), abs=4 * draws.std() / np.sqrt(100_000))


def test_simulated_scores_are_like_real_ones() -> None:
    found = {name: (first, null, planted) for name, first, null, planted in simulate(3000, 3)}
    assert (found[ACQ][0] == 0).mean() > 0.6
    for first, null, planted in found.values():
        assert set(first) <= set(range(11))
        assert abs(null.mean() - first.mean()) < 0.25
        assert planted.mean() < first.mean()


def test_a_few_runs_fill_the_table() -> None:
    shares = measure(40, 3, 1)
    assert set(shares) == {*PROFILES, OVERALL}
    assert {"score", "t", "normal", "BCa", "paired", "null 0.05", "planted 0.01"} <= set(shares[ACQ])
    cells = {ACQ: {"score": 0.93, "paired": 0.95, "null 0.05": 0.05, "null 0.01": 0.03}}
    assert [good for _, good in verdicts(40, cells, 2000, 0.0)] == [False, True, True, False]
    assert [good for _, good in verdicts(40, cells, 2000, 3.0)] == [True, True, True, False]
