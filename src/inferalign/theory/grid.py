"""Policies as densities over the reference's quantiles, on one graded grid, and their KL and win rates.

With u the calibrated reward (uniform under the reference), a policy trained on Phi(u) with KL weight beta is the
density f = e^(Phi/beta) / Z on [0, 1], whatever the model and the reward (InfAlign, arXiv 2412.19792). With F = int f,

    KL = int f log f,    lose = int G(F) g(u) du,    win = int (1 - G(F)) g(u) du,

G and g those of the procedure. Integrals are Gauss-Legendre sums on panels that shrink geometrically towards 0 and 1;
sums run from the end where a quantity is small, and 1 - F is kept beside F, so that losing rates of 1e-12 have digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.theory.procedures import Selection, WinRate, sample

Floats = NDArray[np.float64]

ORDER = 8
"""Gauss-Legendre nodes a panel."""
FINEST = 1e-13
"""Width of the panels at 0 and at 1."""
STEEP = 0.5
"""Nats of log f within a panel that the nodes resolve, also where a truncation begins."""
NEGLIGIBLE = math.log(1e-21)
"""log of a panel's mass that adds nothing to any losing rate that matters (1e-12)."""
MIN_LOG_BETA = -708.0
"""log of the smallest float that has all its digits."""
RESOLVED_KL = 20.0
"""The largest KL asked of a grid: a policy's mass then lies within e^-20 of the top, ten thousand panels' width."""


class Shape(Protocol):
    """What a policy needs of a transform."""

    @property
    def name(self) -> str:
        """The text form."""

    @property
    def smooth(self) -> bool:
        """Whether it is known between the nodes of a grid as well as at them."""

    def from_top(self, u: Floats, s: Floats) -> Floats:
        """The normalised form minus its value at 1, at points u = 1 - s."""


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


@dataclass(frozen=True, eq=False)
class Policy:
    """A density over the reference's quantiles, at the nodes of a grid; arrays have shape [M]."""

    grid: Grid
    f: Floats
    log_f: Floats
    F: Floats
    """int_0^u f."""
    S: Floats
    """1 - F, summed from the right."""
    kl: float
    """Nats, to the reference."""
    log_z: float
    """log of int e^(Phi/beta) du, with Phi shifted to 0 at its largest node. Then -log_z is the largest log f."""


def policy(phi: Shape | Floats, beta: float, grid: Grid) -> Policy:
    """The optimum e^(Phi/beta) / Z of KL-regularised training.

    phi: a transform, or its values at the nodes. beta > 0 is in the units of the transform's normalised form. For a
    smooth transform the policy's own grid has further panels where its density is steep.
    """
    if not math.exp(MIN_LOG_BETA) <= beta < math.inf:
        raise InputError(f"beta is {beta}: expected a positive number, at least 1e-307")
    grid = _resolving(phi, beta, grid)
    return from_log_weights(_over(_values(phi, grid), beta), grid)


def from_log_weights(log_weights: Floats, grid: Grid) -> Policy:
    """The policy whose density is proportional to e^log_weights, given at the nodes."""
    a = log_weights - log_weights.max()
    e = np.exp(a)
    z = grid.integrate(e)
    log_z = math.log(z)
    f, log_f = e / z, a - log_z
    kl = grid.integrate(f * np.where(f > 0, log_f, 0.0))
    below, above = np.minimum(grid.cumulative(f), 1.0), np.minimum(grid.tail(f), 1.0)
    return Policy(grid=grid, f=f, log_f=log_f, F=below, S=above, kl=max(kl, 0.0), log_z=log_z)


def _values(phi: Shape | Floats, grid: Grid) -> Floats:
    return phi if isinstance(phi, np.ndarray) else phi.from_top(grid.u, grid.s)


def _over(values: Floats, beta: float) -> Floats:
    with np.errstate(over="ignore"):  # minus infinity is the density 0 that it stands for
        return values / beta


