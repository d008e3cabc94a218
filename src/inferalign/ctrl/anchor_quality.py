"""How many anchors a recipe needs, before they are drawn, and what they are good for, once they are.

The need is the planner's: the smallest K whose forecast loses at most half a point (`theory.finite`). A reward that
gives all rollouts of a prompt one value calibrates to 1/2 for every answer (Eq. (12) of InfAlign, arXiv 2412.19792), so
such a prompt teaches nothing, and a set of such prompts is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inferalign.core.errors import InputError, ScoringError
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.scored import JUDGE, Floats, Scored
from inferalign.theory.finite import LARGEST, MAX_ANCHORS, fewest, harmonic
from inferalign.theory.planner import MAX_LOSS, find, plan
from inferalign.theory.procedures import parse_selection

NOTICED = 0.001
"""A tenth of a point: a transform that loses more to calibration alone is spoken of."""
FEWEST = 2
"""Anchors that calibrate anything at all."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A number of anchors a prompt, and what it costs the recipe."""

    k: int
    recommended: int
    """The smallest K that loses at most half a point."""
    procedure: str
    transform: str
    kl: float
    kl_limit: float
    """The harmonic number of k: the mean KL that k anchors stay below."""
    win_rate: float
    """Forecast with k anchors, a fraction."""
    loss: float
    """Against calibration that knows the reference exactly."""
    gain: float
    """Of the recipe over calibration alone (identity), both with a reference that is known exactly; a fraction."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_count(k: int, kl: float = 0.0) -> None:
    """Raises `InputError` for a number of anchors that cannot calibrate, or not up to a mean KL of `kl` nats."""
    if not FEWEST <= k <= LARGEST:
        raise InputError(
            f"k is {k}: calibration compares an answer with at least {FEWEST} rollouts of its prompt (and at most "
            f"{LARGEST}): give 100 or more to be of use, such as --k 128"
        )
    if not 0 <= kl < math.inf:
        raise InputError(f"--kl {kl:g}: expected nats above 0, such as --kl 0.5")
    if kl >= harmonic(k):
        raise InputError(
            f"{k} anchors a prompt allow a mean KL below {harmonic(k):.3f}, and --kl {kl:g} is aimed at: give at least "
            f"--k {fewest(kl)}"
        )


def advise(procedure: str, transform: str, kl: float, k: int | None = None) -> Advice:
    """The K for training on `transform` at `kl` nats for a procedure (text forms), or what the given `k` will do.

    Raises `InputError` for a k below what its harmonic number allows at this KL, for a recipe that needs more anchors
    than can be simulated, and as `theory.planner.plan` does.
    """
    if k is not None:
        check_count(k, kl)
    made = plan(parse_selection(procedure), transform, kl=kl, anchors=k)
    if made.used is None:
        raise InputError(
            f"{transform} for {procedure} at KL {kl:g} asks for about {made.anchors:,} anchors a prompt to lose half a "
            f"point, more than the {MAX_ANCHORS:,} that are simulated: give --k, or a smaller --kl"
        )
    return Advice(
        k=made.used.anchors,
        recommended=made.anchors,
        procedure=procedure,
        transform=transform,
        kl=kl,
        kl_limit=harmonic(made.used.anchors),
        win_rate=made.used.win_rate,
        loss=made.recipe.win.win - made.used.win_rate,
        gain=made.recipe.win.win - made.identity.win,
    )


def in_words(advice: Advice) -> str:
    """One line on what the K will do."""
    recipe = f"{advice.transform} for {advice.procedure} at KL {advice.kl:g}"
    verb = "cost" if advice.loss >= 0 else "add"  # few anchors blunt a harmful transform
    costs = f"forecast to {verb} {100 * abs(advice.loss):.1f} points of win rate"
    if advice.k == advice.recommended:
        return f"k {advice.k}: the fewest anchors a prompt that are {costs} or less with {recipe}"
    more = f"; {advice.recommended} would keep it to {100 * MAX_LOSS:g}" if advice.k < advice.recommended else ""
    return f"k {advice.k}: {costs} with {recipe}{more}"


def harm_in_words(procedure: str, transform: str, kl: float) -> str | None:
    """One line on a transform that theory puts below calibration alone, such as one of the wrong sign, or None.

    Raises `InputError` and `UnknownName` as `theory.planner.find` does.
    """
    selection = parse_selection(procedure)
    recipe, plain = (find(selection, name, kl=kl) for name in (transform, "identity"))
    loss = recipe.win.lose - plain.win.lose
    if loss < NOTICED:
        return None
    return (
        f"note: theory puts {transform} {100 * loss:.1f} points below calibration alone under {selection.name} at KL "
        f"{kl:g}; unless it is a baseline that you want, give --transform optimal"
    )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a set of anchors is like. Means over prompts; response-blamed rollouts tie at the bottom of theirs."""

    prompts: int
    k: int
    mean: float
    """Of the scores, over prompts with any."""
    spread: float
    """The standard deviation within a prompt."""
    between: float
    """The standard deviation of the prompts' means: what calibration takes out."""
    tied: float
    """The share of pairs of a prompt's rollouts that no score tells apart."""
    constant: int
    """Prompts whose rollouts all have one score: their calibrated reward is 1/2 whatever the answer."""
    too_few: int
    """Prompts with fewer than two usable anchors, because the judge failed: they cannot be calibrated."""
    unscored: Mapping[str, int]
    tokens: int
    mean_length: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def usable(row: Scored) -> Floats:
    """A prompt's anchors as numbers that rank like them: what the response is to blame for at minus infinity."""
    kept = row.blame != JUDGE
    values: Floats = np.where(row.scored, row.values, -np.inf)[kept]
    return values


