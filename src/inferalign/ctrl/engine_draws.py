"""Responses of a model in training, drawn by our engine: a prompt is read once, and a row that has ended costs nothing.

`model.generate` reads a prompt once a response, and goes on with all rows until the longest has ended. With the
sandbox's model a step's draws take less than half the time here, and with long prompts far less.

Weights change with every step, so an engine is made for each call and forgotten: nothing that was computed before is
used again. Draws are keyed: a response depends on the weights, its prompt and its seed, and on nothing beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from inferalign.core.loops import run_to_end
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.base import Row
from inferalign.engines.chat import ChatFormat
from inferalign.engines.live import evaluating
from inferalign.engines.local import LocalEngine, shares_prefixes
from inferalign.engines.table import ModelOptions


def suits(model: Any) -> bool:
    """Whether the engine can draw from this model as it is: on a CPU, in float32, by passes that give its own logits.

    Elsewhere `model.generate` draws. On GPUs `--vllm` is the faster way.
    """
    if model.device.type != "cpu" or str(model.dtype) != "torch.float32":
        return False
    with evaluating(model):
        return shares_prefixes(model)


def draw(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[TokenIds],
    seeds: Sequence[int],
    *,
    ends: Collection[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """One response to each prompt at temperature 1, its end token included, at most `max_new_tokens` tokens long.

    The prompts that stand side by side and are the same are read once. Raises `ContextOverflow` for a prompt that
    leaves no room.
    """
    with evaluating(model):
        engine = LocalEngine(
            model,
            ChatFormat(tokenizer),
            name="the model in training",
            digest="",
            cache_bytes=ModelOptions().prefix_cache_mb << 20,
        )
        # an end token that is a pause stays part of the response, where training gives it its probability
        rows = [Row(seed=seed, max_new_tokens=max_new_tokens, pause_ids=frozenset(ends)) for seed in seeds]
        groups = [list(group) for _, group in groupby(range(len(rows)), key=lambda at: prompts[at])]

        async def work() -> list[list[int]]:
            asked = (engine.sample(prompts[at[0]], [rows[i] for i in at], RoleUsage()) for at in groups)
            return [list(drawn.token_ids) for group in await asyncio.gather(*asked) for drawn in group]

        return run_to_end(work)
