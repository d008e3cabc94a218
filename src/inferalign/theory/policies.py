"""Policies as densities over the reference's quantiles, and their KL and win rates.

With u the calibrated reward (uniform under the reference), a policy trained on Phi(u) with KL weight beta is the
density f = e^(Phi/beta) / Z on [0, 1], whatever the model and the reward (InfAlign, arXiv 2412.19792). With F = int f,

    KL = int f log f,    lose = int G(F) g(u) du,    win = int (1 - G(F)) g(u) du,

G and g those of the procedure. 1 - F is kept beside F, so that small losing rates have digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from inferalign.core.errors import InputError
from inferalign.theory.grid import Floats, Grid
from inferalign.theory.procedures import Selection, WinRate, sample

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
