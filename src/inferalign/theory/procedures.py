"""Decoding procedures as selection densities: which rank of the policy's own answers a procedure returns.

A procedure is *calibrated* (InfAlign, arXiv 2412.19792) when its output density is g(q) times that of the policy, q the
answer's quantile under the policy itself, with one g for every policy. Plain sampling has g = 1, best-of-N
g = N q^(N-1), worst-of-N (the attacker who keeps the least safe of N) g = N (1-q)^(N-1). G is the integral of g.
Quantiles come as a pair (q, s) with s = 1 - q, because near 1 the one and near 0 the other has lost its digits.

The second half is for rewards with ties (a judge that says 1 to 10): the output law, KL, win rate and its gradient on
a finite set of levels are sums, exact, and differ from the continuous ones. This file knows no transform and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean

Floats = NDArray[np.float64]

MAX_DRAWS = 1024
"""The largest N for which the grids of `theory.grid` are tested."""
FORMS = ("sample", "best-of-n:4", "worst-of-n:4")
"""How to write a procedure that has a known selection density."""


class WinRate(NamedTuple):
    """P(win) + P(tie) / 2 against the reference, and the same for losing, each with its own leading digits."""

    win: float
    lose: float


class Selection(Protocol):
    """A procedure that acts through calibrated rank alone: the density g on [0, 1] and its integral G."""

    @property
    def name(self) -> str:
        """The text form, such as `best-of-n:4`."""

    @property
    def n(self) -> int | None:
        """How many draws it makes; None where that is not known (a density estimated from outputs)."""

    @property
    def g_increasing(self) -> bool:
        """Whether g never falls. Then the win rate is concave in the policy's density, and its optimum is unique."""

    def g(self, q: Floats, s: Floats) -> Floats:
        """The density at quantile q = 1 - s."""

    def G(self, q: Floats, s: Floats) -> Floats:
        """The integral of g from 0 to q: the share of outputs at or below quantile q."""

    def tail(self, q: Floats, s: Floats) -> Floats:
        """1 - G, accurate where it is small."""


@dataclass(frozen=True)
class OfN:
    """The best or the worst of N independent draws; N = 1 is plain sampling."""

    keeps: Literal["best", "worst"]
    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_DRAWS:
            raise InputError(
                f"{self.keeps}-of-n:{self.n}: N must be from 1 to {MAX_DRAWS}: give for example `{self.keeps}-of-n:4`"
            )

    @property
    def name(self) -> str:
        return "sample" if self.n == 1 else f"{self.keeps}-of-n:{self.n}"

    @property
    def g_increasing(self) -> bool:
        return self.keeps == "best" or self.n == 1

    def g(self, q: Floats, s: Floats) -> Floats:
        kept: Floats = self.n * (q if self.keeps == "best" else s) ** (self.n - 1)
        return kept

    def G(self, q: Floats, s: Floats) -> Floats:
        return q**self.n if self.keeps == "best" else _rest_of_power(q, self.n)

    def tail(self, q: Floats, s: Floats) -> Floats:
        return _rest_of_power(s, self.n) if self.keeps == "best" else s**self.n


def _rest_of_power(x: Floats, n: int) -> Floats:
    """1 - (1 - x)^n without loss of digits near x = 0."""
    with np.errstate(divide="ignore"):  # at x = 1 the logarithm is minus infinity, and the result 1
        rest: Floats = -np.expm1(n * np.log1p(-x))
    return rest


def sample() -> OfN:
    """One draw: g = 1."""
    return OfN("best", 1)


def best_of_n(n: int) -> OfN:
    """The largest reward of n draws: g = n q^(n-1)."""
    return OfN("best", n)


def worst_of_n(n: int) -> OfN:
    """The smallest reward of n draws: g = n (1-q)^(n-1)."""
    return OfN("worst", n)


def parse_selection(text: str) -> OfN:
    """`sample`, `best-of-n:4`, `worst-of-n:4` as selection densities.

    Raises `UnknownName` with a did-you-mean, and `InputError` for N outside 1 to `MAX_DRAWS`.
    """
    name, colon, argument = text.partition(":")
    if text == "sample":
        return sample()
    makers = {"best-of-n": best_of_n, "worst-of-n": worst_of_n}
    if name not in makers:
        hint = did_you_mean(name, ("sample", *makers))
        raise UnknownName(
            f"no selection density is known for procedure {text!r}.{hint} Give one of: {', '.join(FORMS)}."
        )
    if not (colon and argument.isascii() and argument.isdigit()):
        raise InputError(f"procedure {text!r}: expected a number of draws: give for example `{name}:4`")
    return makers[name](int(argument))