def _resolving(phi: Shape | Floats, beta: float, grid: Grid) -> Grid:
    """The grid with panels halved until the density is resolved. Values known at nodes only leave it as it is."""
    if isinstance(phi, np.ndarray) or not phi.smooth:
        return grid
    while True:
        a = _over(_values(phi, grid), beta)
        a = a - a.max()
        steep = grid.steep(a - math.log(grid.integrate(np.exp(a))))
        if not steep.any():
            return grid
        grid = grid.halved(steep)


def beta_for_kl(phi: Shape | Floats, kl: float, grid: Grid) -> float:
    """The beta at which the policy has the given KL (nats) to the reference.

    Raises `InputError` for a KL that is not positive, that this transform cannot reach (a flat top of length L, be it
    flat because its values leave the range of a float, stops at -log L), or that no grid resolves.
    """
    log_beta: float | None = None
    while True:
        log_beta = _log_beta_for_kl(phi, kl, grid, log_beta)
        finer = _resolving(phi, math.exp(log_beta), grid)
        if finer is grid:
            return math.exp(log_beta)
        grid = finer


def _log_beta_for_kl(phi: Shape | Floats, kl: float, grid: Grid, start: float | None) -> float:
    """Newton on log(e^KL - 1), which is nearly linear in log beta at both ends, inside a bracket that shrinks.

    d KL / d log beta = -Var_f(Phi / beta). Without a start: KL = Var(Phi) / (2 beta^2), true for small KL.
    """
    values = _values(phi, grid)
    a = values - values.max()
    limit = min(RESOLVED_KL, -math.log(grid.weights[a == 0].sum()))
    if not 0 < kl < limit:
        name = "this transform" if isinstance(phi, np.ndarray) else phi.name
        raise InputError(f"KL {kl:g} cannot be reached with {name}: give a KL above 0 and below {limit:.4g}")
    mean = grid.integrate(a)
    x = 0.5 * math.log(grid.integrate((a - mean) ** 2) / (2 * kl)) if start is None else start
    low, high = MIN_LOG_BETA, math.inf
    for _ in range(200):
        p = from_log_weights(_over(a, math.exp(x)), grid)
        if abs(p.kl - kl) <= 1e-13 * max(kl, 1.0):
            return x
        low, high = (x, high) if p.kl > kl else (low, x)
        if high - low < 4e-16 * abs(x):
            return x
        x = _inside(x + _newton_step(p, kl, a, math.exp(x)), low, high)
    raise InputError(f"no beta was found for KL {kl:g}: the values of the transform leave the range of a float")


def _newton_step(p: Policy, kl: float, a: Floats, beta: float) -> float:
    seen = p.f > 0
    scaled, masses = a[seen] / beta, (p.grid.weights * p.f)[seen]
    variance = float(masses @ (scaled - masses @ scaled) ** 2)
    if p.kl == 0 or variance == 0:
        return math.nan
    missing = math.log(math.expm1(kl) / math.expm1(p.kl))
    return -missing * -math.expm1(-p.kl) / variance


def _inside(x: float, low: float, high: float) -> float:
    """The proposal if it lies within the bracket, else the bracket's middle, or a step down from an open end."""
    if low < x < high:
        return x
    return (low + high) / 2 if math.isfinite(high) else low + 8.0


def win_rate(policy: Policy, selection: Selection) -> WinRate:
    """The policy under the procedure against the reference under the same procedure."""
    grid = policy.grid
    density = selection.g(grid.u, grid.s)
    lose = grid.integrate(selection.G(policy.F, policy.S) * density)
    win = grid.integrate(selection.tail(policy.F, policy.S) * density)
    return WinRate(win=win, lose=lose)


def output(policy: Policy, selection: Selection) -> Policy:
    """The law of the procedure's output: density g(F) f, CDF G(F), and its KL to the reference."""
    density = selection.g(policy.F, policy.S)
    with np.errstate(divide="ignore"):  # log 0 where nothing is selected
        return from_log_weights(policy.log_f + np.log(density), policy.grid)


def win_rate_plain(policy: Policy) -> WinRate:
    """One draw of the policy against one of the reference."""
    return win_rate(policy, sample())


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
