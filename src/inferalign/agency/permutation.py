"""Tests by changing signs, and p-values that stay honest when there are many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import ScoringError
from inferalign.core.seeds import derive

Floats = NDArray[np.float64]
EXACT = 16
"""Up to so many clusters all 2^G signs are tried."""
DRAWS = 9_999
"""Random patterns of signs that every other test has."""
ENOUGH = 99
"""A test that more of `DRAWS` patterns reach has a p over 1 %, and needs no closer look."""
_BLOCK = 2_000_000
"""Signs, or sums, held at once (16 MB)."""
_TIE = 1e-9
"""Sums that differ by this part of the largest possible one are equal but for rounding."""


def sign_flip_p(sums: ArrayLike, *, seed: int, draws: int = DRAWS) -> float:
    """The two-sided p-value of a sum of paired differences, when a cluster's sign is as likely + as -.

    sums: what each cluster adds to the statistic, shape [G]. With the labels of the two sides exchanged in a cluster
    its sum changes sign; p is the share of sign patterns whose total is at least as far from 0 as the observed one.
    All 2^G patterns for up to `EXACT` clusters that are not 0; otherwise `draws` random ones, of which b reach it, and
    p = (b + 1) / (draws + 1), which is never too small (Phipson and Smyth 2010, arXiv 1603.05766). Raises
    `ScoringError` for no clusters.
    """
    return sign_flip_ps(np.reshape(sums, (1, -1)), seed=seed, draws=draws)[0]


def sign_flip_ps(sums: ArrayLike, *, seed: int, draws: int = DRAWS) -> list[float]:
    """`sign_flip_p` of several tests on the same clusters, [T, G] -> [T]; they share the random patterns.

    No p is under 1 / (draws + 1), so that `draws` has to grow with the number of tests whose p-values are adjusted
    together (`enough_draws`). More than `DRAWS` are made for the tests that few of the first `DRAWS` reach, at most
    `ENOUGH`. The others keep the p of the first ones, and p stays honest at every level: to be small in the end it has
    to be small after all draws, and to be large it has to be large after the first.
    """
    given = np.asarray(sums, dtype=np.float64)
    if given.size == 0:
        raise ScoringError("no pairs: nothing can be tested.")
    observed = np.abs(given.sum(axis=1)) - _TIE * np.abs(given).sum(axis=1)
    p = np.ones(len(given))
    few = (given != 0).sum(axis=1) <= EXACT
    for row in np.nonzero(few)[0]:
        p[row] = _exact(given[row], observed[row])
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "sign flips")))
    left, reached, done = np.nonzero(~few)[0], np.zeros(len(given), dtype=np.intp), 0
    for wanted in (min(DRAWS, draws), draws):
        reached[left] += _reached(given[left], observed[left], rng, wanted - done)
        p[left] = (reached[left] + 1) / (wanted + 1)
        left, done = left[reached[left] <= ENOUGH], wanted
    return [float(each) for each in p]


def enough_draws(tests: int) -> int:
    """Random patterns with which the smallest p-value of so many tests is 1 % after Holm's adjustment, or less."""
    return max(DRAWS, 100 * tests - 1)


def _exact(sums: Floats, observed: float) -> float:
    moved = sums[sums != 0]
    patterns = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
    return float((np.abs((1.0 - 2.0 * patterns) @ moved) >= observed).mean())


def _reached(sums: Floats, observed: Floats, rng: np.random.Generator, draws: int) -> NDArray[np.intp]:
    """How many of `draws` random patterns take each test's total at least as far from 0 as `observed`, [T]."""
    found = np.zeros(len(sums), dtype=np.intp)
    rows = max(1, _BLOCK // max(sums.shape))
    for start in range(0, draws if len(sums) else 0, rows):
        totals = _signs(rng, min(rows, draws - start), sums.shape[1]) @ sums.T
        found += (np.abs(totals) >= observed).sum(axis=0)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: rejecting those up to alpha errs anywhere with at most that probability.

    The i-th smallest of m is multiplied by m - i + 1 and is no smaller than those before it (Holm 1979, Scandinavian
    Journal of Statistics 6:65-70). The tests may depend on each other.
    """
    count, largest = len(p_values), 0.0
    adjusted = [0.0] * count
    for place, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (count - place)))
        adjusted[index] = largest
    return adjusted


def _signs(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    bits = np.unpackbits(rng.integers(256, size=(rows, -(-columns // 8)), dtype=np.uint8), axis=1, count=columns)
    signs: Floats = np.where(bits, -1.0, 1.0)
    return signs
