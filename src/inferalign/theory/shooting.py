"""The optimal policy as an initial value problem: an independent check of `theory.optimal`.

The first-order condition of the optimum (InfAlign, arXiv 2412.19792, in the calibrated reward; our derivation) is

    (log f)' = g(F) g(u) / beta,    F' = f,    F(0) = 0,    F(1) = 1.

It is integrated from u = 1 downwards in log s, s = 1 - u, where neither end is steep: S = 1 - F starts at 0 with
f(1) = a, and a is bisected until S = 1 at u = 0. When g never falls S(u=0) rises with a, so there is one such a. KL and
losing rate are integrated along. Nothing is shared with the grid: the integrator (LSODA) chooses its own steps. Below
beta of about 1e-7 the end depends on more digits of a than a float has, and `shoot` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import odeint
from scipy.optimize import brentq

from inferalign.core.errors import InputError
from inferalign.theory.optimal import Unconverged
from inferalign.theory.procedures import Selection

Floats = NDArray[np.float64]

START = math.log(1e-20)
"""log s where the integration starts: beyond it f is flat."""
STEEPEST = 60.0
"""The largest log f(1) tried."""


@dataclass(frozen=True)
class Shot:
    """The optimum at one beta, found by shooting."""

    beta: float
    log_f_top: float
    """log f(1)."""
    kl: float
    """Nats."""
    win_rate: float
    losing_rate: float


def shoot(selection: Selection, beta: float) -> Shot:
    """The stationary policy of a procedure at `beta`.

    Raises `InputError` for a beta that is not positive, and `Unconverged` when no f(1) up to e^60 meets both ends.
    """
    if not (beta > 0 and math.isfinite(beta)):
        raise InputError(f"beta is {beta:g}: give a positive number, for example 0.1")

    def miss(log_top: float) -> float:
        return math.log(_integrate(selection, beta, log_top)[0])

    low, high = 0.0, 0.5
    while miss(high) < 0:
        low, high = high, 2 * high
        if high > STEEPEST:
            raise Unconverged(f"shooting for {selection.name} found no f(1) at beta {beta:g}: give a larger beta")
    log_top = float(brentq(miss, low, high, xtol=1e-13, rtol=1e-13))
    mass, _, kl, lose = _integrate(selection, beta, log_top)
    if abs(mass - 1) > 1e-8:
        raise Unconverged(
            f"shooting for {selection.name} at beta {beta:g} ends at mass {mass:.9g}, not 1: give a larger beta"
        )
    return Shot(beta=beta, log_f_top=log_top, kl=float(kl), win_rate=float(1 - lose), losing_rate=float(lose))


def _integrate(selection: Selection, beta: float, log_top: float) -> Floats:
    """(S, log f, KL, losing rate) at u = 0, from f(1) = e^log_top."""

    def rates(state: Floats, log_s: float) -> list[float]:
        s, mass = math.exp(log_s), min(max(state[0], 0.0), 1.0)
        above, below, f = np.asarray(mass), np.asarray(1 - mass), math.exp(min(state[1], 2 * STEEPEST))
        density = s * float(selection.g(np.asarray(-math.expm1(log_s)), np.asarray(s)))
        return [
            s * f,
            -float(selection.g(below, above)) * density / beta,
            s * f * state[1],
            float(selection.G(below, above)) * density,
        ]

    start = [math.exp(START + log_top), log_top, 0.0, 0.0]
    # tcrit: beyond log s = 0 there is no s, and a step that overshoots would look there.
    path = odeint(rates, start, [START, 0.0], rtol=1e-11, atol=1e-14, mxstep=20_000, tcrit=[0.0])
    end: Floats = path[-1]
    return end
