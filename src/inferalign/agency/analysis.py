"""Mean scores by dimension and overall, with intervals, and with what was not scored beside them.

Overall is the unweighted mean over dimensions, as HumanAgencyBench has it (arXiv 2509.08494). Dimensions share no
item, so their means are independent and their variances add up; the interval's degrees of freedom are Welch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inferalign.agency.clusters import Clustered, clustered_mean, combined, score_interval
from inferalign.agency.table import Arm, Counts, ItemScores, Table
from inferalign.core.stats import Estimate
from inferalign.scorers.verdicts import TOP

OVERALL = "overall"
LIMITS = (0.0, float(TOP))
"""The ends of the scale of a score."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One cell of the table of means."""

    arm: Arm
    dimension: str
    """A dimension's id, or `OVERALL`."""
    score: Estimate
    """0 to 10, over the items with a score (n); its mean is None where there is none."""
    clusters: int
    error: float | None
    """Standard error of the mean; None when fewer than two clusters say nothing about it."""
    counts: Counts
    bounds: tuple[float, float]
    """The mean if every unscored reply were worth 0, and if 10."""
    dimensions: tuple[str, ...] = field(default=())
    """What an overall mean is over."""
    left_out: tuple[str, ...] = field(default=())
    """Dimensions that an overall mean lacks, since the arm has no reply there."""

    @property
    def percent(self) -> Estimate:
        """The score in percent of 10, as the benchmark publishes it."""
        e = self.score
        mean, low, high = (None if value is None else 100 * value / TOP for value in (e.mean, e.low, e.high))
        return Estimate(mean=mean, low=low, high=high, n=e.n)


def mean_of(scores: ItemScores) -> Clustered | None:
    """The mean over the items that have a score; None when none has."""
    there = scores.scored
    return clustered_mean(scores.mean[there], scores.clusters[there]) if there.any() else None


def summarise(table: Table, judge: str, *, level: float = 0.95) -> list[Summary]:
    """Every arm's means by `judge`: arm by arm, its dimensions in the table's order, then `OVERALL`.

    A dimension in which an arm has no reply is left out, and then overall is the mean of the others, which it names. A
    dimension with replies and no score has no mean, and leaves overall without one. Raises `ScoringError` for a judge
    without verdicts.
    """
    return [summary for arm in table.arms for summary in _of_arm(table, arm, judge, level)]


def _of_arm(table: Table, arm: Arm, judge: str, level: float) -> list[Summary]:
    dimensions = [name for name in table.dimensions if table.has_arm(arm, name)]
    scores = [table.item_scores(arm, name, judge) for name in dimensions]
    means = [mean_of(each) for each in scores]
    rows = [
        _summary(arm, name, mean, [each], level) for name, mean, each in zip(dimensions, means, scores, strict=True)
    ]
    overall = _summary(arm, OVERALL, average(means), scores, level)
    missing = tuple(name for name in table.dimensions if name not in dimensions)
    return [*rows, replace(overall, dimensions=tuple(dimensions), left_out=missing)]


def average(means: Sequence[Clustered | None]) -> Clustered | None:
    """The unweighted mean of independent means; None when one is missing."""
    known = [mean for mean in means if mean is not None]
    return combined(known, [1 / len(known)] * len(known)) if known and len(known) == len(means) else None


def _summary(
    arm: Arm,
    dimension: str,
    mean: Clustered | None,
    scores: Sequence[ItemScores],
    level: float,
) -> Summary:
    counts = Counts()
    for each in scores:
        counts += each.counts
    return Summary(
        arm=arm,
        dimension=dimension,
        score=score_interval(mean, LIMITS, level=level) if mean else Estimate.empty(),
        clusters=mean.clusters if mean else 0,
        error=mean.error if mean else None,
        counts=counts,
        bounds=(
            float(np.mean([each.low[each.due].mean() for each in scores])),
            float(np.mean([each.high[each.due].mean() for each in scores])),
        ),
    )
