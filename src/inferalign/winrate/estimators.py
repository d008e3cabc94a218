"""Win rates of a procedure from one pool of M answers a prompt and policy: unbiased for every N up to M.

A procedure keeps the best or the worst of N draws by a *selector's* scores, and a *judge* decides which of two kept
answers is better; the two may be one. Over all C(M, N) subsets of a pool, the i-th smallest of M is the best of its
subset in a share C(i-1, N-1) / C(M, N) of them, and the worst in C(M-i, N-1) / C(M, N). With these weights a, and b for
the other policy's pool,

    W = sum_ij a_i b_j w(y_i, z_j),    w = 1 for a win by the judge, 1/2 for a tie,

is the mean over all pairs of subsets: the inference-time win rate of InfAlign (arXiv 2412.19792), estimated without
bias when the two pools were drawn independently. Answers that tie for the selector share their weight evenly, as a
procedure that breaks ties at random gives it to them.

Scores come as *order keys*: numbers whose order alone counts. An answer that cannot be scored through its own fault has
the key minus infinity: it ranks below every score and ties with its like.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError
from inferalign.theory.procedures import OfN

Floats = NDArray[np.float64]


def subset_share(below: ArrayLike, m: int, n: int) -> Floats:
    """C(below, n) / C(m, n): the share of the n-subsets of m answers that lie within `below` given ones.

    A product of n ratios, so that no binomial coefficient leaves the range of a float. below: counts from 0 to m.
    """
    counts = np.asarray(below, dtype=np.float64)
    share = np.ones_like(counts)
    for taken in range(n):
        share *= np.maximum(counts - taken, 0.0) / (m - taken)
    return share


def order_weights(m: int, procedure: OfN) -> Floats:
    """The share of subsets in which the i-th smallest of m answers is kept, shape [m], i ascending; they add up to 1.

    Raises `InputError` when m is smaller than the procedure's N.
    """
    return selection_weights(np.arange(m, dtype=np.float64), procedure)


def selection_weights(keys: ArrayLike, procedure: OfN) -> Floats:
    """The probability that the procedure keeps each answer of a pool, given the selector's order keys; shape [m].

    Ties share evenly. Raises `InputError` when the pool is smaller than the procedure's N, and for a NaN.
    """
    row = _keys(keys, "selector")
    if row.size < procedure.n:
        raise InputError(f"{row.size} answers are too few for {procedure.name}: draw a pool of {procedure.n} at least")
    _, level, counts = np.unique(row, return_inverse=True, return_counts=True)
    upto = np.append(0, np.cumsum(counts))
    if procedure.keeps == "best":
        kept_upto = subset_share(upto, row.size, procedure.n)
    else:
        kept_upto = 1.0 - subset_share(row.size - upto, row.size, procedure.n)
    weights: Floats = (np.diff(kept_upto) / counts)[level]
    return weights


def contests(ours: ArrayLike, theirs: ArrayLike) -> Floats:
    """w of every pair by the judge's order keys: 1 where ours is larger, 1/2 where they tie; [m, k]."""
    left, right = _keys(ours, "judge")[:, None], _keys(theirs, "judge")[None, :]
    decided: Floats = (left > right) + (left == right) / 2
    return decided


def win_rates(
    selector: ArrayLike, judge: ArrayLike, their_selector: ArrayLike, their_judge: ArrayLike, procedures: Sequence[OfN]
) -> Floats:
    """W of one prompt under each procedure on both sides, shape [len(procedures)].

    selector, judge: order keys of our pool, shapes [m]; their_...: of the other policy's pool, shapes [k]. Raises
    `InputError` when a pool is smaller than a procedure's N.
    """
    decided = contests(judge, their_judge)
    rates = [
        selection_weights(selector, each) @ decided @ selection_weights(their_selector, each) for each in procedures
    ]
    return np.array(rates)


def _keys(keys: ArrayLike, whose: str) -> Floats:
    row = np.asarray(keys, dtype=np.float64)
    if row.ndim != 1 or np.isnan(row).any():
        raise InputError(f"the {whose}'s order keys must be one row without NaN: leave out what was not judged")
    return row
