"""The selection density of a procedure that is only seen from outside: estimated from the ranks of its outputs.

If a procedure is calibrated (InfAlign, arXiv 2412.19792: it acts on any policy through the answer's quantile under that
policy, with one density g), the quantile of its output under its own base policy has density exactly g. So ranks of its
outputs among K scores of the base policy, pooled over prompts, tell g. The win rate is 1 - int G(F) dG, so an estimate
of G moves it by at most twice the largest error of G, for every policy.

Both fits are mixtures of the densities of Beta(j, m+1-j), j = 1..m, which hold best-of-N and worst-of-N for N <= m
exactly. `bernstein` smooths the empirical distribution with the Bernstein polynomials and needs no optimisation.
`beta_mixture` maximises the likelihood of the ranks, by EM: a rank among K is binomial given the quantile, so that a
small K costs precision but brings no bias. Whether there is one g at all is for `theory.validity` to test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive, uniforms
from inferalign.theory.calibration import Anchors, ranks
from inferalign.theory.optimal import Unconverged

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

DEGREE = 20
"""Components of the Bernstein fit."""
COMPONENTS = 24
"""Components of the Beta mixture."""
FEW = 16
"""Base scores a prompt below which a rank is too coarse to tell much of the density's shape."""
ROUNDS = 300_000
"""Rounds of EM before it is called unconverged."""


@dataclass(frozen=True, eq=False)
class OwnRanks:
    """Where a procedure's outputs lie among scores of the base policy that it ran on: P prompts, G outputs a prompt."""

    rank: Counts
    """[P, G]: how many of the K base scores lie below, each tie counted with probability as for a random order."""
    within: Floats
    """[P, G]: uniform on [0, 1), to spread a rank over its cell."""
    counts: Counts
    """[P]: K of each prompt."""

    @property
    def quantiles(self) -> Floats:
        """(rank + within) / (K + 1), [P, G]: exactly uniform for answers of the base policy itself, at any K."""
        return (self.rank + self.within) / (self.counts[:, None] + 1)

    def take(self, prompts: Counts) -> OwnRanks:
        """The same for some of the prompts, repeats allowed."""
        return OwnRanks(self.rank[prompts], self.within[prompts], self.counts[prompts])


def own_ranks(
    scores: ArrayLike, anchors: Anchors | ArrayLike | Sequence[ArrayLike], prompt_ids: Sequence[str], seed: int
) -> OwnRanks:
    """Rank outputs [P, G] among scores [P, K] (or P rows) of the same prompts under the base policy of the outputs.

    Ties fall anywhere among the tied, drawn from the seed, the prompt's id and the output's place. Raises `InputError`
    as `theory.calibration` does, and for a wrong number of prompt ids.
    """
    anchors = anchors if isinstance(anchors, Anchors) else Anchors.of(anchors)
    below, equal = ranks(scores, anchors)
    if len(prompt_ids) != len(below):
        raise InputError(f"{len(prompt_ids)} prompt ids for {len(below)} prompts: give one id a prompt")
    v = np.stack([uniforms(derive(seed, "own rank", name), below.shape[1]) for name in prompt_ids])
    place = v * (equal + 1)
    passed = np.minimum(place.astype(np.int64), equal)
    return OwnRanks(rank=below + passed, within=place - passed, counts=anchors.counts)


def bernstein(outputs: OwnRanks, components: int = DEGREE) -> BetaMixture:
    """The Bernstein polynomial of the quantiles' empirical distribution: a little too flat, never far off."""
    quantiles = outputs.quantiles.ravel()
    shares = np.bincount((quantiles * components).astype(np.int64), minlength=components) / quantiles.size
    return BetaMixture(shares, name=f"black box ({quantiles.size} outputs, Bernstein)")


