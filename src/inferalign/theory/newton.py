"""One optimal policy by Newton's method on the two-point boundary problem of the first-order condition.

The optimum of (win rate) - beta KL over densities f on [0, 1] satisfies (InfAlign, arXiv 2412.19792, the coupled
equations, written in the calibrated reward u)

    log f(u) = Phi(u) / beta - log Z,    Phi(u) = -int_u^1 g(F(v)) g(v) dv,    F(u) = int_0^u f.

The right hand side is the policy's mirror image T[log f]. Newton's correction d to log f solves d - DT[d] = r, r the
image minus log f. With Y = the change of F it is the linear two-point problem

    Y' = f (d - mean of d),    d' = r' + g'(F) g(u) Y / beta,    Y(0) = Y(1) = 0,

a band matrix of 2 unknowns a node. At fixed KL, log beta is one more unknown. The matrix uses the trapezium rule, the
image the grid's own integrals, so that the matrix only sets the speed and never the answer. Convergence is measured by
the total variation between a policy and its mirror image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded

from inferalign.theory.grid import Grid
from inferalign.theory.policies import Policy, policy
from inferalign.theory.procedures import Selection

Floats = NDArray[np.float64]

TIGHT = 1e-11
"""Total variation to the mirror image at which a policy is the optimum. Then one more correction is made."""
KL_DIGITS = 1e-14
"""What rounding leaves of a KL near 0."""
MOST = 40
"""Corrections before giving up: where Newton converges at all it takes fewer than 20."""
LONGEST = 1.5
"""The largest change of log f in one correction, where there is mass."""
MASS = 1e-14
"""Mass of a node below which log f may change by any amount."""

HUGE = 1e100
"""Changes are cut here before they are squared: where log f is -1e12 there is no mass, and any change will do."""


@dataclass(frozen=True, eq=False)
class Stationary:
    """A policy that is its own mirror image; arrays have shape [M], M the nodes of the grid."""

    policy: Policy
    phi: Floats
    """The transform at the nodes, relative to its value at 1."""
    beta: float
    residual: float
    """Total variation between the policy and its mirror image."""
    iterations: int


def influence(selection: Selection, p: Policy, density: Floats) -> Floats:
    """Phi = -int_u^1 g(F) dG at the nodes [M]: the derivative of the win rate by the density, up to a constant.

    density: g at the nodes, [M].
    """
    return -p.grid.tail(selection.g(p.F, p.S) * density)


def total_variation(p: Policy, other: Policy) -> float:
    """Half the integral of |f - f'|: between 0 and 1."""
    return 0.5 * p.grid.integrate(np.abs(p.f - other.f))


def newton(
    selection: Selection,
    grid: Grid,
    log_f: Floats,
    beta: float,
    *,
    kl: float | None = None,
    tolerance: float = TIGHT,
) -> Stationary | None:
    """The stationary policy near `log_f` [M], at `beta`, or at the given KL with `beta` only a first guess.

    None when it does not converge: the start was too far.
    """
    density = selection.g(grid.u, grid.s)
    polished = False
    for iteration in range(MOST):
        p = policy(log_f, 1.0, grid)
        phi = influence(selection, p, density)
        image = policy(phi, beta, grid)
        residual = total_variation(p, image)
        missing = 0.0 if kl is None else kl - p.kl
        close = residual <= tolerance and abs(missing) <= max(tolerance * p.kl, KL_DIGITS)
        if close and (polished or tolerance > TIGHT):
            return Stationary(p, phi, beta, residual, iteration)
        polished = close
        change, log_beta = _correction(
            selection, p, image.log_f - p.log_f, phi, density, beta, missing, free=kl is not None
        )
        length = float(np.max([np.max(change[grid.weights * p.f > MASS]), abs(log_beta), _spread(p, change)]))
        if not math.isfinite(length):
            return None
        share = min(1.0, LONGEST / length) if length > 0 else 1.0
        log_f = p.log_f + share * change
        beta *= math.exp(share * log_beta)
    return None


def _spread(p: Policy, change: Floats) -> float:
    """The root mean square change under the policy."""
    return math.sqrt(p.grid.integrate(p.f * np.clip(change, -HUGE, HUGE) ** 2))


def _correction(
    selection: Selection,
    p: Policy,
    gap: Floats,
    phi: Floats,
    density: Floats,
    beta: float,
    missing: float,
    *,
    free: bool,
) -> tuple[Floats, float]:
    """Newton's changes of log f [M] and of log beta.

    gap: the mirror image's log f minus the policy's, [M]; missing: the KL wanted minus the policy's; free: whether beta
    may change.
    """
    columns = np.stack([gap, -phi / beta], axis=1) if free else gap[:, None]
    solved = _solve(selection, p, columns, density / beta)
    weights = p.grid.weights * p.f
    solved -= weights @ solved
    if not free:
        return solved[:, 0], 0.0
    log_f = np.where(p.f > 0, p.log_f, 0.0)
    gains = (weights * log_f) @ solved
    # a uniform policy has no direction in which beta moves its KL: nothing finite to return, and `newton` gives up
    log_beta = float((missing - gains[0]) / gains[1]) if gains[1] else math.nan
    change: Floats = solved[:, 0] + log_beta * solved[:, 1]
    return change, log_beta


def _solve(selection: Selection, p: Policy, columns: Floats, pull: Floats) -> Floats:
    """Solutions d [M, C] of the linear two-point problem for right hand sides r [M, C]; pull is g(u) / beta, [M].

    Unknowns alternate: d at a node, then Y there. Row 0 and the last row are the boundary conditions; between two
    neighbouring nodes there is one row for Y and one for d.
    """
    m, grid = p.f.size, p.grid
    low = grid.u[1:] < 0.5
    mass = np.maximum(np.where(low, np.diff(p.F), -np.diff(p.S)), 0.0)
    gap = np.where(low, np.diff(grid.u), -np.diff(grid.s))
    force = slope(selection, p.F, p.S) * pull
    band = np.zeros((5, 2 * m))
    k = 2 * np.arange(m - 1)

    def put(row: NDArray[np.int64], column: NDArray[np.int64], value: Floats | float) -> None:
        band[2 + row - column, column] = value

    for column, value in ((k, -mass / 2), (k + 1, -1.0), (k + 2, -mass / 2), (k + 3, 1.0)):
        put(k + 1, column, value)
    for column, value in ((k, -1.0), (k + 1, -force[:-1] * gap / 2), (k + 2, 1.0), (k + 3, -force[1:] * gap / 2)):
        put(k + 2, column, value)
    band[2, 0], band[1, 1] = -p.F[0], 1.0
    band[3, 2 * m - 2], band[2, 2 * m - 1] = p.S[-1], 1.0
    right = np.zeros((2 * m, columns.shape[1]))
    right[k + 2] = np.diff(columns, axis=0)
    solved: Floats = solve_banded((2, 2), band, right, overwrite_ab=True, overwrite_b=True, check_finite=False)[::2]
    return solved


def slope(selection: Selection, q: Floats, s: Floats) -> Floats:
    """g' at quantiles q = 1 - s, by central differences: good to some digits, enough for a step."""
    h = 1e-4 * np.maximum(np.minimum(q, s), 1e-300)
    return (selection.g(q + h, s - h) - selection.g(q - h, s + h)) / (2 * h)
