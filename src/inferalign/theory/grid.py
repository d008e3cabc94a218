"""A grid on [0, 1] that is fine at both ends, where policies trained for the best or the worst of N have their mass.

Integrals are Gauss-Legendre sums on panels that shrink geometrically towards 0 and 1; sums run from the end where a
quantity is small, so that losing rates of 1e-12 have digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ORDER = 8
"""Gauss-Legendre nodes a panel."""
FINEST = 1e-13
"""Width of the panels at 0 and at 1."""
STEEP = 0.5
"""Nats of log f within a panel that the nodes resolve, also where a truncation begins."""
NEGLIGIBLE = math.log(1e-21)
"""log of a panel's mass that adds nothing to any losing rate that matters (1e-12)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes on (0, 1), ascending, with weights; the arrays of nodes have shape [M], M = panels x `ORDER`."""

    lower: Floats
    """Ends of the panels on [0, 1/2], as u: 0 first, 1/2 last."""
    upper: Floats
    """Ends of the panels on [1/2, 1], as 1 - u: 0 first, 1/2 last."""
    u: Floats = field(init=False, repr=False)
    s: Floats = field(init=False, repr=False)
    """1 - u, with its own digits."""
    weights: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        left, left_weights = _nodes(self.lower)
        right, right_weights = _nodes(self.upper)
        object.__setattr__(self, "u", np.concatenate([left, 1 - right[::-1]]))
        object.__setattr__(self, "s", np.concatenate([1 - left, right[::-1]]))
        object.__setattr__(self, "weights", np.concatenate([left_weights, right_weights[::-1]]))

    @classmethod
    def graded(cls, cap: float = 1 / 64, ratio: float = 2.0, finest: float = FINEST) -> Grid:
        """Panels of width `finest` at both ends, growing by `ratio` up to `cap` towards the middle."""
        ends = [0.0, finest]
        while ends[-1] * (ratio - 1) < cap and ends[-1] * ratio < 0.5:
            ends.append(ends[-1] * ratio)
        middle = np.linspace(ends[-1], 0.5, max(1, math.ceil((0.5 - ends[-1]) / cap)) + 1)
        half = np.concatenate([ends[:-1], middle])
        return cls(half, half)

    def halved(self, panels: NDArray[np.bool_]) -> Grid:
        """The same grid with the marked panels cut in two; `panels` has shape [M / ORDER], ascending in u."""
        count = self.lower.size - 1
        return Grid(_cut(self.lower, panels[:count]), _cut(self.upper, panels[count:][::-1]))

    def steep(self, log_f: Floats) -> NDArray[np.bool_]:
        """The panels [M / ORDER] on which a density is not resolved: log f spans more than `STEEP` where f matters."""
        rows = log_f.reshape(-1, ORDER)
        top = rows.max(axis=1)
        heavy = top + np.log(self.weights.reshape(-1, ORDER).sum(axis=1)) > NEGLIGIBLE
        steep: NDArray[np.bool_] = heavy & (rows.min(axis=1) < top - STEEP)
        return steep

    def integrate(self, y: Floats) -> float:
        """int_0^1 y du."""
        return float(self.weights @ y)

    def cumulative(self, y: Floats) -> Floats:
        """int_0^u y at every node, summed from the left: for y >= 0, relative accuracy where it is small."""
        inner, totals = self._panels(y, _from_left())
        before = np.append(0.0, np.cumsum(totals[:-1]))
        return (before[:, None] + inner).ravel()

    def tail(self, y: Floats) -> Floats:
        """int_u^1 y at every node, summed from the right."""
        inner, totals = self._panels(y, _from_left()[::-1, ::-1])
        after = np.append(np.cumsum(totals[:0:-1])[::-1], 0.0)
        return (after[:, None] + inner).ravel()

    def _panels(self, y: Floats, matrix: Floats) -> tuple[Floats, Floats]:
        """Integrals within panels up to each node [P, ORDER] and over whole panels [P].

        A polynomial through a density that falls by many powers of ten within a panel can leave the range that a
        density's integral has; it is kept in it.
        """
        masses = (self.weights * y).reshape(-1, ORDER)
        totals = masses.sum(axis=1)
        inner = masses @ matrix.T
        if np.all(totals >= 0):
            inner = np.clip(inner, 0.0, totals[:, None])
        return inner, totals


@lru_cache(maxsize=1)
def default_grid() -> Grid:
    """The grid that everything uses unless told otherwise."""
    return Grid.graded()


@lru_cache(maxsize=1)
def _unit_gauss() -> tuple[Floats, Floats]:
    x, w = np.polynomial.legendre.leggauss(ORDER)
    return (x + 1) / 2, w / 2


def _nodes(ends: Floats) -> tuple[Floats, Floats]:
    """Nodes and weights of the panels between consecutive ends."""
    x, w = _unit_gauss()
    widths = np.diff(ends)[:, None]
    return (ends[:-1, None] + widths * x).ravel(), (widths * w).ravel()


def _cut(ends: Floats, panels: NDArray[np.bool_]) -> Floats:
    return np.sort(np.concatenate([ends, ((ends[:-1] + ends[1:]) / 2)[panels]]))


@lru_cache(maxsize=1)
def _from_left() -> Floats:
    """A[i, j]: the share of node j's mass that lies between the panel's left end and node i.

    It integrates the polynomial through the nodes: int_0^(x_i) of the Lagrange polynomial of node j, over weight j.
    """
    x, w = _unit_gauss()
    powers = np.arange(ORDER)
    at_nodes = (2 * x[:, None] - 1) ** powers
    integrals = ((2 * x[:, None] - 1) ** (powers + 1) - (-1.0) ** (powers + 1)) / (powers + 1) / 2
    matrix: Floats = np.linalg.solve(at_nodes.T, integrals.T).T / w
    return matrix
