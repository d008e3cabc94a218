"""What `ctrl_corrupted` makes of anchors and pools: the exact optimum, and recipes side by side at one KL.

Trained recipes end at KLs of their own. They are laid side by side at the smallest of a share's KLs, each on the chord
in sqrt(KL) from the base model to where it ended, KL's own noise included in the interval (`at_common_kl`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.corrupted_pairs import has_phrase
from benchmarks.corrupted_stages import Plan, settings_of
from benchmarks.sandbox_runs import student_half
from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate, mean_interval, paired_difference
from inferalign.ctrl.beta import reward_kind
from inferalign.ctrl.reward import AnchorScores, CalibratedReward
from inferalign.sandbox.oracle import grade
from inferalign.theory.finite import solve_beta
from inferalign.theory.procedures import OfN
from inferalign.winrate.compare import Policy, measure
from inferalign.winrate.estimators import selection_weights
from inferalign.winrate.pools import Pool, read_answers
from inferalign.winrate.run import POOL

SAMPLE, BEST = OfN("best", 1), OfN("best", 4)
Floats = NDArray[np.float64]
ByPrompt = Mapping[str, float]


class Seen(NamedTuple):
    """One policy on the test prompts: a number a prompt, the mean of its draws or what best-of-4 would choose."""

    kl: ByPrompt
    metrics: Mapping[str, ByPrompt]


class Tilted(NamedTuple):
    """The exact optimum on the anchors themselves, by prompt [P]."""

    beta: float
    kl: Floats
    flags: Mapping[str, Floats]


def tilted(anchors: AnchorScores, recipe: str, plan: Plan, flags: Mapping[str, Floats]) -> Tilted:
    """What the exact optimum does at the KL asked for, on the anchors: its KL and its share of each flag.

    flags: 0 or 1 of every rollout, [P, K]. The KL is that over the rollouts themselves and the same for every recipe:
    over all replies it would be larger at this beta, by more for one recipe than for another. So this compares recipes,
    and forecasts none. Raises `InputError` for a KL that the rollouts do not allow.
    """
    kind = reward_kind(settings_of(recipe, plan, 0))
    rewards = CalibratedReward(anchors, kind).rewards(anchors.prompt_ids, anchors.scores)
    judged = np.isfinite(rewards)

    def at(beta: float) -> tuple[Floats, Floats, Floats]:
        """Weights [P, K]; KL and the variance of R / beta under them, [P]."""
        a = np.where(judged, rewards / beta, -np.inf)
        a -= a.max(axis=1, keepdims=True)
        e = np.exp(a)
        weights = e / e.sum(axis=1, keepdims=True)
        a[~judged] = 0.0
        mean = (weights * a).sum(axis=1)
        kl = mean - np.log(e.sum(axis=1) / judged.sum(axis=1))
        return weights, kl, (weights * (a - mean[:, None]) ** 2).sum(axis=1)

    def mean_kl(beta: float) -> tuple[float, float]:
        _, kl, variance = at(beta)
        return float(kl.mean()), float(variance.mean())

    beta = solve_beta(mean_kl, plan.kl, float(np.std(rewards[judged])))
    weights, kl, _ = at(beta)
    if not math.isclose(kl.mean(), plan.kl, rel_tol=1e-6):
        raise InputError(f"{recipe}: these rollouts allow a KL of {kl.mean():.3f} at most, and {plan.kl:g} is asked")
    return Tilted(beta, kl, {name: (weights * flag).sum(axis=1) for name, flag in flags.items()})


def on_anchors(optima: Mapping[str, Tilted]) -> dict[str, Any]:
    """Each recipe's optimum, and the first one's less each other's, paired by prompts."""
    first, *others = optima
    return {
        "optimum": {
            recipe: {"beta": one.beta, "kl": float(one.kl.mean()), "kl_sd_over_prompts": float(one.kl.std(ddof=1))}
            | {name: asdict(mean_interval(row.tolist())) for name, row in one.flags.items()}
            for recipe, one in optima.items()
        },
        f"{first}_less": {
            other: {
                name: asdict(mean_interval((row - optima[other].flags[name]).tolist()))
                for name, row in optima[first].flags.items()
            }
            for other in others
        },
    }


