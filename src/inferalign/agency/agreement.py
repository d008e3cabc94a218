"""Agreement beyond chance: Krippendorff's alpha with missing values, and Cohen's kappa of two observers.

Krippendorff, "Computing Krippendorff's alpha-reliability" (2011, University of Pennsylvania). Observed disagreement is
taken within units that at least two observers valued, expected disagreement over all their values:

    alpha = 1 - (n - 1) sum_u sum_(c<>k) n_uc n_uk d(c, k) / (m_u - 1)  /  sum_(c<>k) n_c n_k d(c, k)

with n_uc how often unit u got the value c, m_u its number of values, n_c and n their sums over units, and d the squared
difference that suits the scale. 1 is perfect agreement, 0 is what chance would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.agency.clusters import bootstrap_interval, cluster_totals
from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate

Floats = NDArray[np.float64]
Metric = Literal["nominal", "ordinal", "interval", "ratio"]


def krippendorff_alpha(values: ArrayLike, metric: Metric) -> float | None:
    """Alpha of `values` [units, observers], NaN where an observer gave none.

    None when it is undetermined: fewer than two units with two values, or one value everywhere. `ratio` is for values
    from 0 up. Raises `InputError` for another shape.
    """
    counts, scale = _counts(values)
    return _alpha(counts, _observed(counts, scale, metric), scale, metric)


def alpha_estimate(
    values: ArrayLike, metric: Metric, clusters: ArrayLike, *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Alpha with the percentile interval of a bootstrap over clusters of units. n counts the units with two values.

    values: [units, observers] as in `krippendorff_alpha`; clusters: codes, [units].
    """
    counts, scale = _counts(values)
    usable = counts.sum(axis=1) >= 2
    counts, codes = counts[usable], np.asarray(clusters)[usable]
    units = int(usable.sum())
    observed = _observed(counts, scale, metric)
    alpha = _alpha(counts, observed, scale, metric)
    if alpha is None:
        return Estimate(mean=None, low=None, high=None, n=units)
    sums = _ClusterSums(
        units=cluster_totals(np.ones(units), codes),
        values=cluster_totals(counts, codes),
        observed=cluster_totals(observed, codes),
        coincidences=cluster_totals(_coincidences(counts), codes) if metric == "ordinal" else None,
    )
    interval = bootstrap_interval(lambda drawn: _alphas(sums, drawn, scale, metric), codes, seed=seed, level=level)
    low, high = interval or (None, None)
    return Estimate(mean=alpha, low=low, high=high, n=units)


