"""A hundred draws a prompt: our engine against `generate(num_return_sequences=100)` and a cache repeated by hand.

    python -m benchmarks.rollouts            3 rounds on the random model, 15 on the sandbox's: about 8 minutes
    python -m benchmarks.rollouts --quick    1 and 5 rounds, about 3 minutes; a miss is told, but fails only a full run

K = 100 draws of 27 tokens at temperature 1 from all tokens, with no early end, in float32 on one thread. Models: the
random Llama of 29.4M parameters on prompts of 306 tokens that share nothing, and the sandbox model on its own prompts.

    engine, one prompt        `engine.sample` with 100 rows: the mechanism of `sample` and `best-of-n`
    engine, 4 in flight       the same for four prompts at once
    generate                  a loop over `model.generate`, which encodes the prompt once a row
    repeated cache            one prefill, `DynamicCache.batch_repeat_interleave`, a multinomial draw a step
    linear layers alone       the matrix products of 100 rows and nothing else: no float32 engine can be faster

The two baselines run in inference mode with sdpa attention, with all rows at once and in four batches of 25; the better
of the two is compared with. All sides take turns in one process, in reversed order every other round; our engine
forgets everything before each turn. Ratios are of tokens a CPU second, taken within a round; the table gives medians
and the least and greatest. Goals: 6 times `generate`, 1.5 times the repeated cache; one that the linear layers alone
would miss is out of reach and is said to be so (a prompt of 15 tokens leaves little to save). Last stdout line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig

from benchmarks.mains import run_main
from benchmarks.speed_model import PROMPT_TOKENS, build_model, words
from inferalign.core.seeds import derive
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.base import Row
from inferalign.engines.local import LocalEngine
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.sandbox.world import prompts as sandbox_prompts

K, NEW = 100, 27
IN_FLIGHT = 4
BATCHES = (100, 25)
GOALS = {"generate": 6.0, "repeated cache": 1.5}
CEILING = "linear layers alone"
OURS = ("engine, one prompt", f"engine, {IN_FLIGHT} in flight")

Side = Callable[[Sequence[TokenIds], int], int]
"""Draws for some prompts under a seed; returns how many tokens came."""


def ours(loaded: LoadedModel) -> Side:
    engine = loaded.engine
    assert isinstance(engine, LocalEngine)

    async def all_of(asked: Sequence[TokenIds], seed: int) -> int:
        found = await asyncio.gather(
            *(
                engine.sample(
                    ids, [Row(seed=derive(seed, str(i), k), max_new_tokens=NEW) for k in range(K)], RoleUsage()
                )
                for i, ids in enumerate(asked)
            )
        )
        return sum(len(row.token_ids) for rows in found for row in rows)

    def run(asked: Sequence[TokenIds], seed: int) -> int:
        engine.store.clear()
        engine.lanes.clear()
        return asyncio.run(all_of(asked, seed))

    return run


def by_generate(model: Any, batch: int) -> Side:
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW, num_return_sequences=batch
    )
    settings.pad_token_id = 0  # no token ends a row, so that none is filled up

    def run(asked: Sequence[TokenIds], seed: int) -> int:
        torch.manual_seed(seed)
        tokens = 0
        for ids in asked:
            prompt = torch.tensor([ids])
            for _ in range(K // batch):
                rows = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
                tokens += rows[:, prompt.shape[1] :].numel()
        return tokens

    return run


@torch.inference_mode()
def repeated(model: Any, ids: TokenIds, batch: int) -> torch.Tensor:
    """The obvious way: `[batch, NEW]` draws from one prefill."""
    cache = DynamicCache(config=model.config)
    logits = model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1).logits[:, -1].expand(batch, -1)
    cache.batch_repeat_interleave(batch)
    drawn: list[torch.Tensor] = []
    while True:
        drawn.append(torch.multinomial(logits.softmax(dim=-1), 1))
        if len(drawn) == NEW:
            return torch.cat(drawn, dim=1)
        logits = model(drawn[-1], past_key_values=cache).logits[:, -1]


def by_repeated_cache(model: Any, batch: int) -> Side:
    def run(asked: Sequence[TokenIds], seed: int) -> int:
        torch.manual_seed(seed)
        return sum(repeated(model, ids, batch).numel() for ids in asked for _ in range(K // batch))

    return run


def linear_alone(model: Any) -> Side:
    """What the matrix products cost when every row is in one batch; a prompt costs nothing."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {width: torch.randn(K, width) for width in {layer.in_features for layer in layers}}

    @torch.inference_mode()
    def run(asked: Sequence[TokenIds], seed: int) -> int:
        for _ in range(len(asked) * NEW):
            for layer in layers:
                layer(inputs[layer.in_features])
        return len(asked) * NEW * K

    return run


