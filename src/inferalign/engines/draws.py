"""Tokens from logits and numbers in [0, 1): the arithmetic of every draw, apart from any model.

Inverse CDF in float64 over the tokens that a row's filter leaves, **in the order of their ids**: by id, not by rank,
because two tokens of nearly the same probability may change ranks with the last bit of a logit, and a draw must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from inferalign.engines.base import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pick(logits: torch.Tensor, rows: Sequence[Row], numbers: Sequence[float]) -> list[tuple[int, float]]:
    """One token a row, and its log-probability under the row's filtered distribution. `logits` is `[R, vocab]`."""
    scaled = logits.detach().cpu().to(torch.float64, copy=True)
    scaled /= torch.tensor([row.temperature for row in rows], dtype=torch.float64)[:, None]
    for k in {row.top_k for row in rows if row.top_k is not None}:
        filtered = [i for i, row in enumerate(rows) if row.top_k == k]
        scaled[filtered] = _keep_top(scaled[filtered], k)
    logprobs = torch.log_softmax(scaled, dim=-1)
    cumulative = logprobs.exp().cumsum(dim=-1).numpy()
    best = logprobs.argmax(dim=-1).tolist()
    chosen = [
        best[i] if row.greedy else _invert(cumulative[i], number)
        for i, (row, number) in enumerate(zip(rows, numbers, strict=True))
    ]
    return [(token, float(logprobs[i, token])) for i, token in enumerate(chosen)]


def _invert(cumulative: NDArray[np.float64], number: float) -> int:
    """The first token whose cumulative probability exceeds the number; scaled, for the sum is 1 up to rounding only."""
    total = cumulative[-1]
    index = int(np.searchsorted(cumulative, number * total, side="right"))
    return min(index, int(np.searchsorted(cumulative, total, side="left")))


def _keep_top(scaled: torch.Tensor, k: int) -> torch.Tensor:
    """Minus infinity on all but the k greatest of each row; of equal ones the lower ids stay."""
    if k >= scaled.shape[1]:
        return scaled
    least = scaled.topk(k, dim=-1).values[:, -1:]
    above = scaled > least
    ties = scaled == least
    allowed = k - above.sum(dim=-1, keepdim=True)
    keep = above | (ties & (ties.cumsum(dim=-1) <= allowed))
    return scaled.masked_fill(~keep, -torch.inf)
