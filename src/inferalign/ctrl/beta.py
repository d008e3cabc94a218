"""The weight of the KL: found for a KL target before training, and, if asked for, moved while training.

Before training: against K anchors the calibrated reward takes few values, so beta comes from the anchors at hand and
not from the ideal curve (`theory.scores.forecast`, which draws anchors like them again and again). Rewards that are not
calibrated have no such law; there the policy e^(r/beta) over each prompt's own K rollouts stands for it.

While training: proportional control of log beta, after Ziegler et al. (arXiv 1909.08593, section 2.2): the error is the
measured KL over the target less 1, clipped, so that a bad batch moves beta little; and beta stays within a factor of
what theory gave, since a KL that needs more than that is under-trained, not under-weighted. It begins after warm-up:
before, the KL is low because little was learnt, whatever beta is, and beta would be lowered for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.ctrl.reward import UNJUDGEABLE, AnchorScores, CalibratedReward
from inferalign.ctrl.reward_kinds import Kind, Standardised, parse_reward
from inferalign.ctrl.scored import JUDGE, SCORED
from inferalign.ctrl.settings import CtrlSettings
from inferalign.theory.finite import CLOSE, solve_beta
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
    """`controller(step, beta, kl)` is the next beta: log beta moves by gain * clip(kl / target - 1, -0.2, 0.2) a step.

    step: how many were taken before the one that `kl` was measured in. It keeps no state, so it resumes exactly.
    """

    target: float
    gain: float
    start: float
    """The beta of the first step."""
    warmup: int
    """Steps that it leaves beta alone."""

    def __call__(self, step: int, beta: float, kl: float) -> float:
        if step < self.warmup:
            return beta
        error = min(max(kl / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        moved = beta * math.exp(self.gain * error)
        return min(max(moved, self.start / LARGEST_FACTOR), self.start * LARGEST_FACTOR)


def reward_kind(settings: CtrlSettings) -> Kind:
    """What the settings make of a score. Raises `UnknownName` and `InputError` as `parse_reward` does."""
    kl = settings.kl if settings.beta is None else None
    return parse_reward(settings.transform, parse_selection(settings.procedure), kl=kl, beta=settings.beta)


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
        return forecast(ranked_rows(anchors), selection, kind, settings.kl, FORECAST_SEED).beta
    rewards = CalibratedReward(anchors, kind).rewards(anchors.prompt_ids, anchors.scores)
    rows = [row[np.isfinite(row)] for row in rewards]
    return beta_of_tilt(rows, settings.kl, scaled=isinstance(kind, Standardised))


def beta_of_tilt(rewards: list[Floats], kl: float, *, scaled: bool = False) -> float:
    """Beta at which policies e^(r/beta) have the mean KL `kl`, from each prompt's own K rewards of reference draws.

    The KL of the K rewards to themselves is too small, by a quarter at K = 16 and KL 0.5, so its bias is removed by
    the jackknife (Quenouille, Biometrika 1956); scaled: the rewards of a prompt were divided by the standard deviation
    of these K, which is as random as they are, and the bias that this makes is removed to first order. What is left, by
    simulation at KL 0.5 with normal, skewed and levelled rewards: the KL is off by 9 % at most at K = 16, 5 % at 32.
    Rewards with an upper tail heavier than exponential (e^(normal), say) have no finite KL at any beta, and no anchors
    tell of it: there the KL comes out higher, the more so the fewer the anchors.

    Raises `InputError` for a KL that they do not allow: a prompt of K distinct rewards stays below log K, and rewards
    that tie at the top may not come as far as their share there would.
    """
    limit = float(np.mean([math.log(row.size / np.count_nonzero(row == row.max())) for row in rewards]))
    if kl >= limit:
        raise _too_much(kl, limit)
    shifts = [_shifts(row) if scaled else np.zeros(row.size) for row in rewards]

    def mean_kl(beta: float) -> tuple[float, float]:
        found = [_unbiased(row / beta, shift) for row, shift in zip(rewards, shifts, strict=True)]
        return float(np.mean([each[0] for each in found])), float(np.mean([each[1] for each in found]))

    start = math.sqrt(float(np.mean([row.var() for row in rewards])) / (2 * kl))
    beta = solve_beta(mean_kl, kl, start)
    reached, _ = mean_kl(beta)
    if reached < (1 - CLOSE) * kl:
        raise _too_much(kl, reached)
    return beta


def _too_much(kl: float, limit: float) -> InputError:
    return InputError(f"these anchors allow a mean KL below {limit:.3f}, and {kl:g} is asked: give more, or less KL")


def _unbiased(a: Floats, shift: Floats) -> tuple[float, float]:
    """KL of e^a / Z under the law that the K numbers `a` were drawn from, and the variance of a under e^a / Z.

    KL + (K - 1) mean_i (KL(b) - KL_i(b)), KL_i without the i-th and b where the i-th scale is: log b is moved by
    shift_i, and the difference moves by -shift_i times that of the variances, since d KL / d log b is the variance.
    """
    kl, variance = _tilt(a)
    kls, variances = _left_out(a)
    apart = kl - kls - shift * (variance - variances)
    return kl + (a.size - 1) * float(apart.mean()), variance


def _tilt(a: Floats) -> tuple[float, float]:
    """KL of e^a / Z over equally likely answers to these, and the variance of a under it."""
    a = a - a.max()
    p = np.exp(a) / np.exp(a).sum()
    mean = float(p @ a)
    return mean - math.log(float(np.exp(a).mean())), float(p @ (a - mean) ** 2)


def _left_out(a: Floats) -> tuple[Floats, Floats]:
    """`_tilt` of all but the i-th, for every i."""
    a = a - a.max()
    e, top = np.exp(a), int(a.argmax())
    with np.errstate(divide="ignore", invalid="ignore"):  # the largest may be all there is: it follows apart
        z = e.sum() - e
        mean = ((e @ a) - e * a) / z
        kls, variances = mean - np.log(z / (a.size - 1)), ((e @ a**2) - e * a**2) / z - mean**2
    kls[top], variances[top] = _tilt(np.delete(a, top))
    return kls, variances


def _shifts(row: Floats) -> Floats:
    """log of the standard deviation without the i-th over that of all, for every i; 0 where there is none."""
    row, k = row - row.mean(), row.size
    rest = np.maximum((row @ row - row**2) / (k - 1) - ((row.sum() - row) / (k - 1)) ** 2, 0.0)
    variance = row.var()
    usable = rest > 1e-9 * variance
    return np.where(usable, 0.5 * np.log(np.divide(rest, variance, out=np.ones(k), where=usable)), 0.0)


def ranked_rows(anchors: AnchorScores) -> list[Floats]:
    """Each prompt's scores as they are ranked: what cannot be judged at the bottom, the judge's failures left out."""
    scores = anchors.scores
    values = np.where(scores.blame == SCORED, scores.values, UNJUDGEABLE)
    return [row[held] for row, held in zip(values, scores.blame != JUDGE, strict=True)]
