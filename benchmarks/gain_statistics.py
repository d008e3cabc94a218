"""What `ctrl_gain` makes of pools: win rates at one KL, gains with intervals over prompts and over seeds, and costs.

The sweep of each training seed is interpolated on its own (`winrate.equal_kl`), which gives one number a prompt, so a
gain is a table of seeds by prompts. Two intervals are made of it:

    over prompts              bootstrap of the prompts' means over seeds: for these trainings, on other prompts
    over seeds and prompts    both drawn anew; the variance of the mean is at most s_P^2 / P + s_S^2 / S, s_P and s_S
                              the spread of the prompts' and of the seeds' means (crossed random effects, Cornfield and
                              Tukey 1956), with the degrees of freedom of Satterthwaite 1946

The second is for another training, too; with three seeds it is wide. Nothing here selects anything by a win rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from benchmarks.gain_plan import BEST, KL, PROCEDURES, WORST
from benchmarks.gain_runs import Point
from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate, clustered_proportion, mean_interval
from inferalign.winrate.compare import Measured, Policy, measure
from inferalign.winrate.equal_kl import at_kl
from inferalign.winrate.pools import Pool

Floats = NDArray[np.float64]
SMOOTH = 5
"""Steps that a win rate of training batches is averaged over."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """One recipe less another under a procedure, both at the KL."""

    procedure: str
    recipe: str
    against: str
    over_prompts: Estimate
    over_seeds: Estimate
    """Over seeds and prompts; without an interval where there is one seed."""
    by_seed: tuple[float, ...]


class Sweeps:
    """All points of a study against the base model's pool, each recipe's and seed's sweep apart."""

    def __init__(self, points: Sequence[Point], base: Pool) -> None:
        self._measured: dict[tuple[str, int], list[Measured]] = {}
        for point in points:
            found = measure(Policy(point.recipe, f"{point.target:g}", (point.pool,), point.beta), base, PROCEDURES)
            self._measured.setdefault((point.recipe, point.seed), []).append(found)

    @property
    def recipes(self) -> list[str]:
        return list(dict.fromkeys(recipe for recipe, _ in self._measured))

    def rows(self, recipe: str, procedure: str) -> dict[int, dict[str, float]]:
        """By training seed: one number a prompt, whose mean is the win rate at the KL.

        Raises `InputError` for a sweep that does not enclose the KL.
        """
        return {
            seed: at_kl([(each.wins[procedure], each.kl) for each in sweep], KL)
            for (name, seed), sweep in self._measured.items()
            if name == recipe
        }

    def win_rate(self, recipe: str, procedure: str) -> Estimate:
        """At the KL, over prompts, averaged over seeds. Raises as `rows` does."""
        return mean_interval(_matrix(list(self.rows(recipe, procedure).values())).mean(axis=0).tolist())

    def gain(self, procedure: str, recipe: str, against: str) -> Gain:
        """Raises as `rows` does, and when the two have no training seed in common."""
        ours, theirs = self.rows(recipe, procedure), self.rows(against, procedure)
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            raise InputError(f"{recipe} and {against} have no training seed in common")
        both = [{i: ours[seed][i] - theirs[seed][i] for i in ours[seed].keys() & theirs[seed].keys()} for seed in seeds]
        table = _matrix(both)
        return Gain(
            procedure=procedure,
            recipe=recipe,
            against=against,
            over_prompts=mean_interval(table.mean(axis=0).tolist()),
            over_seeds=crossed(table),
            by_seed=tuple(table.mean(axis=1).tolist()),
        )


def _matrix(rows: Sequence[Mapping[str, float]]) -> Floats:
    """[seeds, prompts], on the prompts that all have."""
    shared = sorted(set.intersection(*(set(row) for row in rows)))
    return np.array([[row[name] for name in shared] for row in rows])