def seen_of(folder: Path, pool: Pool, base: Pool) -> Seen:
    """Phrase, bad replies and wins of a pool by prompt, for one draw and under best-of-4 with the reward's choice."""
    answers = read_answers(folder / POOL)
    texts = {each.id: (each.prompt.text, [c.text for c in each.completions]) for each in answers}
    said = {i: np.array([has_phrase(t) for t in row], dtype=np.float64) for i, (_, row) in texts.items()}
    bad = {i: np.array([grade(p, t).bad is not False for t in row], dtype=np.float64) for i, (p, row) in texts.items()}
    wins = measure(Policy("", None, (pool,)), base, {"sample": SAMPLE, "best-of-4": BEST}).wins
    chosen = {i: selection_weights(pool.selector[i].keys, BEST) for i in pool.selector}
    return Seen(
        kl={i: float(row.mean()) for i, row in pool.log_ratios.items()},
        metrics={
            "phrase": {i: float(row.mean()) for i, row in said.items()},
            "phrase, best-of-4": {i: float(chosen[i] @ row) for i, row in said.items()},
            "bad": {i: float(row.mean()) for i, row in bad.items()},
            "bad, best-of-4": {i: float(chosen[i] @ row) for i, row in bad.items()},
            "win": wins["sample"],
            "win, best-of-4": wins["best-of-4"],
        },
    )


def at_common_kl(start: ByPrompt, end: ByPrompt, kls: ByPrompt, kl: float) -> dict[str, float]:
    """Per prompt, numbers whose mean is the metric at a mean KL of `kl`, and whose spread is that of the estimate.

    The metric's mean goes from that of `start`, at KL 0, to that of `end`, at the mean K of `kls`, along a chord in
    sqrt(KL): m = S + (E - S) sqrt(kl / K). Its derivatives by S, E and K make one number of each prompt's three (the
    infinitesimal jackknife, as in `winrate.equal_kl`). Raises `InputError` for a KL that lies outside of (0, K].
    """
    shared = sorted(start.keys() & end.keys() & kls.keys())
    s, e, k = (np.array([of[i] for i in shared]) for of in (start, end, kls))
    if not 0 < kl <= k.mean() * (1 + 1e-12):
        raise InputError(f"KL {kl:g} does not lie between 0 and {k.mean():.3f}, where the training ended")
    share = math.sqrt(kl / k.mean())
    moved = (e.mean() - s.mean()) * share * (k - k.mean()) / (2 * k.mean())
    return dict(zip(shared, (s + share * (e - s) - moved).tolist(), strict=True))


def compared(start: Seen, ends: Mapping[str, Seen]) -> dict[str, Any]:
    """The base model, each recipe where it ended and at the common KL, and raw less each other recipe there."""
    kl = min(_mean(end.kl) for end in ends.values())
    level = {
        recipe: {name: at_common_kl(start.metrics[name], row, end.kl, kl) for name, row in end.metrics.items()}
        for recipe, end in ends.items()
    }
    first, *others = ends
    return {
        "base": {name: _interval(row) for name, row in start.metrics.items()},
        "trained": {
            recipe: {"kl": _interval(end.kl), "kl_sd_over_prompts": float(np.std(list(end.kl.values()), ddof=1))}
            | {name: _interval(row) for name, row in end.metrics.items()}
            for recipe, end in ends.items()
        },
        "common_kl": kl,
        "at_common_kl": {r: {name: _interval(row) for name, row in rows.items()} for r, rows in level.items()},
        f"{first}_less": {
            other: {name: asdict(paired_difference(row, level[other][name])) for name, row in level[first].items()}
            for other in others
        },
    }


def over_seeds(found: Sequence[Sequence[Mapping[str, Any]]]) -> dict[float, dict[str, dict[str, Estimate]]]:
    """What recipes differ by, averaged over seeds: by share, by pair of recipes, by metric.

    found: each seed's shares as `compared` has them, with `share`. Seeds have prompts of their own, so what prompts add
    is in the spread of the seeds' means, and Student's t on those is the whole interval.
    """
    made = {}
    for rows in zip(*found, strict=True):
        first = next(iter(rows[0]["trained"]))
        less = [row[f"{first}_less"] for row in rows]
        made[rows[0]["share"]] = {
            f"{first} - {other}": {name: _over([row[other][name]["mean"] for row in less]) for name in less[0][other]}
            for other in less[0]
        }
    return made


def _over(seeds: Sequence[float]) -> Estimate:
    mean, half = float(np.mean(seeds)), student_half(seeds)
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=len(seeds))


def _mean(row: ByPrompt) -> float:
    return float(np.mean(list(row.values())))


def _interval(row: ByPrompt) -> dict[str, Any]:
    return asdict(mean_interval([row[i] for i in sorted(row)]))
