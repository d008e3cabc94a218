"""What theory allows at a measured KL: the curve behind the measurements, and the warning when one lies above it.

A policy trained on a selector's calibrated score is a density f over the selector's quantiles v, whatever the model
(InfAlign, arXiv 2412.19792). Under a procedure with selection density g it wins

    W(f) = int m dG(F) = m(1) - int G(F(v)) m'(v) dv,    m(v) = the mean of c over answers at v,

c(y) the probability that the judge puts y above an output of the procedure on the base model. Where the judge is the
selector, m = G and the largest W at a KL is `theory.optimal`'s. Where it is not, m is measured on the base model's own
pool, and the largest W is the stationary policy of Phi(v) = -int_v^1 g(F) m'(v) dv (our derivation; `theory.influence`
has the reward of one prompt's finite pool). That is the ceiling of *one* transform of the calibrated selector: a policy
that learned more of the judge than the selector says, or that spends KL on other prompts, may lie above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import betaln, gammaln

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate
from inferalign.theory.ascent import ascend_at_kl
from inferalign.theory.optimal import Unconverged, grid_for, solve
from inferalign.theory.policies import RESOLVED_KL, Policy, beta_for_kl, policy
from inferalign.theory.procedures import OfN
from inferalign.theory.transforms import Optimal, parse_transform
from inferalign.winrate.estimators import contests, selection_weights
from inferalign.winrate.pools import Pool

Floats = NDArray[np.float64]

SMALLEST_KL = 1e-4
"""Nats below which nothing can be won to speak of."""
DEGREE = 16
"""Of the polynomial m, or twice the procedure's N where that is more; best and worst of N are exact in degree N."""
SPLITS = 16
"""Times that a prompt's answers are split into ranked ones and opponents."""
SYMMETRY = 1e3
"""Weight of the equation W(base) = 1/2, which holds whatever the judge, beside one row a prompt."""


@dataclass(frozen=True, eq=False)
class Ceiling:
    """The largest win rate under one procedure, by KL."""

    procedure: OfN
    top: float
    """m(1)."""
    slope: Callable[[Floats, Floats], Floats]
    """m' at (v, 1 - v)."""
    judged_by_selector: bool

    def at(self, kl: float) -> float:
        """The largest W at a mean KL of `kl` nats, or m(1), which bounds it, where the solver does not get there.

        At most 1/2 where the selector tells nothing of the judge.
        """
        if kl < SMALLEST_KL:
            return 0.5
        if kl > RESOLVED_KL:
            return 1.0 if self.judged_by_selector else self.top
        return _largest(self, round(kl, 6))

    def of(self, transform: str, kl: float) -> float:
        """W of training on a transform (text form) of the calibrated selector to `kl` nats, its optimum reached.

        `optimal` is the transform that is best where the selector is the judge, which training has to go by.
        """
        shape = parse_transform(transform, self.procedure)
        if isinstance(shape, Optimal):
            best = solve(self.procedure, kl=kl)
            return self.win_rate(policy(best.transform, best.beta, best.transform.grid))
        grid = grid_for(self.procedure)
        return self.win_rate(policy(shape, beta_for_kl(shape, kl, grid), grid))

    def win_rate(self, p: Policy) -> float:
        """W of a density over the selector's quantiles."""
        return self.top - p.grid.integrate(self.procedure.G(p.F, p.S) * self.slope(p.grid.u, p.grid.s))


@lru_cache(maxsize=1024)
def _largest(ceiling: Ceiling, kl: float) -> float:
    procedure = ceiling.procedure
    if ceiling.judged_by_selector:
        return solve(procedure, kl=kl).win_rate
    grid = grid_for(procedure)
    steep = ceiling.slope(grid.u, grid.s)
    if not np.any(steep > 0):
        return 0.5
    try:
        found = ascend_at_kl(lambda p: -grid.tail(procedure.g(p.F, p.S) * steep), kl, grid)
    except Unconverged:  # far from the base model only; W = m(1) - int G m' is never above m(1), since m rises
        return ceiling.top
    return ceiling.win_rate(found.policy)


def exceeds(ceiling: Ceiling, win: Estimate, kl: Estimate) -> bool:
    """Whether a win rate lies above the ceiling by more than the intervals of W and of KL explain."""
    lowest, largest = (win.mean if win.low is None else win.low), (kl.mean if kl.high is None else kl.high)
    return lowest is not None and largest is not None and lowest > ceiling.at(largest)


def selector_ceiling(procedure: OfN) -> Ceiling:
    """The ceiling where the selector is the judge: no recipe of any kind wins more at its KL."""
    return Ceiling(procedure, 1.0, procedure.g, judged_by_selector=True)


