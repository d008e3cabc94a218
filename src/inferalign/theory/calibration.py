"""The calibrated reward: where a score lies among reference scores of the same prompt.

C(x, y) = P(z scores below y) + P(z ties with y) / 2 for z drawn from the reference policy (InfAlign, arXiv 2412.19792).
From K reference rollouts of the prompt its estimate is Eq. (12) there: the share of them below, ties counted half. Any
strictly increasing map of a prompt's scores leaves it unchanged, so prompts with other offsets and scales become
comparable; that is lost when one set of scores serves all prompts, which is refused.

Shapes: P prompts, G candidates a prompt, K reference scores a prompt (another K for each, if given as a list).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive, uniforms

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_BLOCK = 1 << 14
"""Candidates ranked at once, so that what a search reads stays in the processor's cache."""

TELLING_LEVELS = 3
"""Distinct scores in a row from which on its like in another prompt is a copy and no chance."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """Reference scores of P prompts, sorted once and checked; made by `Anchors.of`."""

    rows: Floats
    """[P, L]: each prompt's scores ascending, then infinity; L is one less than a power of two."""
    counts: Counts
    """[P]: K of each prompt."""

    @classmethod
    def of(cls, reference: ArrayLike | Sequence[ArrayLike], prompt_ids: Sequence[str] | None = None) -> Anchors:
        """From an array [P, K], or from P sequences of their own lengths.

        Raises `InputError` for fewer than two scores of a prompt, for scores that are not finite, and for one set of
        scores offered to many prompts: as one row, or as the same row for each, unless `prompt_ids` are all equal and
        so say that one prompt is repeated. Rows of a few levels may agree: a coarse reward has no others.
        """
        prompts = _prompts(reference)
        counts = np.array([len(row) for row in prompts], dtype=np.int64)
        for index in np.flatnonzero(counts < 2)[:1]:
            raise InputError(
                f"prompt {index} has too few reference scores ({counts[index]}): calibration needs at least 2, and 100 "
                "or more to be of use: draw more rollouts of the base policy for it"
            )
        most = int(counts.max())
        rows = np.full((len(prompts), (1 << most.bit_length()) - 1), np.inf)
        held = np.arange(most) < counts[:, None]
        if isinstance(prompts, np.ndarray):
            rows[:, :most] = prompts  # several times faster than through a mask
        else:
            rows[:, :most][held] = np.concatenate(prompts)
        _refuse_not_finite(rows[:, :most], held, "reference score")
        if prompt_ids is not None:
            _one_id_a_prompt(prompt_ids, len(rows))
        if prompt_ids is None or len(set(prompt_ids)) > 1:
            _refuse_one_row_for_all(rows[:, :most], int(counts[0]))
        rows[:, :most].sort(axis=1)
        return cls(rows=rows, counts=counts)


class Ranks(NamedTuple):
    """How many of a prompt's reference scores lie below a candidate, and how many tie with it; shapes [P, G]."""

    below: Counts
    equal: Counts


def mid_rank(scores: ArrayLike, anchors: Anchors | ArrayLike | Sequence[ArrayLike]) -> Floats:
    """The calibrated reward of Eq. (12), arXiv 2412.19792: (below + equal / 2) / K, in [0, 1]; shape [P, G].

    Its mean over fresh reference draws is 1/2 for any reward. It is 0 below the lowest reference score.
    """
    anchors = anchors if isinstance(anchors, Anchors) else Anchors.of(anchors)
    below, equal = ranks(scores, anchors)
    return (below + 0.5 * equal) / anchors.counts[:, None]


def smoothed(scores: ArrayLike, anchors: Anchors | ArrayLike | Sequence[ArrayLike]) -> Floats:
    """(below + equal / 2 + 1/2) / (K + 1), never 0 or 1, as the transform log needs; mean 1/2 still. Shape [P, G]."""
    anchors = anchors if isinstance(anchors, Anchors) else Anchors.of(anchors)
    below, equal = ranks(scores, anchors)
    return (below + 0.5 * equal + 0.5) / (anchors.counts[:, None] + 1)


def randomised(
    scores: ArrayLike, anchors: Anchors | ArrayLike | Sequence[ArrayLike], prompt_ids: Sequence[str], seed: int
) -> Floats:
    """(below + V equal) / K with V uniform: a tie falls anywhere within itself instead of in its middle. Shape [P, G].

    V is drawn from the seed, the prompt's id and the candidate's place, so that other prompts never change it.
    """
    anchors = anchors if isinstance(anchors, Anchors) else Anchors.of(anchors, prompt_ids)
    below, equal = ranks(scores, anchors)
    _one_id_a_prompt(prompt_ids, len(below))
    v = np.stack([uniforms(derive(seed, "ties", name), below.shape[1]) for name in prompt_ids])
    return (below + v * equal) / anchors.counts[:, None]


