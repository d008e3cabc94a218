"""Scores of many responses as two arrays, so that what could not be scored is never a number.

An `Unscored` verdict keeps its blame, because training treats the two kinds differently: a response that cannot be
judged gets the worst reward (else unjudgeable text becomes a place to hide), a judge's failure is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError
from inferalign.core.types import Score, Unscored

Floats = NDArray[np.float64]
Blames = NDArray[np.uint8]

SCORED = 0
RESPONSE = 1
"""Not scored, and the response is to blame: the text itself cannot be judged."""
JUDGE = 2
"""Not scored, and the judge is to blame: timeout, refusal, malformed verdict."""


class Counts(NamedTuple):
    """How many of some responses were scored, and how many were not by blame."""

    scored: int
    response: int
    judge: int


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of any shape. Make one by `Scored.of`, or from arrays that a file held."""

    values: Floats
    """The scores; 0 where `blame` is not SCORED, and never to be read there."""
    blame: Blames
    """SCORED, RESPONSE or JUDGE of each; same shape."""

    def __post_init__(self) -> None:
        if self.values.shape != self.blame.shape:
            raise InputError(
                f"scores have shape {self.values.shape} and their blames {self.blame.shape}: give one each"
            )
        if self.values.dtype != np.float64 or self.blame.dtype != np.uint8:
            raise InputError(
                f"scores are {self.values.dtype} and blames {self.blame.dtype}: expected float64 and uint8"
            )
        if np.any(self.blame > JUDGE):
            raise InputError(
                f"blame {int(self.blame.max())} is unknown: expected 0 (scored), 1 (response) or 2 (judge)"
            )
        if np.any(self.values[self.blame != SCORED] != 0):
            raise InputError("a response that was not scored has a score: expected 0 in its place")
        for value in self.values[~np.isfinite(self.values)][:1]:
            raise InputError(f"a score is {value}: a scorer gives finite numbers, or Unscored with the reason")

    @classmethod
    def of(cls, verdicts: Sequence[Score | Unscored]) -> Scored:
        """One verdict a response, in order; shape [B]. Raises `InputError` for a score that is not finite."""
        values = [verdict.value if isinstance(verdict, Score) else 0.0 for verdict in verdicts]
        return cls(np.array(values, dtype=np.float64), np.array([_blame(v) for v in verdicts], dtype=np.uint8))

    @classmethod
    def all_scored(cls, values: ArrayLike) -> Scored:
        """Scores of any shape, none of them missing."""
        values = np.asarray(values, dtype=np.float64)
        return cls(values, np.zeros(values.shape, dtype=np.uint8))

    @classmethod
    def concatenate(cls, parts: Sequence[Scored]) -> Scored:
        """The parts one after the other along their first axis."""
        if not parts:
            return cls.of([])
        return cls(np.concatenate([part.values for part in parts]), np.concatenate([part.blame for part in parts]))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Where there is a score."""
        where: NDArray[np.bool_] = self.blame == SCORED
        return where

    @property
    def counts(self) -> Counts:
        return Counts(*(int(np.count_nonzero(self.blame == blame)) for blame in (SCORED, RESPONSE, JUDGE)))

    def row(self, index: int) -> Scored:
        """One entry of the first axis: the scores of one prompt."""
        return Scored(self.values[index], self.blame[index])

    def reshape(self, *shape: int) -> Scored:
        return Scored(self.values.reshape(shape), self.blame.reshape(shape))


def _blame(verdict: Score | Unscored) -> int:
    if isinstance(verdict, Score):
        return SCORED
    return RESPONSE if verdict.blame == "response" else JUDGE
