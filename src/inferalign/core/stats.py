"""Means with intervals, over scored units only.

Numbers get a bias-corrected and accelerated (BCa) bootstrap (Efron 1987, "Better bootstrap confidence intervals"),
fewer than `ENOUGH_TO_RESAMPLE` of them Student's interval; yes/no outcomes get Wilson's score interval (Wilson 1927),
their paired differences that of Bonett and Price (2012), and those to numbers one that is put together of both.
A unit is what was drawn independently: a prompt, never one of its candidates. The mean of nothing raises; a report's
empty cell is `Estimate.empty()`, written on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from inferalign.core.errors import ScoringError
from inferalign.core.seeds import derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENOUGH_TO_RESAMPLE = 10
"""Fewer values do not show the spread that a bootstrap draws from: of three normal ones it covers 73 % for 95."""
_BLOCK = 2_000_000
"""Numbers held at once while resampling (16 MB)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, its interval and how many units it rests on."""

    mean: float | None
    low: float | None
    """None with `high` when fewer than two units say nothing about spread."""
    high: float | None
    n: int

    @classmethod
    def empty(cls) -> Estimate:
        """The cell of a table that no unit falls into."""
        return cls(mean=None, low=None, high=None, n=0)


def wilson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval, which stays inside [0, 1] and is honest at 0 and at n.

    The bounds are the shares p with |successes/n - p| = z sqrt(p (1 - p) / n). Raises `ScoringError` when n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ScoringError(f"{successes} successes of {n} have no share: expected 0 <= successes <= n and n >= 1.")
    low, high = wilson_bounds(successes / n, n, _normal_quantile(level))
    return Estimate(mean=successes / n, low=low, high=high, n=n)


def proportion(values: Sequence[bool], *, level: float = 0.95) -> Estimate:
    """The share of True with Wilson's interval. Raises `ScoringError` for no values."""
    return wilson(sum(1 for value in values if value), len(values), level=level)


def clustered_proportion(groups: Sequence[Sequence[bool]], *, level: float = 0.95) -> Estimate:
    """The share of True over all values, where only the groups are independent (many judgements of one prompt).

    Wilson's interval at the effective sample size p (1 - p) / v, v being the variance of a ratio of group totals, with
    Student's quantile for the normal one, since v is known from the groups alone (Korn and Graubard 1998, Survey
    Methodology 24:193-201, with Wilson's interval for Clopper and Pearson's). That size is at most the number of
    values, and the number of groups where these do not differ; where all values agree nothing is known of v, and the
    quantile is the normal one. Groups of one value are no clusters: `proportion`. Empty groups are left out; n counts
    the others. Raises `ScoringError` when there is no value.
    """
    filled = [group for group in groups if len(group)]
    total, n = sum(map(len, filled)), len(filled)
    if not filled:
        raise ScoringError("a share of nothing was asked for: every group is empty, or there was none.")
    share = sum(map(sum, filled)) / total
    if n == 1:
        return Estimate(mean=share, low=None, high=None, n=1)
    if total == n:
        return wilson(sum(map(sum, filled)), n, level=level)
    squares = sum((sum(group) - share * len(group)) ** 2 for group in filled)
    variance = squares * n / (n - 1) / total**2
    if not 0 < share < 1:
        low, high = wilson_bounds(share, n, _normal_quantile(level))
    else:
        effective = min(share * (1 - share) / variance, total) if variance > 0 else n
        low, high = wilson_bounds(share, effective, _student_quantile(level, n - 1))
    return Estimate(mean=share, low=low, high=high, n=n)


