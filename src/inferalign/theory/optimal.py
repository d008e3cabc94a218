"""The optimal transform of a procedure: which Phi makes KL-regularised training best for the way a model is decoded.

For a procedure with selection density g the best policy at KL weight beta is f = e^(Phi/beta) / Z with

    Phi(u) = -int_u^1 g(F(v)) g(v) dv,    F = int_0^u f

(InfAlign, arXiv 2412.19792: Theorem on the transformed reward, for any g; our derivation). `solve` follows the optimum
from KL near 0, where Phi is -int_u^1 g^2 in closed form, up to what was asked, by Newton's method (`theory.newton`).

When g never falls (best-of-N) the problem is concave and the answer is the one optimum. When g falls (worst-of-N) it is
the stationary policy that continues the one at small KL; beyond beta = sup |g'| q (1-q) no proof excludes another, and
none has been found. `theory.shooting`, `theory.direct` and `theory.ascent` reach the same answers in other ways.

Beyond a losing rate of 1e-12 there is nothing left to win and nothing for a float to tell. There `solve` squeezes the
last policy it solved for into the top e^-d of the reference, d the KL that is left to spend: the losing rate cannot
rise by it, and where 1 - G is a power of 1 - q, as for worst-of-N, the result is the optimum itself, as far as the grid
resolves rates that small. It is marked `limiting`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InferalignError, InputError
from inferalign.theory.grid import Grid, default_grid
from inferalign.theory.newton import TIGHT, Stationary, newton
from inferalign.theory.policies import RESOLVED_KL, beta_for_kl, policy, win_rate
from inferalign.theory.procedures import Selection
from inferalign.theory.transforms import Tabulated

Floats = NDArray[np.float64]

SMALLEST_LOSS = 1e-12
"""Losing rate beyond which the limiting form is given."""
STRIDE = 4.0
"""The factor in KL (or in 1 / beta) from one solved policy to the next, where Newton follows."""
SHORTEST = 1.002
"""The factor at which following is given up."""
LOOSE = 1e-3
"""Residual that is enough for a policy on the way."""

SHARP = 16.5
"""The largest density for which the default grid serves."""
SMALLEST_BETA = 1e-300
"""Where beta of the limiting form stops, lest it become 0; the table is in the same units."""


class Unconverged(InferalignError, RuntimeError):
    """No answer within the tolerance was found: nothing is returned in its place."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best recipe for a procedure at one KL."""

    transform: Tabulated
    beta: float
    """In the units of the transform as tabulated, whose derivative is g(F) g(u)."""
    kl: float
    """Nats."""
    win_rate: float
    """Fraction, under the procedure on both sides."""
    losing_rate: float
    """1 - win_rate with its own digits."""
    residual: float
    """Total variation between the policy and e^(Phi/beta) / Z of its own Phi."""
    iterations: int
    """Newton corrections, those on the way included."""
    limiting: bool
    """Whether the losing rate is below 1e-12 and the limiting form is given."""


def solve(
    selection: Selection, *, beta: float | None = None, kl: float | None = None, grid: Grid | None = None
) -> Optimum:
    """The optimal transform for `selection` at one KL weight, or at one KL (nats, at most 20).

    grid: where the transform is tabulated; without one, the default grid, or a finer one for sharp selections. An
    optimum on a grid given here is as accurate as that grid.
    Raises `InputError` unless exactly one of `beta` and `kl` is given, positive and finite, and `Unconverged` rather
    than return what does not satisfy the first-order condition.
    """
    wanted = _wanted(beta, kl)
    at_kl = kl is not None
    place = grid or grid_for(selection)
    near = _first(selection, place, wanted, at_kl=at_kl)
    total, factor = near.iterations, STRIDE
    while True:
        lose = win_rate(near.policy, selection).lose
        here = near.policy.kl if at_kl else 1 / near.beta
        if lose < SMALLEST_LOSS:
            near = _polished(selection, place, near)
            return _limit(selection, near, lose, total, wanted, at_kl=at_kl)
        if near.residual <= TIGHT and math.isclose(here, wanted, rel_tol=1e-9):
            return _optimum(selection, near, total)
        target = min(wanted, here * factor, _farthest(near, lose, here, at_kl=at_kl))
        found = _step(selection, place, near, target, at_kl=at_kl, final=target == wanted)
        if found is None:
            factor = math.sqrt(factor)
            if factor < SHORTEST:
                what = f"KL {target:.6g}" if at_kl else f"beta {1 / target:.6g}"
                raise Unconverged(
                    f"the optimum for {selection.name} could not be followed to {what} from losing rate {lose:.3g}: "
                    "give a smaller KL or a finer grid"
                )
            continue
        near, total, factor = found, total + found.iterations, min(factor**1.5, STRIDE)


