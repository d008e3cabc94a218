"""Tokens from logits and numbers in [0, 1): the arithmetic of every draw, apart from any model.

Inverse CDF in float64 over the tokens that a row's filter leaves, **in the order of their ids**: by id, not by rank,
because two tokens of nearly the same probability may change ranks with the last bit of a logit, and a draw must not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inferalign.core.errors import EngineError
from inferalign.engines.base import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pick(logits: NDArray[np.float64], rows: Sequence[Row], numbers: Sequence[float]) -> list[tuple[int, float]]:
    """One token a row, and its log-probability under the row's filtered distribution. `logits` is `[R, vocab]`."""
    return [draw(line, row, number) for line, row, number in zip(logits, rows, numbers, strict=True)]


def draw(logits: NDArray[np.float64], row: Row, number: float) -> tuple[int, float]:
    """The first kept token whose cumulated probability is over `number`; greedy, the most probable. `logits` `[V]`.

    Raises `EngineError` for a NaN or an infinite logit: whatever were drawn from those would look like an answer.
    """
    scaled = logits if row.temperature == 1.0 else logits / row.temperature
    kept = None
    if row.top_k is not None and row.top_k < len(scaled):
        kept = np.sort(most_probable(scaled, row.top_k))
        scaled = scaled[kept]
    top = int(scaled.argmax())  # the first NaN, if there is one
    if not math.isfinite(scaled[top]):
        raise EngineError("the model's logits are not finite, so nothing can be drawn: load it with --dtype float32")
    weights = np.exp(scaled - scaled[top])
    cumulated = weights.cumsum()
    total = cumulated[-1]
    place = top
    if not row.greedy:
        place = int(cumulated.searchsorted(number * total, side="right"))
        # A number so near to 1 that the product rounds up to the whole takes the last token that has any weight.
        place = min(place, int(cumulated.searchsorted(total, side="left")))
    token = place if kept is None else int(kept[place])
    return token, float(scaled[place] - scaled[top]) - math.log(total)


def most_probable(logits: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Ids of the `k` largest logits (all, when there are fewer), largest first, ties by the lower id."""
    if k >= len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, len(logits) - k)[len(logits) - k]
    candidates = np.flatnonzero(logits >= least)
    return candidates[np.argsort(-logits[candidates], kind="stable")][:k]