def mean_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0, resamples: int = 2000) -> Estimate:
    """The mean of independent units with a BCa bootstrap interval; the same values and seed give the same interval.

    Fewer than `ENOUGH_TO_RESAMPLE` values get Student's interval, which may reach beyond what a value can be. Values
    that are all equal give an interval without width: for yes/no outcomes use `proportion`. Raises `ScoringError` for
    no values and for a value that is not finite.
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ScoringError("a mean of nothing was asked for: every unit was unscored, or there was none.")
    if not np.isfinite(data).all():
        raise ScoringError("a value is not finite: expected scores, with what could not be scored left out.")
    mean = float(data.mean())
    if data.size == 1:
        return Estimate(mean=mean, low=None, high=None, n=1)
    if (data == data[0]).all():
        return Estimate(mean=mean, low=mean, high=mean, n=data.size)
    if data.size < ENOUGH_TO_RESAMPLE:
        scale = float(abs(data - mean).max())  # squares of very small deviations would be 0
        spread = scale * float((data / scale).std(ddof=1))
        half = _student_quantile(level, data.size - 1) * spread / math.sqrt(data.size)
        return Estimate(mean=mean, low=mean - half, high=mean + half, n=data.size)
    means = _resampled_means(data, derive(seed, "bootstrap"), resamples)
    low, high = np.quantile(means, _bca_levels(data, means, level))
    return Estimate(mean=mean, low=float(low), high=float(high), n=data.size)


def paired_difference(
    a: Mapping[str, float], b: Mapping[str, float], *, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Estimate:
    """The mean of a - b over the ids that both hold, with the interval of `mean_interval`; n counts the pairs.

    Pairing takes the spread between units out. For yes/no outcomes use `paired_proportions`. Raises `ScoringError`
    when no id stands in both.
    """
    shared = _shared_ids(a, b)
    return mean_interval([a[i] - b[i] for i in shared], level=level, seed=seed, resamples=resamples)


def paired_proportions(a: Mapping[str, bool], b: Mapping[str, bool], *, level: float = 0.95) -> Estimate:
    """The share of True in a less that in b, over the ids that both hold; for yes/no outcomes.

    The interval is the adjusted Wald of Bonett and Price (2012, J. Educ. Behav. Stat. 37:479-488): one pair is added
    to each kind of disagreement, so that pairs which all agree still give an interval with a width, where a bootstrap
    would claim certainty. Raises `ScoringError` when no id stands in both.
    """
    shared = _shared_ids(a, b)
    n = len(shared)
    only_a = sum(1 for i in shared if a[i] and not b[i])
    only_b = sum(1 for i in shared if b[i] and not a[i])
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _normal_quantile(level) * math.sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    centre = p_a - p_b
    return Estimate(mean=(only_a - only_b) / n, low=max(centre - half, -1.0), high=min(centre + half, 1.0), n=n)


def proportion_less_mean(yes: Mapping[str, bool], values: Mapping[str, float], *, level: float = 0.95) -> Estimate:
    """The share of True in `yes` less the mean of `values`, over the ids that both hold.

    Wilson's interval of the one and the bootstrap's of the other are joined by recovered variances, with the pairs'
    correlation (Zou 2007, Psychol. Methods 12:399-413): a share of 1 is no certainty, which a bootstrap of the
    differences takes it for. Raises `ScoringError` when no id stands in both.
    """
    import numpy as np

    shared = _shared_ids(yes, values)
    n = len(shared)
    pairs = np.array([[float(yes[i]), values[i]] for i in shared]).T
    share, mean = (float(row.mean()) for row in pairs)
    other = mean_interval(pairs[1].tolist(), level=level)
    if other.low is None or other.high is None:
        return Estimate(mean=share - mean, low=None, high=None, n=n)
    low, high = wilson_bounds(share, n, _normal_quantile(level))
    r = float(np.corrcoef(pairs)[0, 1]) if pairs.std(axis=1).all() else 0.0
    below, above = _reach(share - low, other.high - mean, r), _reach(high - share, mean - other.low, r)
    return Estimate(mean=share - mean, low=share - mean - below, high=share - mean + above, n=n)


def wilson_bounds(share: float, n: float, quantile: float) -> tuple[float, float]:
    """The shares p with |share - p| = quantile * sqrt(p (1 - p) / n); n is an effective sample size, any number > 0."""
    z = quantile
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the exact bound is the share itself; rounding must not put it on the wrong side.
    return 0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half


def _reach(a: float, b: float, r: float) -> float:
    """How far the difference of two estimates reaches whose own bounds are `a` and `b` away, with correlation r."""
    return math.sqrt(max(a * a + b * b - 2 * r * a * b, 0.0))


def _normal_quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _student_quantile(level: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def _shared_ids(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ScoringError(f"no pairs: {len(a)} and {len(b)} scored units have no id in common.")
    return shared


def _resampled_means(data: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """`[resamples]` means of n draws with replacement from `[n]` values, a block at a time."""
    import numpy as np

    rng = np.random.Generator(np.random.Philox(key=seed))
    block = max(1, _BLOCK // data.size)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([data[rng.integers(data.size, size=(rows, data.size))].mean(axis=1) for rows in sizes])


def _bca_levels(data: NDArray[np.float64], means: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The quantiles of the resampled means to read off: Efron 1987, equation 2.3 with the jackknife acceleration.

    z0 is the normal quantile of the share of resampled means under the mean (ties count half); the acceleration of
    a mean is sum(d^3) / (6 sum(d^2)^(3/2)) with d the deviations from it.
    """
    normal = NormalDist()
    mean, count = data.mean(), len(means)
    under = float((means < mean).sum() + (means == mean).sum() / 2)
    # Kept off 0 and 1, where the normal quantile is infinite.
    z0 = normal.inv_cdf(min(max(under, 0.5), count - 0.5) / count)
    d = data - mean
    d /= abs(d).max()  # the acceleration has no unit, and powers of very small deviations would be 0
    acceleration = float((d**3).sum() / (6 * (d**2).sum() ** 1.5))

    def adjusted(z: float) -> float:
        return normal.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))

    z = normal.inv_cdf((1 + level) / 2)
    return adjusted(-z), adjusted(z)
