"""The reward that CTRL trains on: a score, calibrated against its prompt's anchors, transformed, and centred.

C(x, y) is that of Eq. (12), InfAlign (arXiv 2412.19792), from K reference rollouts of the same prompt; what is made of
it is in `ctrl.reward_kinds`. Arrays in, arrays out: this file knows no trainer, no scorer and no file.

What could not be scored is never a number. A response that cannot be judged ties with the reference's own such
responses at the bottom, as a score of minus infinity would; a judge's failure has no reward at all (NaN), neither in
training nor among the anchors. `raw` and `standardised` are the baselines without calibration, behind the same door:
there a response that cannot be judged is worth less than the lowest score of its prompt, among the anchors and in the
call, by the anchors' range (or, where that is 0, by one standard deviation within prompts, over all prompts). The
call's own scores count because a policy may come to score below all anchors: hiding would pay it otherwise. A call has
one process's share of a step, so under these two the number of processes can move that one reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.ctrl.reward_kinds import Kind, Standardised, transformed
from inferalign.ctrl.reward_statistics import Seen
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Scored
from inferalign.theory.calibration import Anchors, Ranks, ranks
from inferalign.theory.transforms import Transform

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

UNJUDGEABLE = -float(np.finfo(np.float64).max)
"""Where a response that cannot be judged is ranked: below every score that a scorer gives."""
FEWEST = 2
"""The fewest anchors of a prompt that say anything about where a score lies."""


class AnchorScores(Protocol):
    """What a reward needs of the anchors: the scores of K reference rollouts a prompt."""

    @property
    def prompt_ids(self) -> tuple[str, ...]: ...

    @property
    def scores(self) -> Scored:
        """[P, K], in the order of `prompt_ids`."""
        ...


@dataclass(frozen=True, eq=False)
class HeldAnchors:
    """Anchors that are in memory already, for those who draw and score their own rollouts."""

    prompt_ids: tuple[str, ...]
    scores: Scored


class Calibrated(NamedTuple):
    """What became of some scores, in their shape; NaN where the judge is to blame."""

    ranks: Floats
    """Eq. (12), in [0, 1]."""
    rewards: Floats
    seen: Seen


class CalibratedReward:
    """Rewards of responses to prompts whose anchors are known. One for a whole training; it keeps no state."""

    def __init__(self, anchors: AnchorScores, kind: Kind) -> None:
        """Sort and check the anchors; those that the judge failed on are left out of their prompt's.

        Raises `InputError` for ids that do not match the scores, when no anchor was scored, when every prompt's
        anchors are all equal (then no reward made of them can teach anything; `raw` and `standardised` count only those
        that were scored), and for one set of scores given to many prompts. Single prompts that cannot serve are refused
        when they are asked for, or by `require`.
        """
        self.kind = kind
        _check(anchors.prompt_ids, anchors.scores)
        self._refused = _refusals(anchors, kind)
        served = [row for row, name in enumerate(anchors.prompt_ids) if name not in self._refused]
        if not served:
            raise InputError(f"no anchors can serve: {next(iter(self._refused.values()))}")
        names = [anchors.prompt_ids[row] for row in served]
        scores = Scored(anchors.scores.values[served], anchors.scores.blame[served])
        kept = scores.blame != JUDGE
        self._row = {name: row for row, name in enumerate(names)}
        self._anchors = Anchors.of(_kept_rows(_ranked(scores), kept), names)
        _refuse_constant(self._anchors)
        self._unjudgeable = np.count_nonzero(scores.blame == RESPONSE, axis=1) / self._anchors.counts
        if not isinstance(kind, Transform):
            self._lowest, self._gap, self._typical = _bottom(scores)
            filled = np.where(scores.blame == RESPONSE, (self._lowest - self._gap)[:, None], scores.values)
            self._mean, self._sd = filled.mean(axis=1, where=kept), filled.std(axis=1, where=kept)

    def require(self, prompt_ids: Iterable[str]) -> None:
        """Raise now what `rewards` would raise when it comes to one of these prompts.

        That is `InputError`, for a prompt without anchors, or with fewer than 2 that the judge did not fail on; under
        `raw` and `standardised`, which are no ranks, also for one none of whose anchors was scored.
        """
        for name in prompt_ids:
            if name in self._refused:
                raise InputError(self._refused[name])
            if name not in self._row:
                raise InputError(
                    f"prompt {name!r} has no anchors: draw them with `inferalign calibrate`, from its file"
                )

    def ranks(self, prompt_ids: Sequence[str], scored: Scored) -> Floats:
        """Calibrated rewards in [0, 1], Eq. (12), in the shape of `scored`; NaN where the judge is to blame.

        prompt_ids: one for each entry of the first axis of `scored`. Over fresh reference draws the mean is 1/2.
        Raises `InputError` as `require` does.
        """
        return self.calibrated(prompt_ids, scored).ranks

    def rewards(self, prompt_ids: Sequence[str], scored: Scored) -> Floats:
        """What to maximise less beta KL, in the shape of `scored`; NaN where the judge is to blame, to be left out.

        Raises `InputError` as `require` does.
        """
        return self.calibrated(prompt_ids, scored).rewards

    def as_fresh(self, prompt_ids: Sequence[str], anchors: Scored) -> Floats:
        """Rewards [P, K] that fresh draws of the reference would have: of each anchor among the others of its prompt.

        Their law is that of a fresh draw among K - 1 anchors, whatever ties. Among all K an anchor ties with itself, so
        that none is at the top, where a steep transform has its weight. Raw and standardised scores are no ranks, and
        are those of `rewards`. NaN where the judge is to blame. Raises `InputError` as `require` does.
        """
        if not isinstance(self.kind, Transform):
            return self.rewards(prompt_ids, anchors)
        rows = self._rows(prompt_ids, anchors)
        found, judged = self._counted(rows, _ranked(anchors).ravel()), anchors.blame.ravel() != JUDGE
        others = Ranks(below=found.below[judged], equal=found.equal[judged] - 1)
        rewards = np.full(rows.shape, np.nan)
        rewards[judged] = transformed(self.kind, others, self._anchors.counts[rows][judged] - 1)
        return rewards.reshape(anchors.shape)

    def calibrated(self, prompt_ids: Sequence[str], scored: Scored) -> Calibrated:
        """Ranks and rewards, in the shape of `scored`, with what was seen. Raises as `rewards` does."""
        rows = self._rows(prompt_ids, scored)
        values, blame = _ranked(scored).ravel(), scored.blame.ravel()
        found, counts = self._counted(rows, values), self._anchors.counts[rows]
        x = (found.below + 0.5 * found.equal) / counts
        if isinstance(self.kind, Transform):
            rewards = transformed(self.kind, found, counts)
        else:
            rewards = self._uncalibrated(rows, scored)
        judged = blame != JUDGE
        totals = scored.counts
        seen = Seen(
            scored=totals.scored,
            response=totals.response,
            judge=totals.judge,
            rank_sum=float(x[judged].sum()),
            above=int(np.count_nonzero((found.below == counts)[judged])),
            tied=int(np.count_nonzero(found.equal[judged])),
            unjudgeable_anchors=float(self._unjudgeable[rows][judged].sum()),
        )
        x, rewards = (np.where(judged, each, np.nan).reshape(scored.shape) for each in (x, rewards))
        return Calibrated(ranks=x, rewards=rewards, seen=seen)

    def standard_error(self, prompt_ids: Sequence[str]) -> float:
        """Of the mean calibrated reward of one reference draw for each of these prompts; ids may stand often.

        m draws of a prompt share its K anchors: their mean is a Mann-Whitney statistic, whose variance is
        (m + K + 1) / (12 m K) without ties and less with them (Mann and Whitney, Annals of Mathematical Statistics
        1947). Raises `InputError` as `require` does.
        """
        self.require(prompt_ids)
        rows, m = np.unique([self._row[name] for name in prompt_ids], return_counts=True)
        k = self._anchors.counts[rows]
        return float(np.sqrt((m * (m + k + 1) / (12 * k)).sum()) / m.sum())

    def anchors_of(self, prompt_id: str) -> int:
        """How many anchors of a prompt its rewards rest on. Raises `InputError` as `require` does."""
        self.require([prompt_id])
        return int(self._anchors.counts[self._row[prompt_id]])

    def _rows(self, prompt_ids: Sequence[str], scored: Scored) -> Rows:
        """The row of the anchors that each score belongs to, flat."""
        if scored.values.ndim == 0 or len(prompt_ids) != len(scored.values):
            raise InputError(
                f"{len(prompt_ids)} prompt ids for scores of shape {scored.shape}: give one for each row of scores"
            )
        self.require(prompt_ids)
        rows = np.array([self._row[name] for name in prompt_ids], dtype=np.intp)
        return np.repeat(rows, scored.values.size // max(len(rows), 1))

    def _counted(self, rows: Rows, values: Floats) -> Ranks:
        """Anchors below and equal, each value against its own prompt's; prompt by prompt, so that none is copied."""
        found = Ranks(below=np.zeros(rows.shape, np.int64), equal=np.zeros(rows.shape, np.int64))
        for row in np.unique(rows):
            at, one = rows == row, slice(row, row + 1)
            own = ranks(values[None, at], Anchors(self._anchors.rows[one], self._anchors.counts[one]))
            found.below[at], found.equal[at] = own.below[0], own.equal[0]
        return found

    def _uncalibrated(self, rows: Rows, scored: Scored) -> Floats:
        """Raw or standardised scores, flat; what cannot be judged is below all of its prompt that are scored here."""
        values, blame = scored.values.ravel(), scored.blame.ravel()
        lowest, at = self._lowest.copy(), blame == SCORED
        np.minimum.at(lowest, rows[at], values[at])
        found = np.where(blame == RESPONSE, (lowest - self._gap)[rows], values)
        if not isinstance(self.kind, Standardised):
            return found
        apart, sd = found - self._mean[rows], self._sd[rows]
        # Anchors that are all equal have no scale: nothing tells scored answers apart, and the others are below.
        flat = np.where(blame == RESPONSE, apart / self._typical, 0.0)
        rewards: Floats = np.divide(apart, sd, out=flat, where=sd > 0)
        return rewards