def beta_mixture(outputs: OwnRanks, components: int = COMPONENTS) -> BetaMixture:
    """The mixture of Beta(j, m+1-j) under which the ranks are likeliest.

    `components` m must be at least the N of a best-of-N or worst-of-N that shall be met exactly. EM stops when its
    total log likelihood is proved to be within 1 of the largest: far less than the data can tell apart. Raises
    `Unconverged` when it does not get there.
    """
    seen, shares = [], []
    for k in np.unique(outputs.counts):
        seen.append(np.bincount(outputs.rank[outputs.counts == k].ravel(), minlength=k + 1))
        shares.append(_rank_shares(int(k), components))
    weights = _expect_maximise(np.concatenate(seen).astype(np.float64), np.concatenate(shares, axis=1))
    return BetaMixture(weights, name=f"black box ({outputs.rank.size} outputs, Beta mixture)")


def _rank_shares(k: int, components: int) -> Floats:
    """P(rank r among k | component j), shape [m, k + 1]: C(r+j-1, r) C(k-r+m-j, k-r) / C(k+m, k)."""
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, k + components + 1))))
    r, j = np.arange(k + 1), np.arange(1, components + 1)[:, None]
    low = log_factorial[r + j - 1] - log_factorial[r] - log_factorial[j - 1]
    high = log_factorial[k - r + components - j] - log_factorial[k - r] - log_factorial[components - j]
    every = log_factorial[k + components] - log_factorial[k] - log_factorial[components]
    return cast(Floats, np.exp(low + high - every))


def _expect_maximise(counts: Floats, shares: Floats) -> Floats:
    """Mixture weights [m] of the largest likelihood of counts [C], from equal weights; shares [m, C].

    The log likelihood is concave in the weights, so the largest entry of its gradient, less the number of outputs,
    bounds what is still to be gained.
    """
    total, components = counts.sum(), len(shares)
    weights = np.full(components, 1 / components)
    for _ in range(ROUNDS):
        gradient = shares @ (counts / (weights @ shares))
        if gradient.max() - total < 1:
            return cast(Floats, weights / weights.sum())
        weights = weights * gradient / total
    raise Unconverged(
        f"EM for {components} components has not reached the largest likelihood after {ROUNDS} rounds: give fewer "
        "outputs, or use the Bernstein fit"
    )


@dataclass(frozen=True, eq=False)
class BetaMixture:
    """A selection density sum_j weight_j Beta(j, m+1-j), j = 1..m: a polynomial that is never negative."""

    weights: Floats
    """[m], of sum 1."""
    name: str = "black box"
    n: int | None = None
    _choose: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.ndim != 1 or not np.all(weights >= 0) or abs(weights.sum() - 1) > 1e-9:
            raise InputError("the weights of a Beta mixture must be one row of shares that add up to 1")
        object.__setattr__(self, "_choose", _binomials(weights.size - 1))

    @property
    def g_increasing(self) -> bool:
        """Whether the weights never fall, which suffices for g never to fall."""
        return bool(np.all(np.diff(self.weights) >= 0))

    def g(self, q: Floats, s: Floats) -> Floats:
        """The density at quantile q = 1 - s."""
        return _polynomial(self.weights.size * self._choose * self.weights, q, s)

    def G(self, q: Floats, s: Floats) -> Floats:
        """The integral of g from 0 to q."""
        return _polynomial(_binomials(self.weights.size) * np.append(0.0, np.cumsum(self.weights)), q, s)

    def tail(self, q: Floats, s: Floats) -> Floats:
        """1 - G, accurate where it is small."""
        after = np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)
        return _polynomial(_binomials(self.weights.size) * after, q, s)


def _binomials(degree: int) -> Floats:
    return np.array([math.comb(degree, j) for j in range(degree + 1)], dtype=np.float64)


def _polynomial(coefficients: Floats, q: Floats, s: Floats) -> Floats:
    """sum_j c_j q^j s^(d-j), d + 1 coefficients: positive terms only, so every digit is kept."""
    q, s = np.asarray(q, dtype=np.float64), np.asarray(s, dtype=np.float64)
    degree = coefficients.size - 1
    rising = np.ones((degree + 1, q.size))
    falling = np.ones((degree + 1, q.size))
    np.cumprod(np.broadcast_to(q.ravel(), (degree, q.size)), axis=0, out=rising[1:])
    np.cumprod(np.broadcast_to(s.ravel(), (degree, q.size)), axis=0, out=falling[1:])
    total: Floats = (coefficients @ (rising * falling[::-1])).reshape(q.shape)
    return total
