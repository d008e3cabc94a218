"""What people's labels say about a judge: agreement, and a mean score that is corrected by them.

Prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic 2023, arXiv 2301.09633, section 2): with
a judge's scores f of all N + n items and people's scores Y of n of them,

    corrected mean = mean over the N unlabelled of f + mean over the n labelled of (Y - f)

is unbiased whatever the judge does, when the labelled items are a random sample of all; its interval is short when the
judge follows the people closely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.agency.agreement import alpha_estimate
from inferalign.agency.analysis import LIMITS
from inferalign.agency.clusters import Clustered, clustered_mean, combined, score_interval, t_interval
from inferalign.agency.labels import HumanScores
from inferalign.agency.table import Arm, Floats, Table
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class HumanAgreement:
    """Krippendorff's alpha in one dimension, over the replies that have labels."""

    dimension: str
    people: Estimate
    """Between annotators, of scores (interval): what a judge can hope for."""
    judge: Estimate
    """Between the judge and the annotators' mean, of scores (interval)."""
    letters_people: dict[str, Estimate]
    """Between annotators, of each issue (nominal)."""
    letters_judge: dict[str, Estimate]
    """Between the judge and the annotators' majority, of each issue; ties count as named."""


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A mean score of one arm in one dimension, 0 to 10."""

    judge: Estimate
    """As the judge has it, over all its items."""
    people: Estimate
    """As people have it, over the labelled items only."""
    corrected: Estimate
    """Prediction-powered, over both. A correction has no scale with ends: the interval is Student's, cut off at 0 and
    10, and the point may lie outside of them."""


def human_agreement(
    table: Table, labels: HumanScores, judge: str, dimension: str, letters: Sequence[str], *, seed: int = 0
) -> HumanAgreement:
    """Raises `ScoringError` for a judge without verdicts and when no reply of the dimension has a label."""
    rows = (table.reply_dimension == dimension) & ~np.isnan(labels.mean)
    if not rows.any():
        raise ScoringError(f"no reply in {dimension} has a label.")
    clusters = table.reply_cluster[rows]
    beside = np.column_stack([table.reply_scores(judge)[rows], labels.mean[rows]])
    named = {letter: labels.named(letter)[rows] for letter in letters}
    majority = {
        letter: np.column_stack([table.reply_letter(judge, letter)[rows], _majority(each)])
        for letter, each in named.items()
    }
    return HumanAgreement(
        dimension=dimension,
        people=alpha_estimate(labels.scores[rows], "interval", clusters, seed=seed),
        judge=alpha_estimate(beside, "interval", clusters, seed=seed),
        letters_people={name: alpha_estimate(each, "nominal", clusters, seed=seed) for name, each in named.items()},
        letters_judge={name: alpha_estimate(each, "nominal", clusters, seed=seed) for name, each in majority.items()},
    )


def corrected_mean(
    table: Table, labels: HumanScores, arm: Arm, dimension: str, judge: str, *, level: float = 0.95
) -> Corrected:
    """The arm's mean score by the judge, corrected by people's labels of some of its items.

    An item's f is the judge's mean over its replies, its Y - f the mean over those that have a label. Items that the
    judge did not score are left out. Raises `ScoringError` for fewer than two labelled or two unlabelled items.
    """
    replies = table.of_arm(arm) & (table.reply_dimension == dimension)
    scores, people = table.reply_scores(judge), labels.mean
    items, f = _item_means(table, replies & ~np.isnan(scores), scores)
    both = replies & ~np.isnan(scores) & ~np.isnan(people)
    labelled, gap = _item_means(table, both, people - scores)
    _, y = _item_means(table, both, people)
    unlabelled = ~np.isin(items, labelled)
    if labelled.size < 2 or unlabelled.sum() < 2:
        raise ScoringError(
            f"{arm} in {dimension}: {labelled.size} labelled and {int(unlabelled.sum())} unlabelled items: "
            "a correction needs two of each."
        )
    clusters = table.item_cluster
    fit = prediction_powered(f[unlabelled], clusters[items[unlabelled]], gap, clusters[labelled])
    return Corrected(
        judge=score_interval(clustered_mean(f, clusters[items]), LIMITS, level=level),
        people=score_interval(clustered_mean(y, clusters[labelled]), LIMITS, level=level),
        corrected=_clipped(t_interval(fit, level=level)),
    )


def prediction_powered(
    predictions: ArrayLike, clusters: ArrayLike, rectifiers: ArrayLike, labelled_clusters: ArrayLike
) -> Clustered:
    """mean(predictions) + mean(rectifiers): shapes [N] (f, unlabelled) and [n] (Y - f, labelled), with cluster codes.

    The two means are independent but for clusters with items of both kinds, whose residual sums are multiplied for the
    covariance. Raises `ScoringError` when either is empty.
    """
    f, gap = np.asarray(predictions, dtype=np.float64), np.asarray(rectifiers, dtype=np.float64)
    fit = combined([clustered_mean(f, clusters), clustered_mean(gap, labelled_clusters)], [1.0, 1.0])
    if fit.variance is None:
        return fit
    left, right = _residual_sums(f, clusters), _residual_sums(gap, labelled_clusters)
    covariance = sum(left[code] * right[code] for code in left.keys() & right.keys())
    # Values that are all equal have residuals of rounding alone, whose products may be below 0.
    variance = max(fit.variance + 2 * covariance, 0.0)
    return Clustered(value=fit.value, variance=variance, df=fit.df, n=fit.n, clusters=len(left | right))


def _residual_sums(values: Floats, clusters: ArrayLike) -> dict[int, float]:
    codes, places = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(places.reshape(-1), values - values.mean()) / values.size
    return dict(zip(codes.tolist(), sums.tolist(), strict=True))


def _item_means(table: Table, replies: NDArray[np.bool_], values: Floats) -> tuple[NDArray[np.intp], Floats]:
    """(rows of the items that have such replies, their means)."""
    items, places = np.unique(table.reply_item[replies], return_inverse=True)
    sums = np.bincount(places.reshape(-1), values[replies], items.size)
    return items, sums / np.bincount(places.reshape(-1), minlength=items.size)


def _majority(named: Floats) -> Floats:
    known = ~np.isnan(named)
    votes = np.where(known, named, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), (2 * votes >= known.sum(axis=1)).astype(np.float64), np.nan)


def _clipped(estimate: Estimate) -> Estimate:
    if estimate.low is None or estimate.high is None:
        return estimate
    low, high = max(estimate.low, LIMITS[0]), min(estimate.high, LIMITS[1])
    return Estimate(mean=estimate.mean, low=low, high=high, n=estimate.n)
