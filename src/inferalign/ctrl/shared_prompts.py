"""Log-probabilities of a batch with every prompt read once for several of its responses.

A step has G responses to each prompt, and TRL reads the prompt again for every one of them. Here a row holds a prompt
and the responses to it one behind the other, each beginning with the prompt's last token; a mask keeps a response from
seeing another one, and positions count from the prompt, so that every token has the law that it has in a row of its
own (after Prefix Grouper, arXiv 2506.05433, which splits the attention instead of masking it). What is saved is the
prompts' share of the arithmetic: with 300 tokens of prompt and 32 responses of 100, more than two thirds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inferalign.core.types import TokenIds
from inferalign.engines.local import windowed

PASSES = 4
"""Of a batch, packs of like length together; more would save little on top and make smaller, less efficient passes."""
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far the probe's logits may be from plain ones, relative to the largest."""
LONGEST = 4096
"""Tokens of a row: its mask grows with the square, and kernels that skip what is masked are left unused."""
NO_LABEL = -100

Scores = Callable[["Packed"], tuple[Tensor, Tensor | None]]
"""Packed rows to log-probabilities of their labels and, if asked for, entropies, each [R, L]."""


class Packed(NamedTuple):
    """Rows of one prompt and some of its responses each, filled up on the right."""

    ids: Tensor
    """[R, L]."""
    positions: Tensor
    """[R, L], from 0 at a prompt's beginning; of a response, from where it follows the prompt."""
    sees: Tensor
    """[R, 1, L, L], whether a token (third axis) attends to another one (fourth)."""
    labels: Tensor
    """[R, L], the token to come after each; `NO_LABEL` within prompts, at the ends of responses and in the filling."""


def pack(prompts: Sequence[TokenIds], responses: Sequence[Sequence[TokenIds]], device: torch.device) -> Packed:
    """Row r has `prompts[r]`, which is not empty, and all of `responses[r]`."""
    rows = []
    for prompt, several in zip(prompts, responses, strict=True):
        before = len(prompt) - 1
        ids, positions, owners, labels = list(prompt[:-1]), list(range(before)), [0] * before, [NO_LABEL] * before
        for number, response in enumerate(several, start=1):
            ids += [prompt[-1], *response]
            positions += range(before, before + len(response) + 1)
            owners += [number] * (len(response) + 1)
            labels += [*response, NO_LABEL]
        rows.append((ids, positions, owners, labels))
    longest = max(len(ids) for ids, *_ in rows)
    ids, positions, owners, labels = (
        torch.tensor([row[part] + [filling] * (longest - len(row[part])) for row in rows], device=device)
        for part, filling in enumerate((0, 0, -1, NO_LABEL))
    )
    # a prompt is owned by 0, and what fills a row is seen by nothing else
    before = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    sees = before & ((owners[:, None, :] == 0) | (owners[:, :, None] == owners[:, None, :]))
    return Packed(ids, positions, sees[:, None], labels)


def responses_a_row(prompt: float, response: float, width: int) -> int:
    """How many responses to put behind a prompt, by mean lengths in tokens, in a model of this hidden size; 1: none.

    A row of L = P + g C tokens costs about 6 d + L a token and layer: linear layers of 12 d^2 weights, and attention to
    all L, masked or not. For a response that makes (P / g + C) (6 d + P + g C), least at g = sqrt(P (6 d + P)) / C.
    """
    response = max(response, 1.0)
    best = round(math.sqrt(prompt * (6 * width + prompt)) / response)
    return max(1, min(best, int((LONGEST - prompt) / response)))


def by_prompt(
    work: Scores, ids: Tensor, mask: Tensor, kept: int, together: int, at_once: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """What `work` finds of the responses, [B, C] as they came, with up to `together` of a prompt in a row; 0 elsewhere.

    ids, mask: [B, P + C], prompts padded on the left, responses of at most C = `kept` tokens on the right. at_once: the
    most responses of a pass; without it, all. It can be differentiated.
    """
    width = ids.size(1) - kept
    tokens, held = ids.tolist(), mask.sum(dim=1).tolist()
    before = mask[:, :width].sum(dim=1).tolist()
    siblings: dict[TokenIds, list[int]] = {}
    for row in sorted(range(len(tokens)), key=lambda row: held[row]):
        siblings.setdefault(tuple(tokens[row][width - before[row] : width]), []).append(row)
    together = min(together, at_once or together)
    packs = [
        (prompt, rows[first : first + together])
        for prompt, rows in siblings.items()
        for first in range(0, len(rows), together)
    ]

    def response(row: int) -> TokenIds:
        return tuple(tokens[row][width : width + held[row] - before[row]])

    packs.sort(key=lambda each: len(each[0]) + sum(held[row] - before[row] + 1 for row in each[1]))
    most = max(1, (at_once or len(tokens)) // together)
    passes = max(min(PASSES, len(packs)), math.ceil(len(packs) / most))
    size = math.ceil(len(packs) / passes)
    places, logs, entropies = [], list[Tensor](), list[Tensor]()
    for first in range(0, len(packs), size):
        part = packs[first : first + size]
        packed = pack([prompt for prompt, _ in part], [[response(row) for row in rows] for _, rows in part], ids.device)
        found, entropy = work(packed)
        labelled = packed.labels != NO_LABEL
        logs.append(found[labelled])
        entropies += [] if entropy is None else [entropy[labelled]]
        places += [row * kept + at for _, rows in part for row in rows for at in range(held[row] - before[row])]
    where = torch.tensor(places, dtype=torch.int64, device=ids.device)

    def laid_out(values: list[Tensor]) -> Tensor:
        flat = torch.cat(values)
        return (
            torch.zeros(len(tokens) * kept, dtype=flat.dtype, device=flat.device).scatter(0, where, flat).view(-1, kept)
        )

    return laid_out(logs), laid_out(entropies) if entropies else None


def suits(model: Any) -> bool:
    """Whether this model gives a packed response the logits that it has alone: it must follow masks and positions.

    Only under PyTorch's own attention, which takes such a mask in any dtype, and without windows.
    """
    config = model.config.get_text_config()
    if getattr(config, "_attn_implementation", None) != "sdpa" or windowed(config):
        return False
    prompt, responses = (3, 1, 4, 1, 5), ((9, 2, 6), (5, 3, 5, 8))
    packed = pack([prompt], [responses], model.device)
    with torch.no_grad():
        try:
            found = model(input_ids=packed.ids, attention_mask=packed.sees, position_ids=packed.positions).logits[0]
            plain = [model(input_ids=torch.tensor([[*prompt, *r]], device=model.device)).logits[0] for r in responses]
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False  # a model that cannot take positions or such a mask says so in any of these ways
    expected = torch.cat([rows[len(prompt) - 1 :] for rows in plain])
    scale = max(1.0, float(expected.abs().max()))
    return bool(((found[len(prompt) - 1 :] - expected).abs() <= CLOSE.get(model.dtype, 1e-2) * scale).all())
