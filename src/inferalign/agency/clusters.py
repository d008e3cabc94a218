"""Means and slopes of values that come in clusters, with intervals that hold for few clusters and for skewed scores.

Values of one cluster (items made together, repeats of one item) may depend on each other in any way; clusters are
independent. Variances are the bias-reduced linearisation CR2 and degrees of freedom are Satterthwaite's, both of Bell
and McCaffrey (2002, Survey Methodology 28:169-181) under independence as the working model. With one regressor x and
no intercept (a mean is x = 1) they need no matrices:

    V = sum_g (sum_i x_i e_i)^2 / (1 - h_g) / S^2,   S = sum_i x_i^2,   h_g = sum_(i in g) x_i^2 / S

This module knows no score: `limits` are the ends of the scale, where a scale has ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from inferalign.core.errors import ScoringError
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, wilson_bounds

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Limits = tuple[float, float]
_SMALLEST = 1e-9
"""A standard error smaller than this part of the values is rounding."""
_BLOCK = 2_000_000
"""Numbers held at once while resampling (16 MB)."""


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """An estimated number and how sure it is."""

    value: float
    variance: float | None
    """Of `value`, not of one unit. None with `df` when there are fewer than two clusters."""
    df: float | None
    """Satterthwaite's degrees of freedom, for a quantile of Student's t."""
    n: int
    clusters: int

    @property
    def error(self) -> float | None:
        """The standard error."""
        return None if self.variance is None else math.sqrt(self.variance)


def cluster_codes(names: Sequence[str]) -> Codes:
    """A number for each unit, equal for units of one cluster; units named "" stand alone. Shape [n]."""
    known: dict[str, int] = {}
    keys = (name or f"\0{position}" for position, name in enumerate(names))
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.intp)


def clustered_mean(values: ArrayLike, clusters: ArrayLike) -> Clustered:
    """The mean of `values` [n], whose clusters are the codes `clusters` [n]. Raises `ScoringError` for no values."""
    data = np.asarray(values, dtype=np.float64)
    return clustered_slope(np.ones_like(data), data, clusters)


def clustered_slope(x: ArrayLike, y: ArrayLike, clusters: ArrayLike) -> Clustered:
    """The least-squares slope of y on x without intercept; all shapes [n]. Take group means out beforehand.

    Raises `ScoringError` for no values, for one that is not finite and for an x that is 0 everywhere.
    """
    regressor, response = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if response.size == 0:
        raise ScoringError("a mean of nothing was asked for: every unit was unscored, or there was none.")
    if not (np.isfinite(response).all() and np.isfinite(regressor).all()):
        raise ScoringError("a value is not finite: expected scores, with what could not be scored left out.")
    total = float(regressor @ regressor)
    if total == 0:
        raise ScoringError("a slope was asked for, but x is the same everywhere.")
    codes = _consecutive(clusters)
    slope = float(regressor @ response) / total
    count = int(codes.max()) + 1
    if count < 2:
        return Clustered(value=slope, variance=None, df=None, n=response.size, clusters=count)
    leverage = np.bincount(codes, regressor**2) / total
    residuals = np.bincount(codes, regressor * (response - slope * regressor)) / total
    if (left := 1 - leverage).min() <= _SMALLEST:  # one cluster has all of x: the others say nothing of the slope
        return Clustered(value=slope, variance=None, df=None, n=response.size, clusters=count)
    return Clustered(
        value=slope,
        variance=_without_rounding(float((residuals**2 / left).sum()), regressor, response, total),
        df=_satterthwaite(leverage),
        n=response.size,
        clusters=count,
    )


def combined(parts: Sequence[Clustered], weights: Sequence[float]) -> Clustered:
    """sum_k w_k value_k of independent parts, with the degrees of freedom of Welch (1947) and Satterthwaite (1946).

    (sum_k w_k^2 V_k)^2 / sum_k (w_k^2 V_k)^2 / df_k. A part without a variance leaves the sum without one.
    """
    value = sum(weight * part.value for part, weight in zip(parts, weights, strict=True))
    n, clusters = sum(part.n for part in parts), sum(part.clusters for part in parts)
    known = [(w * w * p.variance, p.df) for p, w in zip(parts, weights, strict=True) if p.variance is not None and p.df]
    if len(known) < len(parts) or not parts:
        return Clustered(value=value, variance=None, df=None, n=n, clusters=clusters)
    variance = sum(v for v, _ in known)
    spread = sum(v * v / df for v, df in known)
    df = variance**2 / spread if spread > 0 else sum(df for _, df in known)
    return Clustered(value=value, variance=variance, df=df, n=n, clusters=clusters)


def t_interval(fit: Clustered, *, level: float = 0.95) -> Estimate:
    """Value and interval by Student's t: for slopes, and for what has no scale with ends.

    There is none where all clusters agree: few that agree are not certainty, and the scale has no end to reckon with.
    """
    if not fit.variance or fit.df is None:
        return Estimate(mean=fit.value, low=None, high=None, n=fit.n)
    half = float(stats.t.ppf((1 + level) / 2, fit.df)) * math.sqrt(fit.variance)
    return Estimate(mean=fit.value, low=fit.value - half, high=fit.value + half, n=fit.n)


def score_interval(fit: Clustered, limits: Limits, *, level: float = 0.95) -> Estimate:
    """The mean of values that lie within `limits`, with the score interval of Wilson (1927) carried over to them.

    On the scale from 0 to 1 a mean p has the variance p (1 - p) / m; m, the effective sample size, is what the
    measured variance gives (Korn and Graubard 1998, Survey Methodology 24:193-201, do so for shares), and the quantile
    is Student's. The spread thus goes with the mean, as it does for scores that pile up at an end of their scale,
    where an interval that is symmetric about the mean misses too often on one side. It stays within the limits.

    G clusters that all agree have no measured spread. Another cluster then differs with a probability of at most
    q = 1 - (1 - level)^(1/G), or all agreeing were too improbable, and the mean moves by q of the way to a limit.
    """
    if fit.variance is None or fit.df is None:
        return Estimate(mean=fit.value, low=None, high=None, n=fit.n)
    bottom, top = limits
    width = top - bottom
    share = min(max((fit.value - bottom) / width, 0.0), 1.0)
    if fit.variance == 0 or share in (0.0, 1.0):
        differs = 1 - (1 - level) ** (1 / fit.clusters)
        low, high = share - differs * share, share + differs * (1 - share)
    else:
        effective = share * (1 - share) / (fit.variance / width**2)
        low, high = wilson_bounds(share, effective, float(stats.t.ppf((1 + level) / 2, fit.df)))
    return Estimate(mean=fit.value, low=bottom + width * low, high=bottom + width * high, n=fit.n)


def cluster_totals(values: ArrayLike, clusters: ArrayLike) -> Floats:
    """Sums of the rows of `values` [n, ...] over each cluster, in ascending order of the codes: [G, ...]."""
    data, codes = np.asarray(values, dtype=np.float64), _consecutive(clusters)
    totals = np.zeros((int(codes.max(initial=-1)) + 1, *data.shape[1:]))
    np.add.at(totals, codes, data)
    return totals


def resampled_counts(groups: int, *, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each of `groups` clusters is in a sample of as many, drawn with replacement: the cluster bootstrap.

    `resamples` samples, in blocks of shape [some, groups].
    """
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "cluster bootstrap")))
    rows = max(1, _BLOCK // groups)
    for start in range(0, resamples, rows):
        drawn = rng.integers(groups, size=(min(rows, resamples - start), groups))
        drawn += groups * np.arange(len(drawn))[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def bootstrap_interval(
    statistic: Callable[[Floats], Floats],
    clusters: ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float] | None:
    """The percentile interval of a statistic over resampled clusters.

    statistic: how often each cluster was drawn [some, G], in ascending order of the codes -> values [some], NaN where
    the statistic is undetermined. It is made of totals over clusters (`cluster_totals`), so that a resample costs a
    product of matrices and no look at its units.

    A statistic that some resamples do not determine is described by the others. None when that is under half of them,
    when there are fewer than two clusters, and when all resamples give one value: judges that agree throughout agree in
    every resample, which is no certainty that they always will.
    """
    groups = np.unique(np.asarray(clusters)).size
    if groups < 2:
        return None
    blocks = resampled_counts(groups, seed=seed, resamples=resamples)
    found = np.concatenate([statistic(counts) for counts in blocks])
    values = found[~np.isnan(found)]
    if values.size * 2 < resamples or values.min() == values.max():
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def jackknifed(statistic: Callable[[Codes], float | None], clusters: ArrayLike) -> Clustered:
    """`statistic` of all rows, with the delete-one-cluster jackknife (Tukey 1958): V = (G-1)/G sum (s_g - mean)^2.

    For statistics in which a cluster drawn twice would be mistaken for one large cluster, as in components of
    variance. Raises `ScoringError` when the statistic of all rows is undetermined; without a variance when one of the
    others is.
    """
    codes = _consecutive(clusters)
    rows = np.arange(codes.size)
    value = statistic(rows)
    if value is None:
        raise ScoringError("the statistic is undetermined: the rows say nothing about it.")
    count = int(codes.max()) + 1
    left_out = [statistic(rows[codes != cluster]) for cluster in range(count)] if count > 1 else []
    known = np.array([each for each in left_out if each is not None])
    if count < 2 or known.size < count:
        return Clustered(value=value, variance=None, df=None, n=codes.size, clusters=count)
    variance = (count - 1) / count * float(((known - known.mean()) ** 2).sum())
    return Clustered(value=value, variance=variance, df=count - 1, n=codes.size, clusters=count)


def _consecutive(clusters: ArrayLike) -> Codes:
    """Codes 0 ... G-1, in the order of the given ones."""
    codes: Codes = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1).astype(np.intp)
    return codes


def _satterthwaite(leverage: Floats) -> float:
    """tr(M)^2 / tr(M^2) of M_gh = a_g a_h (h_g [g = h] - h_g h_h), a_g = (1 - h_g)^(-1/2); M is never formed.

    M_gg = h_g, and off the diagonal M_gh^2 = c_g c_h with c = h^2 / (1 - h).
    """
    c = leverage**2 / (1 - leverage)
    squares = float((leverage**2).sum() + c.sum() ** 2 - (c**2).sum())
    return float(leverage.sum() ** 2) / squares


def _without_rounding(variance: float, x: Floats, y: Floats, total: float) -> float:
    """0 for a variance that only rounding makes: values that are all equal, or on one line."""
    scale = float(np.abs(x).max() * np.abs(y).max()) / total
    return 0.0 if variance <= (_SMALLEST * scale) ** 2 * x.size else variance