def tied_output(policy: ArrayLike, selection: Selection) -> Floats:
    """The law of the procedure's output over m levels of reward, ascending, from the policy's law; shapes [m]."""
    return _increments(_cumulated(_masses(policy, "policy")), selection)


def tied_kl(policy: ArrayLike, reference: ArrayLike) -> float:
    """KL in nats between two laws over the same m levels; of policies that differ only through the level, exact."""
    f, p = _pair(policy, reference)
    held = f > 0
    if np.any(p[held] == 0):
        raise InputError("KL is infinite: the policy has mass at a level that the reference never reaches")
    return float(np.sum(f[held] * np.log(f[held] / p[held])))


def tied_win_rate(policy: ArrayLike, reference: ArrayLike, selection: Selection) -> WinRate:
    """The procedure on the policy against the procedure on the reference, over m levels; ties count half.

    policy, reference: masses of the levels, ascending, shapes [m]. With A and B the output CDFs of the two sides, the
    policy loses with probability sum_k (B_k - B_(k-1)) (A_k + A_(k-1)) / 2.
    """
    f, p = _pair(policy, reference)
    ours, theirs = _cumulated(f), _increments(_cumulated(p), selection)
    below, above = selection.G(*ours), selection.tail(*ours)
    return WinRate(
        win=float(theirs @ (above[1:] + above[:-1])) / 2,
        lose=float(theirs @ (below[1:] + below[:-1])) / 2,
    )


def tied_reward(policy: ArrayLike, reference: ArrayLike, selection: Selection) -> Floats:
    """The derivative of `tied_win_rate` by the mass of each level, shape [m], up to a constant.

    It is the reward whose KL-regularised optimum is a stationary point of win rate less KL (the coupled equations of
    arXiv 2412.19792 on levels): Phi_j = -1/2 sum_(k >= j) g(F_k) (b_k + b_(k+1)), b the reference's output masses.
    """
    f, p = _pair(policy, reference)
    q, s = _cumulated(f)
    b = np.append(_increments(_cumulated(p), selection), 0.0)
    terms = selection.g(q[1:], s[1:]) * (b[:-1] + b[1:]) / 2
    return -np.cumsum(terms[::-1])[::-1]


def tied_policy(values: ArrayLike, beta: float, reference: ArrayLike) -> Floats:
    """What KL-regularised training on a reward of `values` ends at, over m levels: p e^(values/beta) / Z, shape [m]."""
    v, p = np.asarray(values, dtype=np.float64), _masses(reference, "reference")
    if not (beta > 0 and v.shape == p.shape):
        raise InputError(f"expected beta above 0 and {p.size} values, one a level; got beta {beta} and shape {v.shape}")
    weights = p * np.exp((v - v.max()) / beta)
    optimum: Floats = weights / weights.sum()
    return optimum


def _pair(policy: ArrayLike, reference: ArrayLike) -> tuple[Floats, Floats]:
    f, p = _masses(policy, "policy"), _masses(reference, "reference")
    if f.shape != p.shape:
        raise InputError(f"the policy has {f.size} levels and the reference {p.size}: give both over the same levels")
    return f, p


def _masses(masses: ArrayLike, whose: str) -> Floats:
    m = np.asarray(masses, dtype=np.float64)
    if m.ndim != 1 or m.size == 0 or not np.all(m >= 0) or abs(m.sum() - 1) > 1e-9:
        raise InputError(
            f"the {whose}'s masses must be one row, none negative, with sum 1: divide counts by their total"
        )
    normalised: Floats = m / m.sum()
    return normalised


def _cumulated(masses: Floats) -> tuple[Floats, Floats]:
    """The mass up to each level and the mass above it, each summed from its own end; shapes [m + 1]."""
    up, down = np.cumsum(masses), np.cumsum(masses[::-1])[::-1]
    return np.minimum(np.append(0.0, up), 1.0), np.minimum(np.append(down, 0.0), 1.0)


def _increments(cumulated: tuple[Floats, Floats], selection: Selection) -> Floats:
    """Differences of G over the levels, taken from the end where they lose no digits."""
    q, _ = cumulated
    return np.where(q[1:] < 0.5, np.diff(selection.G(*cumulated)), -np.diff(selection.tail(*cumulated)))
