"""The procedure `sample`, and the keyed draws that every procedure of whole answers shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING

from inferalign.core.errors import ContextOverflow
from inferalign.core.seeds import derive
from inferalign.core.types import Candidate, Completion, Prompt, Result, RoleUsage, Usage
from inferalign.engines.base import Engine, Row
from inferalign.procedures.base import Parts, Sampling

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat


async def draw(
    engine: Engine, chat: ChatFormat, prompt: Prompt, count: int, *, seed: int, sampling: Sampling, usage: RoleUsage
) -> list[Completion]:
    """Draws 0 .. count-1 of a prompt. Draw k depends on the seed, the prompt's id and k alone.

    So best-of-4's candidates are the first four of best-of-16's, and `sample` is draw 0. Temperature 0 is greedy.
    Raises `ContextOverflow` when the prompt fills the model's context.
    """
    prefix = chat.prompt_ids(prompt)
    if len(prefix) >= engine.context_length:
        raise ContextOverflow(
            f"prompt {prompt.id!r} takes {len(prefix)} tokens and the model's context has {engine.context_length}: "
            "shorten the prompt or use a model with a longer context"
        )
    greedy = sampling.temperature == 0
    rows = [
        Row(
            seed=derive(seed, prompt.id, "draw", k),
            max_new_tokens=sampling.max_new_tokens,
            temperature=1.0 if greedy else sampling.temperature,
            top_k=sampling.top_k,
            greedy=greedy,
            stop_ids=chat.end_ids,
            stop_strings=chat.stop_strings,
        )
        for k in range(count)
    ]
    return [
        Completion(
            token_ids=row.token_ids, text=chat.decode(row.token_ids), stop=row.stop, logprob=float(sum(row.logprobs))
        )
        for row in await engine.sample(prefix, rows, usage)
    ]


class Sample:
    """One draw, unjudged: what every other procedure is compared with."""

    name = "sample"

    def __init__(self, engine: Engine, chat: ChatFormat, *, seed: int, sampling: Sampling) -> None:
        self.engine = engine
        self.chat = chat
        self.seed = seed
        self.sampling = sampling

    def describe(self) -> Mapping[str, object]:
        return {"procedure": self.name, "sampling": asdict(self.sampling)}

    async def __call__(self, prompt: Prompt) -> Result:
        started, usage = perf_counter(), Usage()
        (completion,) = await draw(
            self.engine, self.chat, prompt, 1, seed=self.seed, sampling=self.sampling, usage=usage.generator
        )
        self.engine.forget(self.chat.prompt_ids(prompt))
        candidates = (Candidate(completion=completion),)
        return Result(prompt=prompt, candidates=candidates, chosen=0, usage=usage, seconds=perf_counter() - started)


def make(parts: Parts, argument: object) -> Sample:
    return Sample(parts.engine, parts.chat, seed=parts.seed, sampling=parts.sampling)
