"""Mirror ascent: the optimal policy by repeated replacement of log f with its mirror image, for any procedure.

What is climbed is (win rate) - beta KL(f) over densities f on [0, 1]. With Phi the derivative of the win rate by f (the
transformed reward of InfAlign's coupled equations, arXiv 2412.19792) one step is

    log f <- (1 - eta) log f + eta Phi / beta - log Z.

For a selection density g two steps are proved (our derivation). If g never falls, the win rate is concave and L-smooth
relative to the negative entropy, L = sup |g'| q (1-q), so eta = beta / (beta + L) never loses ground. If g never
rises, the win rate is convex, its tangent lies below it, and eta = 1 never loses ground. For other procedures, and at
fixed KL, eta starts at one half and is halved when the distance to the mirror image grows. Slower than `theory.newton`,
which needs a selection density; this file needs only the derivative, and is an independent check.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inferalign.theory.grid import Grid
from inferalign.theory.newton import Stationary, influence, slope, total_variation
from inferalign.theory.optimal import Unconverged
from inferalign.theory.policies import Policy, beta_for_kl, policy
from inferalign.theory.procedures import Selection

Floats = NDArray[np.float64]

CLOSE = 1e-10
"""Total variation to the mirror image at which the ascent has arrived."""
MOST = 20_000
"""Steps before it is called unconverged."""


def ascend(selection: Selection, beta: float, grid: Grid) -> Stationary:
    """The stationary policy of a procedure at `beta`, from the reference, by the proved step.

    For a density that both rises and falls the step of the rising case is taken; it is then not proved. Raises
    `Unconverged` after 20,000 steps: small beta needs about L / beta of them when g rises.
    """
    density = selection.g(grid.u, grid.s)
    steepness = slope(selection, grid.u, grid.s)
    falling = bool(np.all(steepness <= 0)) and not selection.g_increasing
    smooth = float(np.max(np.abs(steepness) * grid.u * grid.s))
    eta = 1.0 if falling else beta / (beta + smooth)
    p = policy(np.zeros_like(grid.u), 1.0, grid)
    for step in range(MOST):
        phi = influence(selection, p, density)
        image = policy(phi, beta, grid)
        residual = total_variation(p, image)
        if residual <= CLOSE:
            return Stationary(p, phi, beta, residual, step)
        p = policy((1 - eta) * p.log_f + eta * image.log_f, 1.0, grid)
    raise Unconverged(
        f"mirror ascent for {selection.name} at beta {beta:g} is {residual:.2g} from its mirror image after {MOST} "
        "steps: give a larger beta"
    )


def ascend_at_kl(derivative: Callable[[Policy], Floats], kl: float, grid: Grid) -> Stationary:
    """The stationary policy at a KL (nats) of any procedure whose win rate has the derivative Phi [M] at a policy.

    Raises `Unconverged` when the distance to the mirror image does not shrink, and `InputError` for a KL that the
    transform cannot reach.
    """
    p = policy(np.zeros_like(grid.u), 1.0, grid)
    eta, before = 0.5, 1.0
    for step in range(MOST):
        phi = derivative(p)
        beta = beta_for_kl(phi, kl, grid)
        image = policy(phi, beta, grid)
        residual = total_variation(p, image)
        if residual <= CLOSE:
            return Stationary(image, phi, beta, residual, step)
        if residual > before and eta > 1e-4:
            eta /= 2
        before = residual
        p = policy((1 - eta) * p.log_f + eta * image.log_f, 1.0, grid) if step else image
    raise Unconverged(
        f"mirror ascent at KL {kl:g} is {residual:.2g} from its mirror image after {MOST} steps: give a smaller KL"
    )