def measure(anchors: AnchorSet, reasons: Mapping[str, int] | None = None) -> Quality:
    """Raises `ScoringError` when no prompt's anchors tell any two answers apart, or no prompt has two.

    reasons: why scores are missing, and how often. A scored mean of nothing is never made: it is raised before.
    """
    rows = [usable(anchors.scores.row(index)) for index in range(len(anchors.prompt_ids))]
    full = [row for row in rows if len(row) >= FEWEST]
    constant = sum(bool((row == row[0]).all()) for row in full)
    if constant == len(full):
        raise ScoringError(_useless(anchors, len(full), reasons or {}))
    scored = [row[np.isfinite(row)] for row in rows]
    means = [float(values.mean()) for values in scored if len(values)]
    return Quality(
        prompts=len(rows),
        k=anchors.card.k,
        mean=float(np.mean(means)),
        spread=float(np.mean([values.std(ddof=1) for values in scored if len(values) >= FEWEST] or [0.0])),
        between=float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
        tied=float(np.mean([tied_pairs(row) for row in full])),
        constant=constant,
        too_few=len(rows) - len(full),
        unscored=anchors.card.unscored,
        tokens=anchors.tokens,
        mean_length=anchors.mean_length,
    )


def tied_pairs(values: Floats) -> float:
    """The share of the pairs among n >= 2 values that are equal."""
    _, counts = np.unique(values, return_counts=True)
    n = len(values)
    return float(np.sum(counts * (counts - 1)) / (n * (n - 1)))


def _useless(anchors: AnchorSet, constant: int, reasons: Mapping[str, int]) -> str:
    counts, total = anchors.scores.counts, anchors.lengths.size
    why = "; ".join(f"{reason} ({count})" for reason, count in list(reasons.items())[:3])
    because = f": {why}" if why else ""
    failed = f"the judge failed on {counts.judge} of {total} rollouts"
    mend = "Mend the judge and repeat the command, which asks it again about these"
    if constant == 0:
        return f"{failed}, which leaves no prompt the {FEWEST} anchors that it needs{because}. {mend}"
    if counts.scored == 0:
        found = f"none of {total} rollouts could be scored{because}"
    else:
        first = next(i for i in range(len(anchors.prompt_ids)) if anchors.scores.row(i).counts.scored)
        row = anchors.scores.row(first)
        found = (
            f"the reward is constant within each of {constant} prompts (every score on {anchors.prompt_ids[first]!r} "
            f"is {float(row.values[row.scored][0]):g}), so that every answer is calibrated to 0.5"
        )
    more = f" ({failed}. {mend})" if counts.judge else ""
    return f"{found}. Training on it would do nothing: give another --scorer, one that tells answers apart{more}"
