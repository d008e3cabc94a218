"""Retry until a threshold: a procedure that is not calibrated, with its win rate and influence reward in closed form.

Draw until the reward reaches the reference's quantile tau, at most N times; if none does, return the best draw seen.
The threshold is absolute, so what the procedure does to a policy depends on more than ranks within that policy, and it
has no selection density. With F a policy's distribution over the reference's quantiles, p = F(tau) and
A(p) = 1 + p + .. + p^(N-1), the output has the distribution

    H(v) = F(v)^N below tau,    H(v) = p^N + A(p) (F(v) - p) from tau on.

The win rate is 1 - int H dH_0, H_0 the same with F(v) = v, and the influence reward (InfAlign's coupled equations,
arXiv 2412.19792; our derivation) is minus the derivative of int H dH_0 by mass at w: for w >= tau

    R(w) = -A(tau) A(p) (1 - w),

for w < tau, with d(v) = N p^(N-1) + A'(p) (F(v) - p),

    R(w) = -int_w^tau N F^(N-1) N v^(N-1) dv - A(tau) int_tau^1 d(v) dv.

R falls at tau: an answer just good enough ends the search. So the best policy takes mass from there, and is not
increasing in the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.theory.grid import Grid, default_grid
from inferalign.theory.policies import Policy
from inferalign.theory.procedures import WinRate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ThresholdRetry:
    """Draw until the reference's quantile `threshold` is reached, at most `n` times, else the best seen."""

    threshold: float
    n: int

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or self.n < 1:
            raise InputError(
                f"threshold {self.threshold:g} with {self.n} draws: give a quantile between 0 and 1 and at least 1 draw"
            )

    @property
    def grid(self) -> Grid:
        """The default grid with a panel's end at the threshold, where densities jump. All policies must be on it."""
        base = default_grid()
        if self.threshold <= 0.5:
            return Grid(np.union1d(base.lower, [self.threshold]), base.upper)
        return Grid(base.lower, np.union1d(base.upper, [1 - self.threshold]))

    def win_rate(self, p: Policy) -> WinRate:
        """The policy under the procedure against the reference under the same procedure."""
        density = self._reference(p.grid)
        below, at = self._below(p.grid), self._mass_below(p)
        output = np.where(below, p.F**self.n, at**self.n + self._tries(at) * (p.F - at))
        rest = np.where(below, 1 - p.F**self.n, self._tries(at) * p.S)
        return WinRate(win=p.grid.integrate(rest * density), lose=p.grid.integrate(output * density))

    def influence(self, p: Policy) -> Floats:
        """R at the nodes of the policy's grid, [M]: the transform that the optimum trains on, for `ascend_at_kl`."""
        grid, n = p.grid, self.n
        below, at = self._below(grid), self._mass_below(p)
        tries = self._tries(at)
        more = (tries - n * at ** (n - 1)) / (1 - at)  # A'(p), from (1 - p) A = 1 - p^N
        sooner = np.where(below, 0.0, n * at ** (n - 1) + more * (p.F - at))
        low = np.where(below, n * p.F ** (n - 1) * self._reference(grid), 0.0)
        fixed = self._tries(self.threshold) * grid.integrate(sooner)
        return np.where(below, -grid.tail(low) - fixed, -self._tries(self.threshold) * tries * grid.s)

    def output(self, draws: Floats) -> Floats:
        """What the procedure returns for rows of draws [B, N], given as quantiles of the reference; shape [B]."""
        good = draws >= self.threshold
        first = np.take_along_axis(draws, good.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(good.any(axis=1), first, draws.max(axis=1))

    def _below(self, grid: Grid) -> NDArray[np.bool_]:
        return grid.u < self.threshold

    def _mass_below(self, p: Policy) -> float:
        return p.grid.integrate(np.where(self._below(p.grid), p.f, 0.0))

    def _reference(self, grid: Grid) -> Floats:
        """The density of the reference's outputs at the nodes."""
        return np.where(self._below(grid), self.n * grid.u ** (self.n - 1), self._tries(self.threshold))

    def _tries(self, p: float) -> float:
        """A(p): the mean number of draws when each misses with probability p."""
        return float(sum(p**i for i in range(self.n)))
