"""How small a difference a planned number of items can show, and how many items show a wanted one.

What a pilot measured is carried to another size: variance per item and degrees of freedom per item stay, since new
items are taken to come in clusters like the pilot's. Power is that of the two-sided t test,

    P(|T| > t_(1 - alpha/2, df)),   T noncentral t with df and effect / sqrt(variance per item / items)

which is the mean of P(|Z + shift| > t s) over s = sqrt(chi^2_df / df), by quadrature: scipy's noncentral t has no lower
tail for the few degrees of freedom of a first small run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from inferalign.agency.clusters import Clustered
from inferalign.core.errors import InputError, ScoringError

_NODES = 400
"""Of the Gauss-Legendre rule."""
LARGEST = 10_000_000
"""Items beyond which a wanted effect is called out of reach."""


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """What one item tells of the difference that is planned for."""

    variance: float
    """Of the estimate times the number of items (points squared): clustering is in it."""
    df: float
    """Degrees of freedom an item."""

    @classmethod
    def paired(cls, difference: Clustered) -> Pilot:
        """From a pilot's mean paired difference. Raises `ScoringError` when it has no spread to plan with."""
        variance, df = _spread(difference)
        return cls(variance=variance * difference.n, df=df / difference.n)

    @classmethod
    def unpaired(cls, a: Clustered, b: Clustered) -> Pilot:
        """From two means on different items, to be planned with as many items each."""
        (variance_a, df_a), (variance_b, df_b) = _spread(a), _spread(b)
        each_a, each_b = variance_a * a.n, variance_b * b.n
        per_item = (each_a + each_b) ** 2 / (each_a**2 / (df_a / a.n) + each_b**2 / (df_b / b.n))
        return cls(variance=each_a + each_b, df=per_item)


def power(pilot: Pilot, items: int, effect: float, *, alpha: float = 0.05) -> float:
    """The probability that a true difference of `effect` points is found significant with `items` items."""
    df = max(items * pilot.df, 1.0)
    critical = float(stats.t.ppf(1 - alpha / 2, df))
    shift = abs(effect) / math.sqrt(pilot.variance / items)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    least = critical * np.sqrt(stats.chi2.ppf((1 + nodes) / 2, df) / df)
    return float(weights @ (stats.norm.sf(least - shift) + stats.norm.cdf(-least - shift))) / 2


def detectable(pilot: Pilot, items: int, *, alpha: float = 0.05, wanted: float = 0.8) -> float:
    """The smallest true difference, in points, that is found with the probability `wanted`.

    Raises `InputError` for fewer than two items and for a power that is not between alpha and 1.
    """
    _check(alpha, wanted)
    if items < 2:
        raise InputError(f"{items} items: plan with 2 at least.")
    top = math.sqrt(pilot.variance / items)
    while power(pilot, items, top, alpha=alpha) < wanted:
        top *= 2
    return float(optimize.brentq(lambda effect: power(pilot, items, effect, alpha=alpha) - wanted, 0.0, top))


def items_for(pilot: Pilot, effect: float, *, alpha: float = 0.05, wanted: float = 0.8) -> int:
    """The fewest items with which a true difference of `effect` points is found with the probability `wanted`.

    Raises `InputError` for an effect of 0, for a power that is not between alpha and 1, and when even `LARGEST` items
    are too few.
    """
    _check(alpha, wanted)
    if effect == 0:
        raise InputError("an effect of 0 needs endless items: give the smallest difference that matters.")
    low, high = 1, 2
    while power(pilot, high, effect, alpha=alpha) < wanted:
        low, high = high, high * 2
        if high > LARGEST:
            raise InputError(f"a difference of {effect} needs more than {LARGEST} items: ask for a larger one.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(pilot, middle, effect, alpha=alpha) >= wanted else (middle, high)
    return high


def _spread(fit: Clustered) -> tuple[float, float]:
    if not fit.variance or fit.df is None:
        raise ScoringError(
            f"a pilot of {fit.n} items in {fit.clusters} clusters shows no spread: plan with a larger one."
        )
    return fit.variance, fit.df


def _check(alpha: float, wanted: float) -> None:
    if not 0 < alpha < wanted < 1:
        raise InputError(f"alpha {alpha} and power {wanted}: expected 0 < alpha < power < 1.")
