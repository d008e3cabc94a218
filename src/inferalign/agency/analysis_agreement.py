"""Do judges agree: with each other, with ground truth, issue by issue and on the score.

Units are replies; those of one item, and of items made together, are one cluster. A reply that a judge could not score
is missing for it, and is counted where the estimate's n falls short of the replies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.agency.agreement import alpha_estimate, kappa_estimate
from inferalign.agency.table import Flags, Table
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate, clustered_proportion

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Krippendorff's alpha in one dimension. An alpha of None: too few replies, or nothing that differs."""

    dimension: str
    score: Estimate
    """Of the scores, as numbers on an interval scale."""
    letters: dict[str, Estimate]
    """Of each issue, named or not (nominal)."""
    kappa: dict[str, Estimate]
    """Cohen's kappa of each issue; for two judges only, else empty."""


@dataclass(frozen=True, kw_only=True)
class LetterAgreement:
    """A judge against ground truth on one issue."""

    dimension: str
    letter: str
    sensitivity: Estimate
    """Of the replies that have the issue, the share in which the judge names it."""
    specificity: Estimate
    """Of the replies that do not have it, the share in which the judge does not name it."""
    balanced: Estimate
    """The mean of the two: .5 is guessing, whatever the issue's frequency. Empty when one of them is."""
    unscored: int
    """Replies that ground truth judges and the judge does not."""


def judge_agreement(
    table: Table, judges: Sequence[str], dimension: str, letters: Sequence[str], *, seed: int = 0
) -> Agreement:
    """Agreement of two or more judges on the replies of a dimension whose issues are `letters`.

    Raises `ScoringError` for fewer than two judges, and for one without verdicts.
    """
    if len(judges) < 2:
        raise ScoringError(f"{len(judges)} judges: agreement needs two.")
    rows = table.reply_dimension == dimension
    clusters = table.reply_cluster[rows]
    scores = np.column_stack([table.reply_scores(judge)[rows] for judge in judges])
    named = {
        letter: np.column_stack([table.reply_letter(judge, letter)[rows] for judge in judges]) for letter in letters
    }
    pair = named.items() if len(judges) == 2 else ()
    return Agreement(
        dimension=dimension,
        score=alpha_estimate(scores, "interval", clusters, seed=seed),
        letters={letter: alpha_estimate(each, "nominal", clusters, seed=seed) for letter, each in named.items()},
        kappa={letter: kappa_estimate(each[:, 0], each[:, 1], clusters, seed=seed) for letter, each in pair},
    )


def against_truth(
    table: Table, judge: str, truth: str, dimension: str, letters: Sequence[str]
) -> list[LetterAgreement]:
    """`judge` against the judge `truth` (an oracle, or labels taken for true), issue by issue.

    Shares have Wilson intervals at the effective sample size of their clusters (`core.stats.clustered_proportion`).
    Raises `ScoringError` for a judge without verdicts.
    """
    rows = table.reply_dimension == dimension
    clusters = table.reply_cluster[rows]
    found = []
    for letter in letters:
        said, true = table.reply_letter(judge, letter)[rows], table.reply_letter(truth, letter)[rows]
        judged = ~np.isnan(said)
        sensitivity = _share(said == 1, clusters, judged & (true == 1))
        specificity = _share(said == 0, clusters, judged & (true == 0))
        found.append(
            LetterAgreement(
                dimension=dimension,
                letter=letter,
                sensitivity=sensitivity,
                specificity=specificity,
                balanced=balanced_accuracy(sensitivity, specificity),
                unscored=int((~judged & ~np.isnan(true)).sum()),
            )
        )
    return found


def balanced_accuracy(sensitivity: Estimate, specificity: Estimate) -> Estimate:
    """The mean of two shares on different replies, its interval made of theirs.

    The bounds are recovered from the distances of the shares' own bounds (MOVER: Zou and Donner 2008, Statistics in
    Medicine 27:1693-1702): half the root of the sum of their squares. n counts the clusters of both.
    """
    parts = (sensitivity, specificity)
    means = [each.mean for each in parts if each.mean is not None]
    n = sensitivity.n + specificity.n
    if len(means) < 2:
        return Estimate(mean=None, low=None, high=None, n=n)
    mean = sum(means) / 2
    lows = [each.low for each in parts if each.low is not None]
    highs = [each.high for each in parts if each.high is not None]
    if len(lows) < 2 or len(highs) < 2:
        return Estimate(mean=mean, low=None, high=None, n=n)
    return Estimate(mean=mean, low=mean - math.dist(means, lows) / 2, high=mean + math.dist(means, highs) / 2, n=n)


def _share(hits: Flags, clusters: NDArray[np.intp], among: Flags) -> Estimate:
    groups = [hits[among & (clusters == cluster)].tolist() for cluster in np.unique(clusters[among])]
    return clustered_proportion(groups) if groups else Estimate.empty()
