"""What is made of a score, by name: transforms of the calibrated reward, and the baselines that do without one.

    R = Phi(x) - m     x the calibrated reward, Phi in its normalised form, m its mean over the reference

beta of a trainer that maximises E[R] - beta KL is in the units of `Transform.normalised` (for e^(tx), t > 0, that is
e^(t(x-1)), at most 1; the printed form otherwise), which is what `theory.planner` plans in. m changes no gradient; it
makes 0 the reference's own reward. Sources: InfAlign, arXiv 2412.19792, for Phi; its Eq. (12) for x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean
from inferalign.theory.calibration import Ranks
from inferalign.theory.optimal import solve
from inferalign.theory.procedures import Selection
from inferalign.theory.transforms import FORMS, Log, Optimal, Transform, parse_transform

Floats = NDArray[np.float64]

NODES = 32
"""Gauss-Legendre nodes of a mean over a tie."""
Ties = Literal["mid", "mean"]
"""What a tie with anchors gets: Phi in the middle of the tie, as Eq. (12) has it, or the mean of Phi over the tie.

They differ where many answers tie (a judge that says 1 to 10): there the mean keeps the reward's own mean over the
reference at 0, and ends nearer to the optimum on levels (`theory.procedures.tied_reward`)."""


@dataclass(frozen=True)
class Raw:
    """The score as it is. beta is in the scorer's units, and KL is spent where a prompt's scores vary most."""

    name = "raw"


@dataclass(frozen=True)
class Standardised:
    """(r - mean) / sd over the prompt's anchors: scale and offset calibrated, the shape not."""

    name = "standardised"


Kind = Transform | Raw | Standardised
"""What is made of a score. A transform is of the calibrated reward; `identity` is calibration alone."""
REWARDS = ("raw", "standardised", *FORMS)
"""How to write one."""


def parse_reward(
    text: str, selection: Selection | None = None, *, kl: float | None = None, beta: float | None = None
) -> Kind:
    """A reward from its text form: `raw`, `standardised`, or a transform of the calibrated reward.

    selection: the procedure that is trained for, which `one-shot` and `optimal` need. kl (nats) or beta: where
    `optimal` is frozen, one of them; other rewards ignore both.
    Raises `UnknownName` with a did-you-mean, and `InputError` for what is missing or unusable.
    """
    plain: dict[str, Kind] = {"raw": Raw(), "standardised": Standardised()}
    if text in plain:
        return plain[text]
    try:
        shape = parse_transform(text, selection)
    except UnknownName as error:
        hint = did_you_mean(text.partition(":")[0], (form.partition(":")[0] for form in REWARDS))
        raise UnknownName(f"unknown reward {text!r}.{hint} Give one of: {', '.join(REWARDS)}.") from error
    if not isinstance(shape, Optimal):
        return shape
    if selection is None:
        raise InputError("optimal depends on the procedure: name the procedure too, for example best-of-n:4")
    return solve(selection, kl=kl, beta=beta).transform


def transformed(transform: Transform, found: Ranks, counts: NDArray[np.int64], ties: Ties = "mid") -> Floats:
    """R of candidates with so many anchors below and equal, of `counts`; shapes [B].

    log takes the smoothed form (below + equal / 2 + 1/2) / (K + 1), because log 0 is no reward; so does
    `theory.finite`, which finds beta for a KL target at this K.
    """
    inset = 0.5 if isinstance(transform, Log) else 0.0
    low = (found.below + inset) / (counts + 2 * inset)
    width = found.equal / (counts + 2 * inset)
    if ties == "mid":
        phi = transform.normalised(low + width / 2)
    else:
        at, weights = _nodes()
        phi = transform.normalised(low[:, None] + width[:, None] * at) @ weights
    rewards: Floats = phi - transform.reference_mean / transform.scale
    return rewards


@lru_cache(maxsize=1)
def _nodes() -> tuple[Floats, Floats]:
    at, weights = np.polynomial.legendre.leggauss(NODES)
    return (at + 1) / 2, weights / 2
