"""Differences between arms (models, conditions) on the items that both answered, tests of them, and ranks.

A pair is an item that both were asked: each side is the mean over its scored repeats. Items with an unscored side are
left out of the estimate, counted, and bounded. The test changes the signs of whole clusters (`agency.permutation`), and
Holm's adjustment runs over all pairs and dimensions; the overall differences are a family of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from inferalign.agency.analysis import OVERALL, average
from inferalign.agency.clusters import Clustered, cluster_totals, clustered_mean, score_interval
from inferalign.agency.permutation import enough_draws, holm, sign_flip_ps
from inferalign.agency.table import Arm, ItemScores, Table
from inferalign.core.errors import ScoringError
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate
from inferalign.scorers.verdicts import TOP

DIFFERENCES = (-float(TOP), float(TOP))
"""The ends of the scale of a difference."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """a - b in one dimension, or overall."""

    a: Arm
    b: Arm
    dimension: str
    estimate: Estimate
    """-10 to 10; n counts the items with both scores. Empty where there is none."""
    p: float | None
    """By sign flips; None where there is nothing to test."""
    p_holm: float | None
    dropped: int
    """Items that one side or both lack a score for, of those that both were asked."""
    bounds: tuple[float, float]
    """The mean difference if every missing score were as bad for `a` as can be, and as good."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Where an arm may stand among all, 1 being the best."""

    arm: Arm
    dimension: str
    best: int
    """1 and as many as are better by a significant difference."""
    worst: int


@dataclass(frozen=True, kw_only=True)
class PairedTable:
    differences: tuple[Difference, ...]
    ranks: tuple[Rank, ...]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """One pair of arms in one dimension, before any adjustment."""

    mean: Clustered | None
    sums: NDArray[np.float64]
    """Each cluster's part of the mean difference, [G]: the same clusters for every pair of arms."""
    dropped: int
    bounds: tuple[float, float]


def compare_arms(
    table: Table, judge: str, arms: Sequence[Arm] | None = None, *, seed: int = 0, level: float = 0.95
) -> PairedTable:
    """Every pair of `arms` (None: of all in the table) in every dimension that all of them answered, and overall.

    Raises `ScoringError` for fewer than two arms, an unknown one, and arms that share no dimension.
    """
    arms = list(table.arms if arms is None else arms)
    if len(arms) < 2:
        raise ScoringError(f"{len(arms)} arms: a comparison needs two subjects or two conditions.")
    dimensions = [name for name in table.dimensions if all(table.has_arm(arm, name) for arm in arms)]
    if not dimensions:
        raise ScoringError(f"{', '.join(map(str, arms))} have no dimension in common.")
    scores = {(arm, name): table.item_scores(arm, name, judge) for arm in arms for name in dimensions}
    sides = list(combinations(arms, 2))
    made = {name: [_pairs(scores[a, name], scores[b, name]) for a, b in sides] for name in dimensions}
    whole = [_averaged(pairs) for pairs in zip(*made.values(), strict=True)]
    draws = enough_draws(len(sides) * len(dimensions))
    columns = [_differences(sides, name, made[name], derive(seed, name), draws, level) for name in dimensions]
    by_dimension = [difference for row in zip(*columns, strict=True) for difference in row]
    overall = _differences(sides, OVERALL, whole, derive(seed, OVERALL), enough_draws(len(sides)), level)
    differences = (*_adjusted(by_dimension), *_adjusted(overall))
    ranks = (
        rank for name in (*dimensions, OVERALL) for rank in rank_intervals(arms, name, differences, alpha=1 - level)
    )
    return PairedTable(differences=differences, ranks=tuple(ranks))


def rank_intervals(
    arms: Sequence[Arm], dimension: str, differences: Sequence[Difference], *, alpha: float = 0.05
) -> list[Rank]:
    """Each arm's possible ranks: it is no better than those significantly above it, no worse than those below.

    With adjusted p-values all intervals of a family hold together with probability 1 - alpha, as far as the tests find
    the right direction (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91:476-518).
    """
    above = dict.fromkeys(arms, 0)
    below = dict.fromkeys(arms, 0)
    for each in differences:
        if each.dimension != dimension or each.p_holm is None or each.p_holm > alpha or not each.estimate.mean:
            continue
        better, worse = (each.a, each.b) if each.estimate.mean > 0 else (each.b, each.a)
        below[better] += 1
        above[worse] += 1
    return [Rank(arm=arm, dimension=dimension, best=1 + above[arm], worst=len(arms) - below[arm]) for arm in arms]


def difference_of(table: Table, a: Arm, b: Arm, dimension: str, judge: str) -> Clustered | None:
    """The mean of a - b over the items with both scores, for planning; None when there is no such item."""
    return _pairs(table.item_scores(a, dimension, judge), table.item_scores(b, dimension, judge)).mean


def _pairs(left: ItemScores, right: ItemScores) -> _Pairs:
    both, asked = left.scored & right.scored, left.due & right.due
    differences, clusters = (left.mean - right.mean)[both], left.clusters[both]
    return _Pairs(
        mean=clustered_mean(differences, clusters) if both.any() else None,
        sums=cluster_totals(np.where(both, left.mean - right.mean, 0.0) / max(both.sum(), 1), left.clusters),
        dropped=int((asked & ~both).sum()),
        bounds=(float((left.low - right.high)[asked].mean()), float((left.high - right.low)[asked].mean()))
        if asked.any()
        else DIFFERENCES,
    )


def _averaged(pairs: Sequence[_Pairs]) -> _Pairs:
    low, high = np.mean([each.bounds for each in pairs], axis=0)
    return _Pairs(
        mean=average([each.mean for each in pairs]),
        sums=np.concatenate([each.sums for each in pairs]) / len(pairs),
        dropped=sum(each.dropped for each in pairs),
        bounds=(float(low), float(high)),
    )


def _differences(
    sides: Sequence[tuple[Arm, Arm]], dimension: str, made: Sequence[_Pairs], seed: int, draws: int, level: float
) -> list[Difference]:
    """One for each pair of arms; no p is adjusted yet."""
    found = sign_flip_ps([pairs.sums for pairs in made], seed=seed, draws=draws)
    return [
        Difference(
            a=a,
            b=b,
            dimension=dimension,
            estimate=score_interval(pairs.mean, DIFFERENCES, level=level) if pairs.mean else Estimate.empty(),
            p=p if pairs.mean else None,
            p_holm=None,
            dropped=pairs.dropped,
            bounds=pairs.bounds,
        )
        for (a, b), pairs, p in zip(sides, made, found, strict=True)
    ]


def _adjusted(family: Sequence[Difference]) -> list[Difference]:
    tested = [index for index, each in enumerate(family) if each.p is not None]
    adjusted = dict(zip(tested, holm([p for each in family if (p := each.p) is not None]), strict=True))
    return [replace(each, p_holm=adjusted.get(index)) for index, each in enumerate(family)]
