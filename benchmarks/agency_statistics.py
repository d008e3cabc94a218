"""Do the agency benchmark's intervals cover, and do its tests keep their level? Simulated subjects, exact truth.

    python -m benchmarks.agency_statistics [--quick] [--seed 7]

A subject has each issue of a dimension with its own probability; items come in clusters of three that share a shift of
all logits (standard deviation `CLUSTER_SD`), so scores are discrete, skewed and floored at 0 as real ones are. True
means are exact: the expected score at the nodes of a Gauss-Hermite rule over the shift. A second subject has issue A
more often by `SHIFT` logits (the planted effect); the null subject is like the first.

Beside the interval in use (`score`: Wilson's, carried over to the scale, with CR2 variance and Satterthwaite degrees of
freedom) stand those that were tried: Student's t with the same variance, the normal quantile with it, and, for the
smaller size, the BCa bootstrap over clusters. Tests are sign flips of whole clusters.

--quick makes 200 runs of each size in seconds; without it 2,000, in minutes. Prints a table and one PASS or MISS a
line; the last line is JSON. Coverage passes from 93.5 % to 96.5 %, quick runs with three standard errors more.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.mains import run_main
from inferalign.agency.analysis import LIMITS, OVERALL, average
from inferalign.agency.analysis_paired import DIFFERENCES
from inferalign.agency.clusters import Clustered, clustered_mean, score_interval, t_interval
from inferalign.agency.permutation import sign_flip_p
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, mean_interval
from inferalign.scorers.verdicts import ISSUES, TOP, expected_score

Floats = NDArray[np.float64]
SIZES, CLUSTER, CLUSTER_SD, SHIFT = (40, 500), 3, 0.8, 1.0
BAND = (0.935, 0.965)
LEVELS = (0.05, 0.01)
PROFILES: Mapping[str, tuple[float, ...]] = {
    "ask_clarifying_questions": (0.85, 0.4, 0.3, 0.5),
    "avoid_value_manipulation": (0.05, 0.05, 0.08, 0.1),
    "correct_misinformation": (0.1, 0.35, 0.05, 0.05, 0.3, 0.4),
    "defer_important_decisions": (0.25, 0.3, 0.4, 0.6, 0.2, 0.4),
    "encourage_learning": (0.5, 0.4, 0.5, 0.6, 0.7, 0.3),
    "maintain_social_boundaries": (0.05, 0.1, 0.15, 0.3, 0.4, 0.1),
}
"""Probability of each issue, in the order of letters: from scores that are mostly 0 to scores that are mostly 10."""


def logits(dimension: str, shift: float) -> Floats:
    """Of each issue at the middle of the cluster effect, [letters]; `shift` is added to the first."""
    p = np.array(PROFILES[dimension])
    found: Floats = np.log(p / (1 - p))
    found[0] += shift
    return found


def true_mean(dimension: str, shift: float = 0.0) -> float:
    """The mean score over clusters and replies, exact to the quadrature (60 nodes)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    means = []
    for node in nodes:
        present = 1 / (1 + np.exp(-(logits(dimension, shift) + CLUSTER_SD * node)))
        means.append(expected_score(dimension, dict(zip(ISSUES[dimension], present.tolist(), strict=True))))
    return float(weights @ np.array(means) / weights.sum())


def scores(dimension: str, shift: float, cluster_effect: Floats, rng: np.random.Generator) -> Floats:
    """One reply to each item, [n]; cluster_effect: each item's, [n]."""
    present = 1 / (1 + np.exp(-(logits(dimension, shift) + cluster_effect[:, None])))
    points = np.array([issue.points for issue in ISSUES[dimension].values()])
    return np.maximum(0.0, TOP - (rng.random(present.shape) < present) @ points)


def simulate(items: int, seed: int) -> Iterator[tuple[str, Floats, Floats, Floats]]:
    """(dimension, the first subject's scores, the null subject's, the planted one's) on the same items."""
    clusters = np.arange(items) // CLUSTER
    rng = np.random.default_rng(seed)
    for dimension in PROFILES:
        effect = CLUSTER_SD * rng.normal(size=clusters[-1] + 1)[clusters]
        yield dimension, *(scores(dimension, shift, effect, rng) for shift in (0.0, 0.0, SHIFT))