def ranks(scores: ArrayLike, anchors: Anchors) -> Ranks:
    """The counts that every form is made of, for candidates [P, G] against each prompt's own anchors.

    Raises `InputError` for scores that are not finite or have another number of prompts.
    """
    candidates = np.asarray(scores, dtype=np.float64)
    if candidates.ndim != 2:
        raise InputError(f"candidate scores have shape {candidates.shape}: expected [prompts, candidates a prompt]")
    _same_prompts(len(candidates), len(anchors.counts))
    _refuse_not_finite(candidates, np.True_, "candidate score")
    below = np.empty(candidates.shape, dtype=np.int64)
    equal = np.zeros(candidates.shape, dtype=np.int64)
    flat, width = anchors.rows.ravel(), anchors.rows.shape[1]
    starts = np.repeat(np.arange(len(candidates)) * width, candidates.shape[1])
    values, below_flat, equal_flat = candidates.ravel(), below.ravel(), equal.ravel()
    for at in range(0, values.size, _BLOCK):
        block = slice(at, at + _BLOCK)
        below_flat[block] = _count(flat, starts[block], width, values[block], or_equal=False)
        # K scores below leave no anchor to tie with; `minimum` keeps the look within the row
        ties = at + np.flatnonzero(flat[starts[block] + np.minimum(below_flat[block], width - 1)] == values[block])
        equal_flat[ties] = _count(flat, starts[ties], width, values[ties], or_equal=True) - below_flat[ties]
    return Ranks(below=below, equal=equal)


def _count(flat: Floats, starts: Counts, width: int, values: Floats, *, or_equal: bool) -> Counts:
    """How many of the `width` ascending numbers from `starts` on are below (or equal to) each value.

    One binary search for all: width is 2^m - 1, so m steps of sizes 2^(m-1) .. 1 stay within the row.
    """
    position = starts.copy()
    step = (width + 1) // 2
    while step:
        seen = flat[position + (step - 1)]
        position += step * ((seen <= values) if or_equal else (seen < values))
        step //= 2
    return position - starts


def _prompts(reference: ArrayLike | Sequence[ArrayLike]) -> Floats | list[Floats]:
    """One row a prompt: an array if the rows have one length."""
    if isinstance(reference, np.ndarray):
        rows: Floats | list[Floats] = np.asarray(reference, dtype=np.float64)
    else:
        rows = [np.asarray(row, dtype=np.float64) for row in cast(Sequence[ArrayLike], reference)]
    if len(rows) and all(row.ndim == 0 for row in rows):
        raise InputError(_global(None))
    if not len(rows) or any(row.ndim != 1 for row in rows):
        raise InputError("reference scores must be rows, one a prompt: expected [prompts, K]")
    return rows


def _refuse_one_row_for_all(rows: Floats, held: int) -> None:
    """One row copied to all prompts, in its order, is one row for all. rows [P, K], infinity where there are fewer.

    A few levels (pass or fail) agree by chance where prompts are few, and are let through.
    """
    if len(rows) < 2 or not np.array_equal(rows[0], rows[1]):
        return  # what ends this soon on honest scores
    if len(np.unique(rows[0, :held])) >= TELLING_LEVELS and (rows == rows[0]).all():
        raise InputError(f"{_global(len(rows))}. If it is one prompt repeated, give it once, or equal `prompt_ids`")


def _one_id_a_prompt(prompt_ids: Sequence[str], prompts: int) -> None:
    if len(prompt_ids) != prompts:
        raise InputError(f"{len(prompt_ids)} prompt ids for {prompts} prompts: give one id a prompt")


def _same_prompts(candidates: int, anchors: int) -> None:
    if anchors == 1 < candidates:
        raise InputError(_global(candidates))
    if candidates != anchors:
        raise InputError(
            f"{candidates} prompts have candidates and {anchors} have reference scores: give both for each"
        )


def _global(prompts: int | None) -> str:
    many = "all prompts" if prompts is None else f"{prompts} prompts"
    return (
        f"one set of reference scores for {many} is not calibration: it keeps each prompt's difficulty. Give every "
        "prompt the scores of rollouts drawn for that prompt, as [prompts, K]"
    )


def _refuse_not_finite(values: Floats, where: NDArray[np.bool_] | np.bool_, what: str) -> None:
    bad = np.argwhere(~np.isfinite(values) & where)
    if bad.size:
        prompt, place = bad[0]
        raise InputError(
            f"{what} {place} of prompt {prompt} is {values[prompt, place]}: leave out what could not be scored, and "
            "draw another in its place"
        )