def _wanted(beta: float | None, kl: float | None) -> float:
    """The KL, or 1 / beta: either way more of it is a stronger policy."""
    if (beta is None) == (kl is None):
        raise InputError("the optimal transform needs one of beta and kl, not both: give for example kl=0.5")
    if kl is not None and not 0 < kl <= RESOLVED_KL:
        raise InputError(f"KL {kl:g} cannot be solved for: give one above 0 and at most {RESOLVED_KL:g}")
    if beta is not None and not (beta > 0 and math.isfinite(beta)):
        raise InputError(f"beta is {beta:g}: give a positive number, for example 0.1")
    return kl if kl is not None else 1 / (beta or 1.0)


def grid_for(selection: Selection) -> Grid:
    """The default grid, or for a density above `SHARP` one whose panels are as fine as what it makes of a policy.

    Features of the optimum are as narrow as 1 / max g in the middle, and near 1 as narrow as the losing rate.
    """
    grid = default_grid()
    sharp = float(selection.g(grid.u, grid.s).max())
    return grid if sharp <= SHARP else _fine_grid(2.0 ** -math.ceil(math.log2(sharp / 2)))


@lru_cache(maxsize=4)
def _fine_grid(cap: float) -> Grid:
    return Grid.graded(cap=min(cap, 1 / 64), ratio=2.0, finest=1e-17)


def _first(selection: Selection, grid: Grid, wanted: float, *, at_kl: bool) -> Stationary:
    """A policy near the reference, where the win rate is at most a tenth above one half and the problem is linear."""
    phi = -grid.tail(selection.g(grid.u, grid.s) ** 2)
    deviation = math.sqrt(grid.integrate(phi**2) - grid.integrate(phi) ** 2)
    kl = 0.005 / deviation**2
    if at_kl:
        kl = min(kl, wanted)
    beta = deviation / math.sqrt(2 * kl)
    if not at_kl:
        beta = max(beta, 1 / wanted)
    found = newton(selection, grid, phi / beta, beta, kl=kl if at_kl else None)
    if found is None:
        raise Unconverged(f"no optimum for {selection.name} near the reference: its density is too steep for the grid")
    return found


def _farthest(near: Stationary, lose: float, here: float, *, at_kl: bool) -> float:
    """Where the losing rate would be half the smallest, if it went on falling as it does here.

    At the optimum d lose / d KL = -beta, so log lose falls by beta / lose for each nat.
    """
    left = math.log(lose / (0.5 * SMALLEST_LOSS))
    return here + left * lose / near.beta if at_kl else here * math.exp(left)


def _step(
    selection: Selection, grid: Grid, near: Stationary, target: float, *, at_kl: bool, final: bool
) -> Stationary | None:
    tolerance = TIGHT if final else LOOSE
    if at_kl:
        return newton(selection, grid, near.policy.log_f, near.beta, kl=target, tolerance=tolerance)
    return newton(selection, grid, near.policy.log_f, 1 / target, tolerance=tolerance)


def _polished(selection: Selection, grid: Grid, near: Stationary) -> Stationary:
    found = newton(selection, grid, near.policy.log_f, near.beta, kl=near.policy.kl)
    if found is None:
        raise Unconverged(
            f"the optimum for {selection.name} at KL {near.policy.kl:.6g} was not reached: give a finer grid"
        )
    return found


def _optimum(selection: Selection, found: Stationary, iterations: int) -> Optimum:
    rate = win_rate(found.policy, selection)
    return Optimum(
        transform=Tabulated(found.policy.grid, found.phi),
        beta=found.beta,
        kl=found.policy.kl,
        win_rate=rate.win,
        losing_rate=rate.lose,
        residual=found.residual,
        iterations=iterations,
        limiting=False,
    )


def _limit(
    selection: Selection, edge: Stationary, lose: float, iterations: int, wanted: float, *, at_kl: bool
) -> Optimum:
    """The edge's policy squeezed towards 1, its beta continued with d log beta / d KL = -beta / lose as for a power."""
    rate = edge.beta / lose
    left = max(0.0, wanted - edge.policy.kl if at_kl else math.log(wanted * edge.beta) / rate)
    if edge.policy.kl + left > RESOLVED_KL:
        raise InputError(f"beta {1 / wanted:g} asks for a KL above {RESOLVED_KL:g}: give a larger beta")
    grid, share = edge.policy.grid, math.exp(-left)
    beta = max(edge.beta * math.exp(-rate * left), SMALLEST_BETA)
    inside = grid.s < share
    s = np.where(inside, grid.s / share, 1.0)
    floor = edge.phi[0] - 1000 * edge.beta  # e^-1000 is 0: no mass below the squeezed range
    values = np.where(inside, Tabulated(grid, edge.phi).from_top(1 - s, s), floor)
    if left > 0:
        values *= beta / beta_for_kl(values, edge.policy.kl + left, grid)
    p = policy(values, beta, grid)
    final = win_rate(p, selection)
    if not final.lose < SMALLEST_LOSS:
        raise Unconverged(f"the limiting form for {selection.name} at KL {p.kl:.6g} is not resolved: give a finer grid")
    return Optimum(
        transform=Tabulated(grid, values),
        beta=beta,
        kl=p.kl,
        win_rate=final.win,
        losing_rate=final.lose,
        residual=edge.residual,
        iterations=iterations,
        limiting=True,
    )
