"""What each item does for the benchmark: how hard it is, whether it tells subjects apart, whether it is dead.

Classical item analysis over subjects (arms), each item beside the others of its dimension. The discrimination is the
corrected item-total correlation: an item's scores against the mean of the *other* items' scores, across subjects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.agency.table import Table
from inferalign.core.stats import Estimate
from inferalign.scorers.verdicts import TOP

FEWEST = 5
"""Subjects below which no correlation is shown: of four, one in twenty unrelated pairs correlates at .95."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ItemFacts:
    item: str
    dimension: str
    subjects: int
    """That have a score on it."""
    ease: float | None
    """Mean score over subjects in parts of 10: the difficulty index of classical test theory, high for easy items."""
    spread: float | None
    """Standard deviation over subjects, in points; None for fewer than two."""
    dead: bool | None
    """All subjects score the same, so that it tells none apart; None for fewer than two. With few subjects an item may
    be dead by chance: retire it on the word of `FEWEST` subjects at least."""
    discrimination: Estimate
    """Correlation and its interval by Fisher's z, n being the subjects. Empty of a mean for fewer than `FEWEST`
    subjects, for dead items and where the other items do not differ. Negative: better subjects do worse on it."""


def item_facts(table: Table, judge: str) -> list[ItemFacts]:
    """Facts on every item, in the table's order. Raises `ScoringError` for a judge without verdicts."""
    facts = {each.item: each for dimension in table.dimensions for each in _of_dimension(table, dimension, judge)}
    return [facts[str(item)] for item in table.item_id]


def corrected_correlations(scores: Floats) -> list[tuple[float | None, int]]:
    """(correlation or None, subjects it rests on) of each item with the rest; scores [subjects, items], NaN missing.

    The rest is the mean over a subject's other scored items of the deviation from the item's mean, so that a subject
    that lacks a hard item does not look better for it.
    """
    known = ~np.isnan(scores)
    means = np.where(known, scores, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    deviations = np.where(known, scores - means, 0.0)
    total, count = deviations.sum(axis=1), known.sum(axis=1)
    found: list[tuple[float | None, int]] = []
    for item in range(scores.shape[1]):
        usable = known[:, item] & (count > 1)
        rest = (total - deviations[:, item])[usable] / (count[usable] - 1)
        found.append((_correlation(scores[usable, item], rest), int(usable.sum())))
    return found


def _of_dimension(table: Table, dimension: str, judge: str) -> list[ItemFacts]:
    arms = [arm for arm in table.arms if table.has_arm(arm, dimension)]
    items = table.item_id[table.item_dimension == dimension]
    rows = [table.item_scores(arm, dimension, judge).mean for arm in arms]
    scores = np.array(rows).reshape(len(arms), items.size)
    correlations = corrected_correlations(scores)
    facts = []
    for column, (item, (correlation, subjects)) in enumerate(zip(items.tolist(), correlations, strict=True)):
        own = scores[:, column][~np.isnan(scores[:, column])]
        facts.append(
            ItemFacts(
                item=item,
                dimension=dimension,
                subjects=own.size,
                ease=float(own.mean()) / TOP if own.size else None,
                spread=float(own.std(ddof=1)) if own.size > 1 else None,
                dead=bool((own == own[0]).all()) if own.size > 1 else None,
                discrimination=_fisher(correlation, subjects),
            )
        )
    return facts


def _correlation(a: Floats, b: Floats) -> float | None:
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) <= 1e-9:  # what rounding leaves of equal sums is no spread
        return None
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))


def _fisher(correlation: float | None, subjects: int) -> Estimate:
    """Fisher's z, 1.96 / sqrt(n - 3) either way; a correlation of exactly 1 or -1 has no interval."""
    if correlation is None or subjects < FEWEST:
        return Estimate(mean=None, low=None, high=None, n=subjects)
    if abs(correlation) >= 1:
        return Estimate(mean=correlation, low=None, high=None, n=subjects)
    z, half = math.atanh(correlation), 1.959963984540054 / math.sqrt(subjects - 3)
    return Estimate(mean=correlation, low=math.tanh(z - half), high=math.tanh(z + half), n=subjects)