def judge_ceiling(procedure: OfN, base: Pool) -> Ceiling:
    """The ceiling where another judge decides, from the base model's pool of at least 2 N answers a prompt.

    A prompt's answers are split, again and again: some are ranked by the selector, and each is held against what the
    procedure keeps of the others, which keeps rank and opponent independent. The mean quality at each place of the
    ranking, over prompts, is matched by a rising polynomial m, in Bernstein's form, of which it is the expectation over
    a Beta law. Where the judge's mean falls as the selector's score rises, m is flat.

    Raises `InputError` for a pool that is too small.
    """
    places, weights = _measured(procedure, base)
    largest = max(places)
    degree = min(max(DEGREE, 2 * procedure.n), largest)
    rows = [_moments(size, degree) * np.sqrt(weights[size]) for size in places]
    aims = [values * np.sqrt(weights[size]) for size, values in places.items()]
    # of N answers the best is the last, the worst the first; against the base model itself it wins half of the time
    rows.append(SYMMETRY * _moments(procedure.n, degree)[[-1 if procedure.keeps == "best" else 0]])
    aims.append(np.array([SYMMETRY / 2]))
    rising = np.tril(np.ones((degree + 1, degree + 1)))
    steps, _ = nnls(np.concatenate(rows) @ rising, np.concatenate(aims))
    return Ceiling(procedure, float(steps.sum()), _bernstein(degree * steps[1:]), judged_by_selector=False)


def _measured(procedure: OfN, base: Pool) -> tuple[dict[int, Floats], Counter[int]]:
    """By number of ranked answers: the mean of c at each place of the ranking, and how many splits it rests on."""
    stream = np.random.Generator(np.random.Philox(key=derive(0, "splits")))
    totals: dict[int, Floats] = {}
    splits: Counter[int] = Counter()
    for prompt in base.judge:
        selector, judge = base.usable(prompt)
        opponents = max(procedure.n, selector.size // 4)
        ranked = selector.size - opponents
        if ranked < max(procedure.n, 2):
            continue
        for _ in range(SPLITS):
            order = stream.permutation(selector.size)
            mine, other = order[:ranked], order[ranked:]
            quality = contests(judge[mine], judge[other]) @ selection_weights(selector[other], procedure)
            totals[ranked] = totals.get(ranked, 0.0) + _by_place(selector[mine], quality)
            splits[ranked] += 1
    if not totals:
        raise InputError(
            f"the ceiling of {procedure.name} needs {max(3, 2 * procedure.n)} answers of the base model a prompt that "
            "both selector and judge could score, and no prompt has them (the scores in the run folder say why): mend "
            "the scorer, or draw a larger pool (--base-m)"
        )
    return {size: total / splits[size] for size, total in totals.items()}, splits


def _by_place(selector: Floats, quality: Floats) -> Floats:
    """The quality at each place of the ranking, ties sharing their places evenly; [m]."""
    _, level, counts = np.unique(selector, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(level, weights=quality) / counts, counts)


def _moments(size: int, degree: int) -> Floats:
    """The mean of each Bernstein polynomial over the law Beta(k, size - k + 1) of the k-th of `size` uniform draws.

    Row k - 1, column j: C(degree, j) B(j + k, degree - j + size - k + 1) / B(k, size - k + 1).
    """
    k, j = np.arange(1, size + 1)[:, None], np.arange(degree + 1)[None, :]
    choose = gammaln(degree + 1) - gammaln(j + 1) - gammaln(degree - j + 1)
    moments: Floats = np.exp(choose + betaln(j + k, degree - j + size - k + 1) - betaln(k, size - k + 1))
    return moments


def _bernstein(coefficients: Floats) -> Callable[[Floats, Floats], Floats]:
    """The polynomial with these coefficients in Bernstein's basis, at (v, 1 - v)."""
    degree = coefficients.size - 1
    j = np.arange(degree + 1)
    scaled = coefficients * np.exp(gammaln(degree + 1) - gammaln(j + 1) - gammaln(degree - j + 1))

    def value(v: Floats, s: Floats) -> Floats:
        basis: Floats = v[:, None] ** j * s[:, None] ** (degree - j)
        found: Floats = basis @ scaled
        return found

    return value


def ceilings(procedures: Mapping[str, OfN], base: Pool, *, judged_by_selector: bool) -> dict[str, Ceiling]:
    """One a procedure, by its name."""
    return {
        name: selector_ceiling(each) if judged_by_selector else judge_ceiling(each, base)
        for name, each in procedures.items()
    }