def crossed(table: Floats, level: float = 0.95) -> Estimate:
    """The mean of a table [seeds, prompts] where both were drawn; no interval for one seed or one prompt.

    Satterthwaite's degrees of freedom; with three seeds whose spread outweighs the prompts' it covers 92 to 93 %.
    """
    seeds, prompts = table.shape
    mean = float(table.mean())
    if min(seeds, prompts) < 2:
        return Estimate(mean=mean, low=None, high=None, n=seeds)
    parts = (table.mean(axis=0).var(ddof=1) / prompts, table.mean(axis=1).var(ddof=1) / seeds)
    variance = sum(parts)
    if variance == 0:
        return Estimate(mean=mean, low=mean, high=mean, n=seeds)
    freedom = variance**2 / (parts[0] ** 2 / (prompts - 1) + parts[1] ** 2 / (seeds - 1))
    half = float(t.ppf((1 + level) / 2, freedom) * math.sqrt(variance))
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=seeds)


def smaller(gains: Sequence[Gain]) -> Gain | None:
    """The gain that the headline is: the smaller of the procedures'. None unless there is one for both."""
    if {gain.procedure for gain in gains} != {BEST, WORST}:
        return None
    return min(gains, key=lambda gain: gain.over_prompts.mean or 0.0)


def by_selector(pool: Pool) -> Pool:
    """The same pool with the selector as judge: what training did to its own reward."""
    return replace(pool, judge=pool.selector)


class JudgeFacts(NamedTuple):
    """What the base model's pool says of selector and judge."""

    accuracy: Estimate
    """Pairs of answers to one prompt with different grades that the selector orders alike; ties count as wrong."""
    judge_ties: float
    """Share of pairs whose grades are equal."""
    selector_ties: float
    """Share of pairs whose scores are equal."""


def judge_facts(base: Pool, most: int = 16) -> JudgeFacts:
    """Of the first `most` answers to each prompt."""
    right: list[list[bool]] = []
    pairs = graded = scored = 0
    for prompt in base.judge:
        selector, judge = (row[:most] for row in base.usable(prompt))
        two = list(combinations(range(judge.size), 2))
        pairs += len(two)
        graded += sum(bool(judge[i] == judge[j]) for i, j in two)
        scored += sum(bool(selector[i] == selector[j]) for i, j in two)
        better = [(i, j) if judge[i] > judge[j] else (j, i) for i, j in two if judge[i] != judge[j]]
        right.append([bool(selector[i] > selector[j]) for i, j in better])
    accuracy = clustered_proportion(right) if any(right) else Estimate.empty()
    return JudgeFacts(accuracy, graded / pairs, scored / pairs)


class Cost(NamedTuple):
    """One training, up to where the selector's win rate on its batches reached what was stated."""

    steps: int | None
    """None: never."""
    tokens: float
    """Drawn, without the anchors; of the whole training where it was never reached."""
    cpu: float


def smoothed(curve: Sequence[Mapping[str, Any]], procedure: str) -> Floats:
    """The mean of the last `SMOOTH` steps' win rates, from the first step that has so many behind it.

    A step of an offline training that drew nothing has that of the step before; at the beginning it is one half.
    """
    known = [0.5]
    for line in curve:
        known.append(line["wins"].get(procedure, known[-1]))
    wins = np.array(known[1:])
    window = min(SMOOTH, wins.size)
    return np.convolve(wins, np.full(window, 1 / window), mode="valid")


def cost_to_reach(curve: Sequence[Mapping[str, Any]], procedure: str, stated: float) -> Cost:
    """When the smoothed win rate first was at least `stated`."""
    reached = np.flatnonzero(smoothed(curve, procedure) >= stated)
    steps = int(reached[0]) + min(SMOOTH, len(curve)) if reached.size else None
    taken = curve[:steps]
    return Cost(steps, float(sum(line["tokens"] for line in taken)), float(sum(line["cpu"] for line in taken)))


def nearest(points: Sequence[Point], recipe: str, seed: int) -> Point:
    """The point of a sweep whose measured KL is nearest to the KL."""
    sweep = [point for point in points if (point.recipe, point.seed) == (recipe, seed)]
    return min(sweep, key=lambda point: abs(point.kl - KL))


def nearest_training(points: Sequence[Point], recipe: str, seed: int) -> Point:
    """The training that ended nearest to the KL: a stretched policy has its training's curve, which ended elsewhere."""
    return nearest([point for point in points if point.scale == 1], recipe, seed)
