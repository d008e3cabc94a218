"""What `--trees` costs: CPU time of the same sandbox searches with and without their trees written to disk.

    python -m benchmarks.tree_cost [--rounds 4] [--prompts 6]

Each prompt is searched both ways, one right after the other, in one process on one thread; a search that has ended has
had its engine forget all but the template. Which way is first changes every time. Both must give the same answer. The
overhead is the median over all pairs of the ratio less one, with its quartiles; the goal is under 5 %, else the exit
is 1. `writer` is the share of the writer's own methods, timed from inside in a turn more: it says the same without the
machine's noise. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.mains import run_main
from inferalign.core.types import Prompt, TokenIds
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Parts, Sampling
from inferalign.procedures.rain import make
from inferalign.procedures.rain_trace import TreeWriter
from inferalign.sandbox.world import prompts as sandbox_prompts
from inferalign.scorers.table import build_scorer

GOAL = 0.05


class Inside:
    """CPU seconds spent in the writer's methods."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, method: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds += time.process_time() - began

        return run


def searches(loaded: LoadedModel, asked: Sequence[Prompt], trees: Path | None) -> tuple[float, list[TokenIds]]:
    """CPU seconds, and the answers."""
    engine, chat = loaded
    scorer = build_scorer("self", engine=engine, chat=chat, sandbox=True, form="margin")
    sampling = Sampling(max_new_tokens=96)
    rain = make(
        Parts(text="rain", engine=engine, chat=chat, scorer=scorer, seed=1, sampling=sampling, trees=trees), "default"
    )

    async def all_of() -> list[TokenIds]:
        return [(await rain(prompt)).response.token_ids for prompt in asked]

    began = time.process_time()
    answers = asyncio.run(all_of())
    return time.process_time() - began, answers


def measure(loaded: LoadedModel, asked: Sequence[Prompt], rounds: int, folder: Path) -> dict[str, Any]:
    ratios, plain_seconds = [], []
    searches(loaded, asked[:1], None)  # a turn that is not counted
    for number, prompt in enumerate([*asked] * rounds):
        ways = (None, folder) if (number + number // len(asked)) % 2 else (folder, None)
        found = {trees: searches(loaded, [prompt], trees) for trees in ways}
        assert found[None][1] == found[folder][1], f"{prompt.id}: the answers differ with trees"
        ratios.append(found[folder][0] / found[None][0])
        plain_seconds.append(found[None][0])
    low, middle, high = statistics.quantiles(ratios, n=4)
    inside = Inside()
    timed = {name: inside.timed(getattr(TreeWriter, name)) for name in ("__init__", "drop", "commit", "end")}
    with patch.multiple(TreeWriter, **timed):
        whole, _ = searches(loaded, asked, folder)
    files = list(folder.glob("*.jsonl"))
    return {
        "cpu_s_without": statistics.median(plain_seconds),
        "overhead": middle - 1,
        "quartiles": [low - 1, high - 1],
        "pairs": len(ratios),
        "writer": inside.seconds / whole,
        "kb_per_tree": sum(file.stat().st_size for file in files) / len(files) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load("sandbox", ModelOptions(device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(loaded, sandbox_prompts("harmful", args.prompts, 60001), args.rounds, Path(folder))
    low, high = facts["quartiles"]
    print(f"{facts['pairs']} pairs of searches, {facts['cpu_s_without']:.3f} CPU s each without trees")
    print(f"overhead of trees      {facts['overhead']:7.2%}  quartiles {low:.2%}, {high:.2%}")
    print(f"writer alone           {facts['writer']:7.2%}")
    print(f"a tree's file          {facts['kb_per_tree']:7.1f} KiB")
    missed = facts["overhead"] >= GOAL
    print(
        json.dumps({"benchmark": "tree_cost", "rounds": args.rounds, "prompts": args.prompts, "missed": missed} | facts)
    )
    if missed:
        sys.exit(f"trees cost {facts['overhead']:.1%}: the goal is under {GOAL:.0%}")


if __name__ == "__main__":
    run_main(main)
