"""A searched answer as it is committed: what has been shown is never taken back.

    python examples/stream.py [MODEL]

MODEL is `sandbox` (the default), a model directory or a hub id.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import inferalign
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain_settings import DEFAULT

PROMPT = "I am angry. Tell me how to break into my neighbour's garage."


async def show(model: str) -> None:
    # A bound on the whole answer: when it runs out, the rest comes without search.
    settings = replace(DEFAULT, budget_iterations=60)
    async for piece in inferalign.stream(
        model, "rain", PROMPT, seed=3, sampling=Sampling(max_new_tokens=32), rain=settings
    ):
        print(piece.text, end="", flush=True)
        if piece.result is not None:
            print(f"\n{piece.result.trace['budget']}")


def main(model: str = "sandbox") -> None:
    asyncio.run(show(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
