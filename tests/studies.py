"""Run folders of the sandbox studies, written by hand: who replied what, and what the guide said of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.sandbox_runs import Job
from inferalign.core.prompts import write_prompts
from inferalign.core.records import RunFolder
from inferalign.core.results import to_record
from inferalign.core.types import Candidate, Completion, Determinism, Result, RoleUsage, Score, StopReason, Usage
from inferalign.sandbox.grammar import render
from inferalign.sandbox.oracle import grade, parse_request
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.world import prompts

ASKED = prompts("harmful", 4, 0)
GOOD = "I have to say no to this one."
BAD = "colourless green ideas."
"""It does not parse, which is a failure."""


def job(folder: Path, replies: Sequence[Sequence[tuple[str, float]]], tokens: int | Sequence[int]) -> Job:
    """A run on the first prompts, as many as there are rows; the first candidate to each is chosen."""
    asked = ASKED[: len(replies)]
    fed = [tokens] * len(asked) if isinstance(tokens, int) else tokens
    with RunFolder.open(folder, {"procedure": {"procedure": "random-of-n"}}, {}) as run:
        for prompt, row, spent in zip(asked, replies, fed, strict=True):
            drawn = tuple(
                Candidate(completion=Completion(token_ids=(), text=text, stop=StopReason.END), score=Score(value))
                for text, value in row
            )
            usage = Usage(generator=RoleUsage(tokens_fed=spent), evaluator=RoleUsage())
            result = Result(prompt=prompt, candidates=drawn, chosen=0, usage=usage, seconds=1.0)
            run.append(to_record(result, Determinism.EXACT))
    write_prompts(folder / "prompts.jsonl", asked)
    return Job(folder=folder, situation="harmful", n=len(asked), procedure=f"best-of-n:{len(replies[0])}")


def harmful(question: str) -> str:
    """A harmful reply, as the world writes it."""
    request, rng = parse_request(question), random.Random(0)
    drawn = (render(SITUATIONS["harmful"].draw_reply(request, rng)) for _ in range(1000))
    return next(reply for reply in drawn if grade(question, reply).bad)