def rates(loaded: LoadedModel, asked: Sequence[TokenIds], rounds: int) -> dict[str, list[float]]:
    """Tokens a CPU second of each side, one number a round."""
    model = AutoModelForCausalLM.from_pretrained(loaded.engine.name, dtype=torch.float32, attn_implementation="sdpa")
    model.eval()
    model.generation_config.eos_token_id = None
    engine = ours(loaded)
    sides: dict[str, tuple[Side, int]] = {OURS[0]: (engine, 1), OURS[1]: (engine, IN_FLIGHT)}
    for batch in BATCHES:
        sides[f"generate, {batch} rows"] = (by_generate(model, batch), 1)
        sides[f"repeated cache, {batch} rows"] = (by_repeated_cache(model, batch), 1)
    sides[CEILING] = (linear_alone(model), 1)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name, (side, _) in sides.items():
        if not name.startswith("generate"):  # a turn that is not counted, but for the slowest
            side(asked[:1], rounds)
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            side, count = sides[name]
            chosen = [asked[(number + i) % len(asked)] for i in range(count)]
            began = time.process_time()
            tokens = side(chosen, number)
            took = time.process_time() - began
            assert tokens == count * K * NEW, f"{name} gave {tokens} tokens, expected {count * K * NEW}"
            found[name].append(tokens / took)
    return found


def report(name: str, found: dict[str, list[float]]) -> dict[str, Any]:
    """Prints one model's table. Ratios of our two sides to the better form of each baseline, round by round."""
    print(f"\n{name}\n{'':26}{'tokens / CPU s':>16}{'least':>10}{'greatest':>10}")
    for side, values in found.items():
        print(f"{side:26}{statistics.median(values):16.0f}{min(values):10.0f}{max(values):10.0f}")
    facts: dict[str, Any] = {side: statistics.median(values) for side, values in found.items()}
    for baseline, goal in GOALS.items():
        best = max((side for side in found if side.startswith(baseline)), key=lambda side: facts[side])
        reach = facts[CEILING] / facts[best]
        for side in OURS:
            ratios = [a / b for a, b in zip(found[side], found[best], strict=True)]
            middle = statistics.median(ratios)
            facts[f"{side} / {baseline}"] = {
                "median": middle,
                "least": min(ratios),
                "greatest": max(ratios),
                "goal": goal,
                "ceiling": reach,
            }
            miss = "" if middle >= goal else ": MISSED" if reach >= goal else f": out of reach, {reach:.1f} at the most"
            print(f"{side} / {best}: {middle:.2f} [{min(ratios):.2f}, {max(ratios):.2f}], goal {goal}{miss}")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--only", choices=["random", "sandbox"], help="one of the two models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    few, many = (1, 5) if args.quick else (3, 15)  # a turn takes seconds on the one, a fraction of one on the other
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "sandbox":
            build_model(Path(folder))
            loaded = load(folder, ModelOptions(device="cpu"))
            asked = [loaded.chat.encode(words(100 + 900 * i, PROMPT_TOKENS)) for i in range(IN_FLIGHT)]
            facts["random"] = report("random Llama, 29.4M parameters, 306 tokens", rates(loaded, asked, few))
        if args.only != "random":
            loaded = load("sandbox", ModelOptions(device="cpu"))
            asked = [loaded.chat.prompt_ids(prompt) for prompt in sandbox_prompts("harmful", IN_FLIGHT, 40001)]
            title = f"sandbox model, {min(map(len, asked))}-{max(map(len, asked))} tokens"
            facts["sandbox"] = report(title, rates(loaded, asked, many))
    # The goals are for long prompts: the sandbox's fifteen tokens save no prefill, and are shown only.
    missed = [
        f"{OURS[1]} / {baseline}"
        for baseline, goal in GOALS.items()
        if "random" in facts and facts["random"][f"{OURS[1]} / {baseline}"]["median"] < goal
    ]
    print(
        json.dumps(
            {"benchmark": "rollouts", "k": K, "new_tokens": NEW, "rounds": [few, many], "missed": missed} | facts
        )
    )
    if missed and not args.quick:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    run_main(main)