def cohen_kappa(one: ArrayLike, other: ArrayLike) -> float | None:
    """Kappa of two observers (Cohen 1960): (p_o - p_e) / (1 - p_e), p_e from each observer's own shares.

    Shapes [units]; a unit where either is NaN is left out. None when no unit is left or both say one thing throughout.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if not a.size:
        return None
    labels = np.unique(np.concatenate([a, b]))
    expected = float(sum((a == label).mean() * (b == label).mean() for label in labels))
    return None if expected >= 1 else float(((a == b).mean() - expected) / (1 - expected))


def kappa_estimate(
    one: ArrayLike, other: ArrayLike, clusters: ArrayLike, *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Kappa with the percentile interval of a bootstrap over clusters of units; n counts the units with both values."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b, codes = a[both], b[both], np.asarray(clusters)[both]
    kappa = cohen_kappa(a, b)
    if kappa is None:
        return Estimate(mean=None, low=None, high=None, n=a.size)
    labels = np.unique(np.concatenate([a, b]))
    pairs = (a[:, None, None] == labels[:, None]) & (b[:, None, None] == labels)  # [units, L, L], one True each
    tables = cluster_totals(pairs, codes).reshape(-1, labels.size**2)
    interval = bootstrap_interval(lambda drawn: _kappas(drawn @ tables, labels.size), codes, seed=seed, level=level)
    low, high = interval or (None, None)
    return Estimate(mean=kappa, low=low, high=high, n=a.size)


@dataclass(frozen=True, kw_only=True)
class _ClusterSums:
    """What a resample of clusters needs to know of each: [G], but for the last two axes [V, V] or [V] of values."""

    units: Floats
    values: Floats
    """How often each value was given, [G, V]."""
    observed: Floats
    coincidences: Floats | None
    """[G, V, V], for an ordinal scale: what is observed there depends on the ranks in the resample."""


def _alphas(sums: _ClusterSums, drawn: Floats, scale: Floats, metric: Metric) -> Floats:
    """Alpha of each resample, [some]; drawn: how often each cluster is in it, [some, G]. NaN where undetermined."""
    totals = drawn @ sums.values
    if sums.coincidences is None:
        distances = _distances(totals, scale, metric)
        expected, observed = ((totals @ distances) * totals).sum(axis=1), drawn @ sums.observed
    else:
        pairs = zip(totals, drawn, strict=True)
        found = [
            (own @ (d := _distances(own, scale, metric)) @ own, (np.tensordot(times, sums.coincidences, 1) * d).sum())
            for own, times in pairs
        ]
        expected, observed = np.array(found).T
    known = (drawn @ sums.units >= 2) & (expected > 0)
    return np.where(known, 1 - (totals.sum(axis=1) - 1) * observed / np.where(known, expected, 1.0), np.nan)


def _kappas(tables: Floats, labels: int) -> Floats:
    """Kappa of each table of two observers' labels, [some, L * L] -> [some]; NaN where both say one thing."""
    cells = tables.reshape(-1, labels, labels)
    n = cells.sum(axis=(1, 2))
    agreed = np.trace(cells, axis1=1, axis2=2) / n
    expected = (cells.sum(axis=1) * cells.sum(axis=2)).sum(axis=1) / n**2
    known = expected < 1
    return np.where(known, (agreed - expected) / np.where(known, 1 - expected, 1.0), np.nan)


def _coincidences(counts: Floats) -> Floats:
    """How often two values meet within each unit, over its size less one: [units, V, V]."""
    within: Floats = counts[:, :, None] * counts[:, None, :] / np.maximum(counts.sum(axis=1) - 1, 1)[:, None, None]
    return within


def _counts(values: ArrayLike) -> tuple[Floats, Floats]:
    """(how often each unit got each value [units, V], the values in ascending order [V])."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise InputError(f"values of the shape {table.shape}: expected one row a unit and one column an observer.")
    there = ~np.isnan(table)
    scale, codes = np.unique(table[there], return_inverse=True)
    counts = np.zeros((table.shape[0], scale.size))
    np.add.at(counts, (np.nonzero(there)[0], codes.reshape(-1)), 1)
    return counts, scale


def _alpha(counts: Floats, observed: Floats, scale: Floats, metric: Metric) -> float | None:
    usable = counts.sum(axis=1) >= 2
    totals = counts[usable].sum(axis=0)
    expected = float(totals @ _distances(totals, scale, metric) @ totals)
    if usable.sum() < 2 or expected == 0:
        return None
    return 1 - (float(totals.sum()) - 1) * float(observed[usable].sum()) / expected


def _observed(counts: Floats, scale: Floats, metric: Metric) -> Floats:
    """Each unit's disagreement, [units]; 0 for units with fewer than two values."""
    sizes = counts.sum(axis=1)
    distances = _distances(counts[sizes >= 2].sum(axis=0), scale, metric)
    within: Floats = ((counts @ distances) * counts).sum(axis=1) / np.maximum(sizes - 1, 1)
    return np.where(sizes >= 2, within, 0.0)


def _distances(totals: Floats, scale: Floats, metric: Metric) -> Floats:
    """d(c, k) of every two values, [V, V]; an ordinal scale's depend on how often the values occur."""
    if metric == "nominal":
        return 1.0 - np.eye(scale.size)
    if metric == "ratio":
        sums = scale[:, None] + scale[None, :]
        return ((scale[:, None] - scale[None, :]) / np.where(sums == 0, 1.0, sums)) ** 2
    # Krippendorff's ordinal d counts the values between c and k, half of those at the ends: a difference of mid-ranks.
    place = np.cumsum(totals) - totals / 2 if metric == "ordinal" else scale
    return (place[:, None] - place[None, :]) ** 2
