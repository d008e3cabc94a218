"""Tests by changing signs, and p-values that stay honest when there are many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import ScoringError
from inferalign.core.seeds import derive

EXACT = 16
"""Up to so many clusters all 2^G signs are tried."""
_BLOCK = 2_000_000
"""Signs held at once (16 MB)."""
_TIE = 1e-9
"""Sums that differ by this part of the largest possible one are equal but for rounding."""


def sign_flip_p(sums: ArrayLike, *, seed: int, draws: int = 9_999) -> float:
    """The two-sided p-value of a sum of paired differences, when a cluster's sign is as likely + as -.

    sums: what each cluster adds to the statistic, shape [G]. With the labels of the two sides exchanged in a cluster
    its sum changes sign; p is the share of sign patterns whose total is at least as far from 0 as the observed one.
    All 2^G patterns for up to `EXACT` clusters that are not 0; otherwise `draws` random ones, of which b reach it, and
    p = (b + 1) / (draws + 1), which is never too small (Phipson and Smyth 2010, arXiv 1603.05766). Raises
    `ScoringError` for no clusters.
    """
    given = np.asarray(sums, dtype=np.float64)
    if given.size == 0:
        raise ScoringError("no pairs: nothing can be tested.")
    moved = given[given != 0]
    observed = abs(float(moved.sum())) - _TIE * float(np.abs(moved).sum())
    if moved.size <= EXACT:
        patterns = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((np.abs((1.0 - 2.0 * patterns) @ moved) >= observed).mean())
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "sign flips")))
    rows = max(1, _BLOCK // moved.size)
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    reached = sum(int((np.abs(_signs(rng, size, moved.size) @ moved) >= observed).sum()) for size in sizes)
    return (reached + 1) / (draws + 1)


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


def _signs(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    bits = np.unpackbits(rng.integers(256, size=(rows, -(-columns // 8)), dtype=np.uint8), axis=1, count=columns)
    signs: NDArray[np.float64] = np.where(bits, -1.0, 1.0)
    return signs
