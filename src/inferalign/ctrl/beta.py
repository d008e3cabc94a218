"""The weight of the KL: found for a KL target before training, and, if asked for, moved while training.

Before training: against K anchors the calibrated reward takes few values, so beta comes from the anchors at hand and
not from the ideal curve (`theory.scores.forecast`, which draws anchors like them again and again). Rewards that are not
calibrated have no such law; there the policy e^(r/beta) over each prompt's own K rollouts stands for it.

While training: proportional control of log beta, after Ziegler et al. (arXiv 1909.08593, section 2.2): the error is the
measured KL over the target less 1, clipped, so that a bad batch moves beta little; and beta stays within a factor of
what theory gave, since a KL that needs more than that is under-trained, not under-weighted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.ctrl.reward import UNJUDGEABLE, AnchorScores, CalibratedReward
from inferalign.ctrl.reward_kinds import Kind, parse_reward
from inferalign.ctrl.scored import JUDGE, SCORED
from inferalign.ctrl.settings import CtrlSettings
from inferalign.theory.finite import solve_beta
from inferalign.theory.procedures import parse_selection
from inferalign.theory.scores import forecast
from inferalign.theory.transforms import Transform

Floats = NDArray[np.float64]

FORECAST_SEED = 0
"""Of the anchors that a forecast draws again."""
LARGEST_ERROR = 0.2
"""Of (KL / target - 1), as the controller sees it."""
LARGEST_FACTOR = 4.0
"""How far the controller may take beta from where it started, either way."""


@dataclass(frozen=True)
class KlController:
    """`controller(beta, kl)` is the next beta: log beta moves by gain * clip(kl / target - 1, -0.2, 0.2) a step."""

    target: float
    gain: float
    start: float
    """The beta of the first step."""

    def __call__(self, beta: float, kl: float) -> float:
        error = min(max(kl / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        moved = beta * math.exp(self.gain * error)
        return min(max(moved, self.start / LARGEST_FACTOR), self.start * LARGEST_FACTOR)


def reward_kind(settings: CtrlSettings) -> Kind:
    """What the settings make of a score. Raises `UnknownName` and `InputError` as `parse_reward` does."""
    return parse_reward(settings.transform, parse_selection(settings.procedure), kl=settings.kl)


def beta_for(settings: CtrlSettings, anchors: AnchorScores | None) -> float:
    """The settings' beta, or the one at which training against `anchors` ends at a mean sequence KL of `kl` nats.

    Raises `InputError` when there is neither beta nor anchors, and for a KL that the anchors do not allow (H_K at most,
    the harmonic number).
    """
    if settings.beta is not None:
        return settings.beta
    if anchors is None:
        raise InputError("there is neither a beta nor anchors to find it from: give one of them")
    kind = reward_kind(settings)
    if isinstance(kind, Transform):
        selection = parse_selection(settings.procedure)
        # a seed of its own: trainings that differ by their seed alone have one beta
        return forecast(_ranked_rows(anchors), selection, kind, settings.kl, FORECAST_SEED).beta
    rewards = CalibratedReward(anchors, kind).rewards(anchors.prompt_ids, anchors.scores)
    return beta_of_tilt([row[np.isfinite(row)] for row in rewards], settings.kl)


def beta_of_tilt(rewards: list[Floats], kl: float) -> float:
    """Beta at which policies e^(r/beta) over each prompt's own equally likely rewards have the mean KL `kl`.

    Raises `InputError` for a KL that they do not allow: a prompt of K distinct rewards stays below log K.
    """
    limit = float(np.mean([math.log(row.size / np.count_nonzero(row == row.max())) for row in rewards]))
    if kl >= limit:
        raise InputError(f"these anchors allow a mean KL below {limit:.3f}, and {kl:g} is asked: give more, or less KL")

    def mean_kl(beta: float) -> tuple[float, float]:
        found = [_tilt(row / beta) for row in rewards]
        return float(np.mean([each[0] for each in found])), float(np.mean([each[1] for each in found]))

    start = math.sqrt(float(np.mean([row.var() for row in rewards])) / (2 * kl))
    return solve_beta(mean_kl, kl, start)


def _tilt(a: Floats) -> tuple[float, float]:
    """KL of e^a / Z over equally likely answers to these, and the variance of a under it."""
    a = a - a.max()
    p = np.exp(a) / np.exp(a).sum()
    mean = float(p @ a)
    return mean - math.log(float(np.exp(a).mean())), float(p @ (a - mean) ** 2)


def _ranked_rows(anchors: AnchorScores) -> list[Floats]:
    """Each prompt's scores as they are ranked: what cannot be judged at the bottom, the judge's failures left out."""
    scores = anchors.scores
    values = np.where(scores.blame == SCORED, scores.values, UNJUDGEABLE)
    return [row[held] for row, held in zip(values, scores.blame != JUDGE, strict=True)]
