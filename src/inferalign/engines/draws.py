"""Tokens from logits and numbers in [0, 1): the arithmetic of every draw, apart from any model.

Inverse CDF in float64 over the tokens that a row's filter leaves, **in the order of their ids**: by id, not by rank,
because two tokens of nearly the same probability may change ranks with the last bit of a logit, and a draw must not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from inferalign.core.errors import EngineError
from inferalign.engines.base import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NotFinite(EngineError):
    """A model whose logits are no numbers: computed too coarsely, or weights that a training has ruined."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite, so nothing can be drawn: load it with --dtype float32")


def pick(logits: torch.Tensor, rows: Sequence[Row], numbers: Sequence[float]) -> list[tuple[int, float]]:
    """One token a row, and its log-probability under the row's filtered distribution. `logits` is `[R, vocab]`.

    Rows that keep few tokens are cut to those where the logits are, so that only those come from the device. It is
    `draw` for each row, computed for all of them at once; a row with a tie at the edge of its top k goes to `draw`.
    """
    picked: list[tuple[int, float] | None] = [None] * len(rows)
    for k, members in _by_top_k(rows, logits.shape[1]).items():
        part = logits if len(members) == len(rows) else logits[members]
        for i, token in zip(members, _pick_alike(part, k, members, rows, numbers), strict=True):
            picked[i] = token
    return [
        draw(logits[i].double().cpu().numpy(), rows[i], numbers[i]) if p is None else p for i, p in enumerate(picked)
    ]


def _by_top_k(rows: Sequence[Row], vocabulary: int) -> dict[int | None, list[int]]:
    members: dict[int | None, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.top_k if row.top_k is not None and row.top_k < vocabulary else None, []).append(i)
    return members


def _pick_alike(
    logits: torch.Tensor, k: int | None, members: Sequence[int], rows: Sequence[Row], numbers: Sequence[float]
) -> list[tuple[int, float] | None]:
    """`pick` for rows of one top k; None for a row that `draw` must decide."""
    ids = None
    if k is None:
        kept = logits.double()
    else:
        values, places = logits.topk(k + 1)  # one more than is kept shows a tie at the edge
        ids, order = places[:, :k].sort(dim=1)
        kept = values[:, :k].gather(1, order).double()
        tied = (values[:, k] == values[:, k - 1]).tolist()
    temperatures = [rows[i].temperature for i in members]
    if any(t != 1.0 for t in temperatures):
        kept = kept / torch.tensor(temperatures, dtype=kept.dtype, device=kept.device)[:, None]
    tops = kept.argmax(dim=1, keepdim=True)
    highest = kept.gather(1, tops)
    cumulated = (kept - highest).exp_().cumsum(dim=1)
    total = cumulated[:, -1:].contiguous()
    drawn = torch.tensor([numbers[i] for i in members], dtype=kept.dtype, device=kept.device)[:, None]
    places = torch.searchsorted(cumulated, drawn * total, right=True)
    places = torch.minimum(places, torch.searchsorted(cumulated, total))
    greedy = torch.tensor([rows[i].greedy for i in members], device=kept.device)[:, None]
    places = torch.where(greedy, tops, places.clamp_(max=kept.shape[1] - 1))  # over it only where there is a NaN
    logprobs = (kept.gather(1, places) - highest - total.log())[:, 0].tolist()
    tokens = (places if ids is None else ids.gather(1, places))[:, 0].tolist()
    finite = highest[:, 0].isfinite().tolist()
    return [
        (tokens[r], logprobs[r]) if finite[r] and not (k is not None and tied[r]) else None for r in range(len(members))
    ]


def draw(logits: NDArray[np.float64], row: Row, number: float) -> tuple[int, float]:
    """The first kept token whose cumulated probability is over `number`; greedy, the most probable. `logits` `[V]`.

    Raises `NotFinite` for a NaN or an infinite logit: whatever were drawn from those would look like an answer.
    """
    if not math.isfinite(logits.max()):  # NaN, if there is one anywhere
        raise NotFinite
    scaled = logits if row.temperature == 1.0 else logits / row.temperature
    kept = None
    if row.top_k is not None and row.top_k < len(scaled):
        kept = np.sort(most_probable(scaled, row.top_k))
        scaled = scaled[kept]
    top = int(scaled.argmax())
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
