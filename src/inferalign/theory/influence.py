"""The influence reward: what to train on when a procedure is not a function of calibrated rank alone.

By InfAlign's coupled equations (arXiv 2412.19792) the optimum for a procedure T maximises, at itself, KL-regularised

    R(y) = d V / d pi(y),    V(pi) = the mean of c over T(pi),    c(y) = P(y beats an output of T(reference)),

up to a constant: how much one more bit of probability on y helps what T returns. Estimate R at the current policy, take
KL-regularised steps on it, estimate again. Two cases (our derivations):

- T returns one of N independent draws, whatever it does with them, as long as their order does not matter (best-of-N,
  majority vote, rerankers): R(y) = N E[c(T(y, Y_2, .., Y_N))].
- T keeps the n-th best rank by a selector s, with selection density g, but another judge decides: `selector_influence`.

A procedure that decides by the policy's own probabilities (or lets the model judge itself) has a path through the
policy that neither form sees. `theory.retry` has the reward of retrying until a threshold in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.theory.procedures import Selection

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Influence:
    """The influence reward of M responses, centred to mean 0 under the policy; arrays have shape [M]."""

    reward: Floats
    error: Floats
    """Standard error of each entry by the sampling of tuples; 0 where the form is exact."""
    value: float
    """V: the mean of c over the procedure's outputs."""


def beaten(scores: ArrayLike, outputs: ArrayLike) -> Floats:
    """c of M responses: the share of the reference procedure's outputs [B] below each score, ties half; [M]."""
    values, rivals = _row(scores, "scores"), np.sort(_row(outputs, "outputs"))
    twice = np.searchsorted(rivals, values, "left") + np.searchsorted(rivals, values, "right")
    return twice / (2 * rivals.size)


def draws_influence(
    choose: Callable[[Indices], Indices], quality: ArrayLike, n: int, *, rounds: int, seed: int
) -> Influence:
    """R(y) = N E[c(T(y, Y_2, .., Y_N))] for a pool of M draws of the policy, by dealing the pool into N-tuples.

    choose: from tuples of pool indices [B, N] to the index that the procedure returns for each, [B]; it must not care
    for the order within a tuple. quality: c of the pool, [M]. In each of `rounds` rounds every response is in one tuple
    (M mod N are left out), and what the tuple returns counts for all its members. Raises `InputError` for a pool
    smaller than N, and for fewer than 2 rounds.
    """
    c = _row(quality, "quality")
    if not 1 <= n <= c.size or rounds < 2:
        raise InputError(f"{c.size} responses and {rounds} rounds for tuples of {n}: give at least {n} and 2")
    generator = np.random.Generator(np.random.Philox(key=derive(seed, "tuples")))
    total, squares, seen = (np.zeros(c.size) for _ in range(3))
    outputs = 0.0
    for _ in range(rounds):
        tuples = generator.permutation(c.size)[: c.size - c.size % n].reshape(-1, n)
        won = c[choose(tuples)]
        outputs += float(won.mean())
        for place in range(n):
            total[tuples[:, place]] += won
            squares[tuples[:, place]] += won**2
            seen[tuples[:, place]] += 1
    if seen.min() < 2:
        raise InputError(f"a response was dealt fewer than twice in {rounds} rounds: give more rounds")
    mean = total / seen
    spread = np.sqrt(np.maximum(squares / seen - mean**2, 0.0) / (seen - 1))
    reward = n * mean
    return Influence(reward=reward - reward.mean(), error=n * spread, value=outputs / rounds)


def selector_influence(
    selection: Selection, selector: ArrayLike, quality: ArrayLike, mass: ArrayLike | None = None
) -> Influence:
    """The reward when T selects by a selector's rank and a judge decides; exact for a finite set of M responses.

    With F the policy's distribution over selector ranks v and m(v) the mean of c at v, it is up to a constant

        R(y) = g(F(v_y)) (c(y) - m(v_y)) - int_{v_y}^1 g(F) dm :

    true quality within a rank, as far as that rank is chosen, then the reward of rising in rank, which stops where the
    selector no longer knows better. selector: scores that T sees, [M]; ties are broken evenly. quality: c, [M]. mass:
    the policy's probabilities, [M]; without them M equal ones, as for a pool of draws. Here the levels of the selector
    take the place of v, V = sum_k m_k (G(F_k) - G(F_{k-1})), and R is its derivative.
    """
    s, c = _row(selector, "selector"), _row(quality, "quality")
    p = np.full(s.size, 1 / s.size) if mass is None else _row(mass, "mass")
    if not s.size == c.size == p.size or np.any(p <= 0) or abs(p.sum() - 1) > 1e-9:
        raise InputError("selector, quality and mass need one entry a response, the masses positive and adding up to 1")
    _, level = np.unique(s, return_inverse=True)
    masses = np.bincount(level, weights=p)
    mean = np.bincount(level, weights=p * c) / masses
    below = np.minimum(np.append(0.0, np.cumsum(masses)), 1.0)
    above = np.minimum(np.append(np.cumsum(masses[::-1])[::-1], 0.0), 1.0)
    chosen = np.where(below[1:] < 0.5, np.diff(selection.G(below, above)), -np.diff(selection.tail(below, above)))
    g = selection.g(below, above)
    # mass on level k moves F_k and every later one: level j gains m_j g(F_j) and, above k, loses m_j g(F_{j-1})
    gained = np.cumsum((mean * g[1:])[::-1])[::-1]
    lost = np.append(np.cumsum((mean * g[:-1])[:0:-1])[::-1], 0.0)
    reward = (c - mean[level]) * (chosen / masses)[level] + (gained - lost)[level]
    return Influence(reward=reward - p @ reward, error=np.zeros(s.size), value=float(mean @ chosen))


def _row(values: ArrayLike, what: str) -> Floats:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not row.size or not np.isfinite(row).all():
        raise InputError(f"{what} must be one row of finite numbers: those of one prompt, each response's own")
    return row
