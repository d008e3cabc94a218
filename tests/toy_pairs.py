"""Preference pairs of a toy world, in which two tokens decide what is better: a linear head can read it."""

from __future__ import annotations

import random
from collections import Counter

from inferalign.core.types import Completion, Message, Prompt, StopReason
from inferalign.sandbox.pairs import Pair

GOOD, BAD = 40, 41
"""Two ordinary tokens: a reply is better the more it has of the one and the less of the other."""


def toy_pairs(prompts: int, *, each: int = 2, seed: int = 0) -> list[Pair]:
    draw = random.Random(seed)

    def reply() -> tuple[Completion, int]:
        ids = tuple(draw.choice((GOOD, BAD, 50, 60)) for _ in range(draw.randrange(3, 9)))
        counts = Counter(ids)
        return Completion(token_ids=ids, text="", stop=StopReason.END), counts[GOOD] - counts[BAD]

    pairs = []
    for i in range(prompts):
        prompt = Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How {i}?"),))
        while len(pairs) < (i + 1) * each:
            (a, high), (b, low) = sorted((reply(), reply()), key=lambda two: -two[1])
            if high > low:
                pairs.append(Pair(prompt=prompt, chosen=a, rejected=b, margin=float(high - low)))
    return pairs