def _bottom(scores: Scored) -> tuple[Floats, Floats, float]:
    """The lowest score of each prompt [P], how far below it what cannot be judged is, and the sd within prompts."""
    held = scores.scored
    lowest = scores.values.min(axis=1, where=held, initial=np.inf)
    ranges = scores.values.max(axis=1, where=held, initial=-np.inf) - lowest
    typical = float(np.sqrt(scores.values.var(axis=1, where=held).mean()))
    if not ranges.any():
        raise InputError(
            "the scored anchors of a prompt all have the same score, for every prompt, so an uncalibrated reward has "
            "no scale: give a calibrated reward, for example `identity`, or another --scorer"
        )
    return lowest, np.where(ranges > 0, ranges, typical), typical


def _check(prompt_ids: Sequence[str], scores: Scored) -> None:
    if scores.values.ndim != 2 or len(prompt_ids) != len(scores.values):
        raise InputError(f"{len(prompt_ids)} prompt ids for anchors of shape {scores.shape}: expected [prompts, K]")
    if len(set(prompt_ids)) < len(prompt_ids):
        twice = next(name for at, name in enumerate(prompt_ids) if name in prompt_ids[:at])
        raise InputError(f"prompt {twice!r} has two rows of anchors: give each prompt one")
    counts = scores.counts
    if not counts.scored:
        raise InputError(
            f"no anchor was scored ({counts.response} could not be judged, the judge failed on {counts.judge}): "
            "try the scorer on one response"
        )


