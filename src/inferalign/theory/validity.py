"""How far an estimated selection density can be trusted: bootstrap bands, and a test that there is one at all.

A procedure is calibrated (InfAlign, arXiv 2412.19792) when its outputs have one distribution of ranks, G, on every base
policy. Two base policies (the reference and an early checkpoint) can refute that, never prove it. The bands know the
sampling of prompts and outputs only.

Quantiles read from ranks among K scores have a law that depends on K unless G is uniform: it is g blurred by the width
of a rank. Two estimates are compared at one K, for which anchors of the larger reference are dropped at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.theory.blackbox import BetaMixture, OwnRanks

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

RESAMPLES = 200
"""Bootstrap samples."""
LEVEL = 0.01
"""Level of the test that a procedure is calibrated."""


@dataclass(frozen=True, eq=False)
class Bands:
    """How sure an estimated density is, at quantiles q; arrays have shape [101]."""

    q: Floats
    g_low: Floats
    """Pointwise, 2.5 % below."""
    g_high: Floats
    G_low: Floats
    G_high: Floats
    largest: float
    """The 95 % point of sup |G* - G| over the bootstrap: twice that is the error of any win rate, sampling only."""


def bands(outputs: OwnRanks, fit: Callable[[OwnRanks], BetaMixture], seed: int) -> Bands:
    """Bootstrap bands of `fit` (`bernstein` or `beta_mixture`) at 95 %, from 200 resamples of the prompts.

    They are those of one fit: the smoother `bernstein` varies less and is biased instead, so give the fit that is used.
    Outputs of one prompt share its base scores and are drawn together.
    """
    prompts = len(outputs.rank)
    draws = np.random.Generator(np.random.Philox(key=derive(seed, "bands")))
    q = np.linspace(0.0, 1.0, 101)
    centre = fit(outputs)
    fits = [fit(outputs.take(draws.integers(0, prompts, prompts))) for _ in range(RESAMPLES)]
    g = np.stack([each.g(q, 1 - q) for each in fits])
    cumulated = np.stack([each.G(q, 1 - q) for each in fits])
    errors = np.abs(cumulated - centre.G(q, 1 - q)).max(axis=1)
    g_low, g_high = np.quantile(g, (0.025, 0.975), axis=0)
    G_low, G_high = np.quantile(cumulated, (0.025, 0.975), axis=0)
    return Bands(q, g_low, g_high, G_low, G_high, float(np.quantile(errors, 0.95)))


@dataclass(frozen=True)
class Validity:
    """The Kolmogorov-Smirnov test that a procedure has one selection density on two base policies."""

    distance: float
    """sup |G_1 - G_2| of the empirical distributions."""
    p_value: float
    noticeable: float
    """The distance that these numbers of prompts refuse at the 1 % level: less may hide."""

    @property
    def calibrated(self) -> bool:
        """Whether the test does not refuse."""
        return self.p_value >= LEVEL


def validity(first: OwnRanks, second: OwnRanks, seed: int = 0) -> Validity:
    """Compare a procedure's outputs on two base policies, each ranked among scores of its own base policy.

    Outputs of one prompt share its base scores, so the number of prompts counts as the number of observations: with
    several outputs a prompt the test errs on the side of not refusing. Where the two have another number K of scores,
    both are thinned to the smaller one: prompt by prompt for as many prompts, else to the smallest K of all.
    """
    one, two = (each.quantiles for each in _at_one_k(first, second, seed))
    a, b = np.sort(one.ravel()), np.sort(two.ravel())
    at = np.concatenate([a, b])
    gaps = np.searchsorted(a, at, "right") / a.size - np.searchsorted(b, at, "right") / b.size
    distance = float(np.abs(gaps).max())
    root = math.sqrt(len(one) * len(two) / (len(one) + len(two)))
    scale = root + 0.12 + 0.11 / root  # Stephens 1970: the limit law serves small samples with this
    return Validity(distance, _kolmogorov(scale * distance), 1.6276 / scale)


def _at_one_k(first: OwnRanks, second: OwnRanks, seed: int) -> tuple[OwnRanks, OwnRanks]:
    """Both with the same numbers of base scores, so that equal densities have equal laws of ranks."""
    if len(first.counts) == len(second.counts):
        shared = np.minimum(first.counts, second.counts)
        return thinned(first, shared, derive(seed, "thin", 1)), thinned(second, shared, derive(seed, "thin", 2))
    fewest = min(first.counts.min(), second.counts.min())
    one, two = (np.full_like(each.counts, fewest) for each in (first, second))
    return thinned(first, one, derive(seed, "thin", 1)), thinned(second, two, derive(seed, "thin", 2))


def thinned(outputs: OwnRanks, counts: Counts, seed: int) -> OwnRanks:
    """The ranks [P, G] among `counts` [P] of the base scores, drawn without replacement: a hypergeometric of the rank.

    The outputs of one prompt keep the same scores. Exact, since base scores are exchangeable. Raises `InputError` when
    a prompt has fewer scores than are to be kept.
    """
    if len(counts) != len(outputs.counts) or np.any(counts > outputs.counts):
        raise InputError("thinning keeps some of each prompt's base scores: give one count a prompt, none above its K")
    draws = np.random.Generator(np.random.Philox(key=seed))
    rank = outputs.rank.copy()
    for p in np.flatnonzero(counts < outputs.counts):
        kept = draws.choice(outputs.counts[p], counts[p], replace=False, shuffle=False)
        rank[p] = (kept[:, None] < outputs.rank[p]).sum(axis=0)
    return OwnRanks(rank, outputs.within, counts)


def _kolmogorov(x: float) -> float:
    """P(sup |Brownian bridge| > x) = 2 sum_k (-1)^(k-1) e^(-2 k^2 x^2), k = 1, 2, ...: 1 % at 1.6276."""
    if x < 0.2:  # 1 to twelve digits, where the series is slow
        return 1.0
    k = np.arange(1, 101)
    return float(2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * (k * x) ** 2)))


def require_calibrated(first: OwnRanks, second: OwnRanks, seed: int = 0) -> Validity:
    """`validity`, or `InputError` when it refuses: then no selection density describes the procedure."""
    found = validity(first, second, seed)
    if not found.calibrated:
        raise InputError(
            f"the procedure is not calibrated: on two base policies its outputs' ranks differ by {found.distance:.3f} "
            f"(p = {found.p_value:.2g}), so it has no selection density: train on its influence reward instead "
            "(theory.influence)"
        )
    return found
