"""The optimal policy by direct maximisation over the masses of cells: the second independent check of `theory.optimal`.

The density is constant on cells that shrink geometrically towards 0 and 1. With cell masses m, F their running sum and
widths w, the objective is what it is for that density, up to the trapezium rule in G (no first-order condition enters):

    J = sum over cells of (1 - (G(F_k) + G(F_{k-1})) / 2) (G(u_k) - G(u_{k-1})) - beta sum m log(m / w).

Its gradient is analytic, and L-BFGS climbs it over the logits theta, m proportional to w e^theta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from inferalign.theory.grid import Grid
from inferalign.theory.optimal import Unconverged
from inferalign.theory.procedures import Selection

Floats = NDArray[np.float64]

STATIONARY = 1e-7
"""The largest gradient entry at which the climb has arrived."""


@dataclass(frozen=True, eq=False)
class Climb:
    """The best piecewise constant density at one beta; arrays have shape [C], one entry a cell."""

    objective: float
    """Win rate minus beta KL."""
    win_rate: float
    kl: float
    """Nats."""
    masses: Floats
    widths: Floats


def climb(selection: Selection, beta: float) -> Climb:
    """The density with the largest win rate minus beta KL, from the reference.

    Raises `Unconverged` when L-BFGS stops at a point that is not stationary.
    """
    cells = _Cells(selection, beta)
    found = minimize(
        cells.loss,
        np.zeros(cells.widths.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10_000, "ftol": 0.0, "gtol": STATIONARY, "maxcor": 30},
    )
    _, gradient = cells.loss(found.x)
    if float(np.abs(gradient).max()) > 10 * STATIONARY:
        raise Unconverged(f"L-BFGS for {selection.name} at beta {beta:g} stopped early: {found.message}")
    masses, win, kl = cells.rates(found.x)
    return Climb(objective=win - beta * kl, win_rate=win, kl=kl, masses=masses, widths=cells.widths)


class _Cells:
    """The objective on the cells, in the logits."""

    def __init__(self, selection: Selection, beta: float) -> None:
        self.selection, self.beta = selection, beta
        grid = Grid.graded(cap=1 / 256, ratio=1.2, finest=1e-9)
        self.widths = np.append(np.diff(grid.lower), np.diff(grid.upper)[::-1])
        u, s = _edges(self.widths)
        low, high = selection.G(u, s), selection.tail(u, s)
        self.reference = np.where(u[1:] < 0.5, np.diff(low), -np.diff(high))
        """G over each cell, [C]."""

    def rates(self, logits: Floats) -> tuple[Floats, float, float]:
        """Masses [C], win rate and KL."""
        weights = self.widths * np.exp(logits - logits.max())
        masses = weights / weights.sum()
        below, above = _edges(masses)
        tail = self.selection.tail(below, above)
        win = float(self.reference @ (tail[1:] + tail[:-1])) / 2
        kl = float(masses @ _log_ratio(masses, self.widths))
        return masses, win, kl

    def loss(self, logits: Floats) -> tuple[float, Floats]:
        """Minus the objective, and its gradient [C]."""
        masses, win, kl = self.rates(logits)
        below, above = _edges(masses)
        # the edge k lies between cells k and k + 1, and moves with every mass to its left
        pull = -self.selection.g(below, above)[1:-1] * (self.reference[1:] + self.reference[:-1]) / 2
        by_mass = np.append(np.cumsum(pull[::-1])[::-1], 0.0) - self.beta * _log_ratio(masses, self.widths)
        gradient = masses * (by_mass - masses @ by_mass)
        return self.beta * kl - win, -gradient


def _edges(parts: Floats) -> tuple[Floats, Floats]:
    """Running sums from the left and from the right at the C + 1 edges, at most 1."""
    left = np.append(0.0, np.cumsum(parts))
    right = np.append(np.cumsum(parts[::-1])[::-1], 0.0)
    return np.minimum(left, 1.0), np.minimum(right, 1.0)


def _log_ratio(masses: Floats, widths: Floats) -> Floats:
    """log(m / w), with 0 where there is no mass."""
    return np.log(np.where(masses > 0, masses, widths) / widths)