def _refusals(anchors: AnchorScores, kind: Kind) -> dict[str, str]:
    """Why a prompt's anchors cannot serve, for those that cannot."""
    kept = np.count_nonzero(anchors.scores.blame != JUDGE, axis=1)
    scored = np.count_nonzero(anchors.scores.scored, axis=1)
    why: dict[str, str] = {}
    for name, usable, judged in zip(anchors.prompt_ids, kept, scored, strict=True):
        if usable < FEWEST:
            why[name] = (
                f"prompt {name!r} has {usable} anchors that the judge did not fail on, and needs at least {FEWEST}: "
                "repeat the `inferalign calibrate` that drew them, which scores again what the judge failed on, or "
                "calibrate into another --run without this prompt"
            )
        elif not judged and not isinstance(kind, Transform):
            why[name] = (
                f"no anchor of prompt {name!r} was scored, so an uncalibrated reward has no worst value there: "
                "give a calibrated reward, for example `identity`, or calibrate into another --run without "
                "this prompt"
            )
    return why


def _ranked(scores: Scored) -> Floats:
    return np.where(scores.blame == RESPONSE, UNJUDGEABLE, scores.values)


def _kept_rows(values: Floats, kept: NDArray[np.bool_]) -> Floats | list[Floats]:
    if kept.all():
        return values
    return [row[held] for row, held in zip(values, kept, strict=True)]


def _refuse_constant(anchors: Anchors) -> None:
    last = anchors.rows[np.arange(len(anchors.counts)), anchors.counts - 1]
    if np.all(anchors.rows[:, 0] == last):
        raise InputError(
            "the scorer gives all anchors of a prompt the same score, for every prompt: nothing can be learnt from it; "
            "give another --scorer"
        )
