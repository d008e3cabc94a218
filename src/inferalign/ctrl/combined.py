"""Several scorers as one, combined in their own units before anything is calibrated.

The order matters: a sum of calibrated rewards is not calibrated (its law under the reference is no longer uniform),
so that beta, KL and win rates would no longer follow from the transform. A combined score is calibrated as a whole,
against anchors that the same combination scored. What one part cannot score, the combination cannot score either.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from inferalign.core.errors import InputError
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Scored
from inferalign.scorers.base import LimitedScorer, Scorer

Weights = Sequence[float] | Literal["min"]
"""One factor a part for the sum of raw scores, or `min`: a response is as good as its worst part says."""


def combine(parts: Sequence[Scored], weights: Weights) -> Scored:
    """The weighted sum or the minimum of raw scores, elementwise; parts and result of one shape.

    Where any part is unscored the result is: blamed on the response if one part blames it, else on the judge. The
    response comes first because its blame costs it the worst reward: a second judge's timeout must not excuse it.

    Raises `InputError` for no parts, parts of several shapes, and weights that are not one finite number a part.
    """
    _check(weights, len(parts))
    if len({part.shape for part in parts}) > 1:
        raise InputError(
            f"scores of shapes {[part.shape for part in parts]} cannot be combined: score the same responses"
        )
    values = np.stack([part.values for part in parts])
    blames = np.stack([part.blame for part in parts])
    blame = np.where(
        np.any(blames == RESPONSE, axis=0), RESPONSE, np.where(np.any(blames == JUDGE, axis=0), JUDGE, SCORED)
    ).astype(np.uint8)
    combined = values.min(axis=0) if weights == "min" else np.tensordot(np.asarray(weights, np.float64), values, axes=1)
    return Scored(np.where(blame == SCORED, combined, 0.0), blame)


class CombinedScorer:
    """The combination as a scorer, so that anchors and training are scored by the same one."""

    def __init__(self, parts: Sequence[Scorer], weights: Weights) -> None:
        """Raises `InputError` as `combine` does."""
        _check(weights, len(parts))
        self._parts = tuple(parts)
        self._weights: Weights = weights if weights == "min" else tuple(float(weight) for weight in weights)

    @property
    def name(self) -> str:
        if self._weights == "min":
            return f"min({', '.join(part.name for part in self._parts)})"
        return " + ".join(f"{w:g}*{part.name}" for w, part in zip(self._weights, self._parts, strict=True))

    def describe(self) -> Mapping[str, object]:
        weights = "min" if self._weights == "min" else list(self._weights)
        return {"scorer": "combined", "weights": weights, "parts": [dict(part.describe()) for part in self._parts]}

    def room(self, prompt: Prompt) -> int | None:
        """The least of the parts' that know theirs."""
        rooms = [part.room(prompt) for part in self._parts if isinstance(part, LimitedScorer)]
        return min((room for room in rooms if room is not None), default=None)

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        """One verdict a response; the reason of an unscored one is that of the part whose blame counts."""
        verdicts = await asyncio.gather(*(part.score(prompt, responses, usage) for part in self._parts))
        values = combine([Scored.of(each) for each in verdicts], self._weights).values
        return [
            _first_unscored(of_response) or Score(float(value))
            for of_response, value in zip(zip(*verdicts, strict=True), values, strict=True)
        ]


def _first_unscored(verdicts: Sequence[Score | Unscored]) -> Unscored | None:
    unscored = [verdict for verdict in verdicts if isinstance(verdict, Unscored)]
    return min(unscored, key=lambda verdict: verdict.blame != "response", default=None)


def _check(weights: Weights, parts: int) -> None:
    if not parts:
        raise InputError("no scores to combine: name at least one scorer")
    if weights == "min":
        return
    if len(weights) != parts or not all(math.isfinite(weight) for weight in weights):
        raise InputError(f"weights {weights!r} for {parts} scorers: give one finite number a scorer, or 'min'")
