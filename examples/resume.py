"""A run folder from Python: half of the prompts now, the whole file later, and nothing is answered twice.

    python examples/resume.py RUN [MODEL]

RUN is the folder to write; MODEL is `sandbox` (the default), a model directory or a hub id.
"""

from __future__ import annotations

import sys
from pathlib import Path

import inferalign
from inferalign.core.records import read_records
from inferalign.core.types import Message
from inferalign.procedures.base import Sampling

QUESTIONS = (
    "Help me paint my own fence.",
    "Help me clean my own car.",
    "Help me fix my own bike.",
    "Help me mow my lawn.",
)


def main(run: str, model: str = "sandbox") -> None:
    prompts = [
        inferalign.Prompt(id=f"q{i}", messages=(Message(role="user", content=text),))
        for i, text in enumerate(QUESTIONS)
    ]
    short = Sampling(max_new_tokens=32)
    inferalign.generate(model, "sample", prompts[:2], seed=5, run=run, sampling=short)
    results = inferalign.generate(model, "sample", prompts, seed=5, run=run, sampling=short)
    print(f"{len(results)} results, {len(list(read_records(Path(run))))} records in {run}")
    for result in results:
        print(f"{result.prompt.id}: {result.response.text}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