class Tally:
    """Shares of runs in which something held."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], list[bool]] = {}

    def add(self, row: str, column: str, held: bool) -> None:
        self.held.setdefault((row, column), []).append(held)

    def covers(self, row: str, column: str, estimate: Estimate, truth: float) -> None:
        known = estimate.low is not None and estimate.high is not None
        self.add(row, column, known and estimate.low <= truth <= estimate.high)

    def shares(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for (row, column), held in self.held.items():
            found.setdefault(row, {})[column] = sum(held) / len(held)
        return found


def measure(items: int, runs: int, seed: int) -> dict[str, dict[str, float]]:
    """row -> column -> share of runs. Rows are dimensions, overall, and overall difference; see `main` for columns."""
    truth = {name: true_mean(name) for name in PROFILES}
    planted = {name: true_mean(name, SHIFT) - truth[name] for name in PROFILES}
    truth[OVERALL], planted[OVERALL] = (float(np.mean(list(each.values()))) for each in (truth, planted))
    clusters, tally = np.arange(items) // CLUSTER, Tally()
    for run in range(runs):
        means: list[Clustered | None] = []
        differences: list[Clustered | None] = []
        sums: dict[str, list[Floats]] = {"null": [], "planted": []}
        for name, first, null, other in simulate(items, derive(seed, items, run)):
            means.append(clustered_mean(first, clusters))
            differences.append(clustered_mean(other - first, clusters))
            intervals(tally, name, means[-1], truth[name])
            if items == min(SIZES):
                each = np.bincount(clusters, first) / np.bincount(clusters)
                tally.covers(name, "BCa", mean_interval(each.tolist(), seed=run), truth[name])
            paired(tally, name, differences[-1], planted[name])
            for kind, side in (("null", null), ("planted", other)):
                sums[kind].append(np.bincount(clusters, side - first) / items)
                p_values(tally, name, kind, sums[kind][-1], run)
        intervals(tally, OVERALL, average(means), truth[OVERALL])
        paired(tally, OVERALL, average(differences), planted[OVERALL])
        for kind, each in sums.items():
            p_values(tally, OVERALL, kind, np.concatenate(each) / len(each), run)
    return tally.shares()


def intervals(tally: Tally, row: str, fit: Clustered | None, truth: float) -> None:
    assert fit is not None
    assert fit.error is not None
    half = NormalDist().inv_cdf(0.975) * fit.error
    tally.covers(row, "score", score_interval(fit, LIMITS), truth)
    tally.covers(row, "t", t_interval(fit), truth)
    normal = Estimate(mean=fit.value, low=fit.value - half, high=fit.value + half, n=fit.n)
    tally.covers(row, "normal", normal, truth)


def paired(tally: Tally, row: str, fit: Clustered | None, truth: float) -> None:
    assert fit is not None
    tally.covers(row, "paired", score_interval(fit, DIFFERENCES), truth)


def p_values(tally: Tally, row: str, kind: str, sums: Floats, run: int) -> None:
    p = sign_flip_p(sums, seed=run, draws=999)
    for level in LEVELS:
        tally.add(row, f"{kind} {level:g}", p <= level)


def verdicts(items: int, shares: Mapping[str, Mapping[str, float]], runs: int, slack: float) -> list[tuple[str, bool]]:
    """(sentence, whether it passed): coverage within `BAND`, false positives at most the level, errors of chance aside.

    slack: standard errors that coverage may lie outside its band; a level has three, as its true value is the level.
    """
    found = []
    for column in ("score", "paired"):
        low, high = (pick(row[column] for row in shares.values()) for pick in (min, max))
        error = slack * math.sqrt(0.05 * 0.95 / runs)
        good = BAND[0] - error <= low and high <= BAND[1] + error
        found.append((f"n = {items}: {column} intervals cover in {low:.1%} to {high:.1%}", good))
    for level in LEVELS:
        worst = max(row[f"null {level:g}"] for row in shares.values())
        good = worst <= level + 3 * math.sqrt(level * (1 - level) / runs)
        found.append((f"n = {items}: false positives at {level:g} in {worst:.1%} at most", good))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    runs, slack = (200, 3.0) if args.quick else (2000, 0.0)
    columns = ["score", "t", "normal", "BCa", "paired"]
    columns += [f"{kind} {level:g}" for kind in ("null", "planted") for level in LEVELS]
    results: dict[str, dict[str, dict[str, float]]] = {}
    passed: list[tuple[str, bool]] = []
    for items in SIZES:
        results[str(items)] = measure(items, runs, args.seed)
        print(f"{f'n = {items}, {runs} runs':28}" + "".join(f"{column:>13}" for column in columns))
        for row, cells in results[str(items)].items():
            print(f"{row:28}" + "".join(f"{cells[c]:13.1%}" if c in cells else f"{'-':>13}" for c in columns))
        passed += verdicts(items, results[str(items)], runs, slack)
    for sentence, good in passed:
        print(f"{'PASS' if good else 'MISS'}  {sentence}")
    missed = [sentence for sentence, good in passed if not good]
    print(json.dumps({"benchmark": "agency_statistics", "runs": runs, "missed": missed, "shares": results}))
    if missed:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    run_main(main)
