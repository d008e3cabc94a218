"""Do hidden-state embeddings tell siblings apart? Cosines of all pairs of drawn continuations, raw and centred.

    python -m benchmarks.embedding_cosines [--model sandbox] [--prompts 20] [--draws 30] [--seed 1]

For each prompt, draws of ten tokens (top 15, as RAIN's candidates are) are embedded as the search does it: the mean of
the last layer over the draw, minus the mean over the context before it or not. Printed: quartiles over all pairs of
one prompt's draws, and the share at RAIN's threshold of 0.95 or more. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.mains import run_main
from inferalign.core.seeds import derive
from inferalign.core.types import Prompt, RoleUsage
from inferalign.engines.base import Row
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.rain_settings import DEFAULT
from inferalign.sandbox.world import prompts

LENGTH = DEFAULT.set_lengths[-1]


async def cosines(model: LoadedModel, prompt: Prompt, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Cosines of all pairs of distinct draws, `[pairs]` each."""
    ids, usage = model.chat.render(prompt.messages), RoleUsage()
    rows = [
        Row(
            seed=derive(seed, prompt.id, j),
            max_new_tokens=LENGTH,
            top_k=DEFAULT.candidate_top_k,
            stop_ids=model.chat.end_ids,
        )
        for j in range(draws)
    ]
    drawn = await model.engine.sample(ids, rows, usage)
    distinct = [tokens for tokens in dict.fromkeys(c.token_ids for c in drawn) if tokens]
    means = np.stack([(await model.engine.embed(ids + tokens, [len(ids)], usage))[0] for tokens in distinct])
    centre = (await model.engine.embed(ids, [0], usage))[0]
    return {"raw": _pairs(means), "centred on the context": _pairs(means - centre)}


def _pairs(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), k=1)]


async def measure(model: LoadedModel, asked: list[Prompt], draws: int, seed: int) -> dict[str, np.ndarray]:
    found = [await cosines(model, prompt, draws, seed) for prompt in asked]
    return {form: np.concatenate([one[form] for one in found]) for form in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    model = load(args.model, ModelOptions())
    asked = prompts("harmful", args.prompts, args.seed)
    found = asyncio.run(measure(model, asked, args.draws, args.seed))
    table = Table("embedding", "pairs", "quartiles of the cosine", f"at {DEFAULT.sibling_threshold} or more")
    facts = {}
    for form, values in found.items():
        low, middle, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        share = float((values >= DEFAULT.sibling_threshold).mean())
        facts[form] = {"pairs": len(values), "quartiles": [low, middle, high], "similar": share}
        table.add_row(form, str(len(values)), f"{low:.2f}, {middle:.2f}, {high:.2f}", f"{share:.1%}")
    Console(width=100).print(table)
    print(json.dumps({"model": args.model, "prompts": args.prompts, "draws": args.draws, "seed": args.seed} | facts))


if __name__ == "__main__":
    run_main(main)
