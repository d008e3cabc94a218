"""CPU time per committed token: the package's RAIN against a naive one that re-encodes as the published code does.

    python -m benchmarks.rain_speed --quick    1, 8 and 32 prompts in flight, float32 and bfloat16, budget 16/6
    python -m benchmarks.rain_speed            the same with more of the naive search, and iterations of the full 50/15

Model: a random Llama of 29.4M parameters; 306 tokens of prompt, 1,059 of evaluation template, one thread. Both sides
ask the model for its verdict and then have it replaced by the same hash of the text; no value is above the stop value,
so that every commit spends its whole budget. Searches stop when they have committed 27 tokens. The naive side searches
prompt after prompt in turns with ours, on the same draws; it is charged what its iterations cost, times the
iterations that ours needed for a token (both need the same). It must feed what the published code was measured to
feed in an iteration (41 forwards, 3,565 tokens, within a tenth), or nothing here means anything: then the exit is 1.

`tokens_over_ideal` compares what we fed with the distinct prefixes of the lazy searches, each once, the template once
a run. `ours_torch` is our search on PyTorch's own matrix products: what re-use and packing are worth without oneDNN.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

from benchmarks import naive_rain, speed_model
from benchmarks.mains import run_main
from inferalign.core.types import Prompt, RoleUsage, StopReason, TokenIds
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import PAPER, RainSettings
from inferalign.scorers.scripted import Replaced, hash_vote
from inferalign.scorers.self_eval import SelfEval

TOKENS, ROOM = 27, 34
OFFICIAL_FORWARDS, OFFICIAL_TOKENS, TOLERANCE = 41.0, 3565.0, 0.10
GOALS = {"cpu_ratio_1": 12, "cpu_ratio_8": 28, "cpu_ratio_32": 35}
GOALS_BF16 = {"cpu_ratio_1_bf16": 14, "cpu_ratio_8_bf16": 40, "cpu_ratio_32_bf16": 50}


@dataclass(frozen=True)
class Cost:
    """What a run of searches took."""

    cpu: float
    wall: float
    iterations: int
    tokens: int
    fed: int
    forwards: float
    ideal: int

    @property
    def per_iteration(self) -> float:
        return self.cpu / self.iterations


class Ours:
    """Searches on the package's engine."""

    def __init__(self, folder: Path, settings: RainSettings, dtype: str, *, packed: bool = True) -> None:
        self.folder, self.settings, self.dtype, self.packed = folder, settings, dtype, packed

    def run(self, prompts: Sequence[Prompt], *, ideal: bool = False, iterations: int | None = None) -> Cost:
        """All prompts in flight, from nothing: a fresh engine, whose loading is not counted.

        Until the tokens are committed, or for so many iterations.

        With `ideal` every request is noted, which takes time: such a run is not for its seconds.
        """
        loaded = self._load()
        engine: Any = Noting(loaded.engine) if ideal else loaded.engine
        guide = Replaced(SelfEval(engine, loaded.chat, speed_model.template(), self.settings.form), hash_vote, "hash")
        sampling = Sampling(max_new_tokens=ROOM)
        rain = Rain(engine, loaded.chat, guide, seed=0, sampling=sampling, settings=self.settings)
        cpu, wall = time.process_time(), time.perf_counter()
        searches = asyncio.run(_all(rain, prompts, iterations))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        roles = [usage for s in searches for usage in (s.usage.generator, s.usage.evaluator, s.usage.embedder)]
        return Cost(
            cpu=cpu,
            wall=wall,
            iterations=sum(s.facts.counts["iterations"] for s in searches),
            tokens=sum(len(s.committed) for s in searches),
            fed=sum(u.tokens_fed for u in roles),
            forwards=sum(u.forward_calls for u in roles),
            ideal=engine.count() if ideal else 0,
        )

    def _load(self) -> LoadedModel:
        options = ModelOptions(device="cpu", dtype=self.dtype, prefix_cache_mb=4096)
        if self.packed:
            return load(str(self.folder), options)
        with patch("inferalign.engines.local.pack_linears", lambda model: False):
            return load(str(self.folder), options)


async def _all(rain: Rain, prompts: Sequence[Prompt], iterations: int | None) -> list[Search]:
    searches = [Search(rain, prompt) for prompt in prompts]
    await asyncio.gather(*(_until(search, iterations) for search in searches))
    return searches


async def _until(search: Search, iterations: int | None) -> None:
    """Commit until `TOKENS` are there, or only iterate."""
    if iterations is not None:
        for _ in range(iterations):
            await search.iterate()
        return
    async for _ in search.commits():
        if len(search.committed) >= TOKENS:
            return


class Noting:
    """An engine that notes what its requests need to have been fed: every prefix of it, each once."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._trie: dict[int, Any] = {}
        self._nodes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def count(self) -> int:
        return self._nodes

    def _note(self, token_ids: TokenIds) -> None:
        level = self._trie
        for token in token_ids:
            if token not in level:
                level[token] = {}
                self._nodes += 1
            level = level[token]

    async def sample(self, prefix: TokenIds, rows: Any, usage: RoleUsage) -> Any:
        answers = await self._engine.sample(prefix, rows, usage)
        self._note(prefix)
        for answer in answers:
            # The last token of a row is drawn and need not be fed, unless an end of text was drawn after it.
            fed = answer.token_ids if answer.stop is StopReason.END else answer.token_ids[:-1]
            self._note(prefix + fed)
        return answers

    async def top_tokens(self, prefix: TokenIds, k: int, usage: RoleUsage) -> Any:
        self._note(prefix)
        return await self._engine.top_tokens(prefix, k, usage)

    async def label_logprobs(self, prefixes: Sequence[TokenIds], labels: Sequence[int], usage: RoleUsage) -> Any:
        for prefix in prefixes:
            self._note(prefix)
        return await self._engine.label_logprobs(prefixes, labels, usage)

    async def embed(self, prefix: TokenIds, starts: Sequence[int], usage: RoleUsage) -> Any:
        self._note(prefix)
        return await self._engine.embed(prefix, starts, usage)


class Naive:
    """The naive search of one prompt, on a plain model."""

    def __init__(self, folder: Path, settings: RainSettings) -> None:
        self.settings = settings
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        engine, self.chat = load(str(folder), ModelOptions(device="cpu"))
        self.judge = SelfEval(engine, self.chat, speed_model.template(), settings.form)

    def run(self, prompt: Prompt, iterations: int | None = None) -> Cost:
        """Search until the tokens are committed, or for so many iterations."""
        search = self._search(prompt)
        cpu, wall = time.process_time(), time.perf_counter()
        if iterations is None:
            while len(search.committed) < TOKENS and not search.finished():
                search.deliberate()
                search.commit()
        else:
            for _ in range(iterations):
                search.iterate()
        return Cost(
            cpu=time.process_time() - cpu,
            wall=time.perf_counter() - wall,
            iterations=search.iterations,
            tokens=len(search.committed),
            fed=sum(search.fed.values()),
            forwards=sum(search.forwards.values()),
            ideal=0,
        )

    def _search(self, prompt: Prompt) -> naive_rain.NaiveRain:
        first, second = self.judge.template.orders
        a, b = self.chat.encode("A B")
        return naive_rain.NaiveRain(
            self.model,
            naive_rain.Tokenizer(
                end_ids=self.chat.end_ids, clause_end_ids=self.chat.clause_end_ids, decode=self.chat.decode
            ),
            naive_rain.Question(
                before=self.judge.context(prompt, ()),
                suffixes=(self.chat.encode(first.text), self.chat.encode(second.text)),
                labels=((a, b), (b, a)),
            ),
            prompt_id=prompt.id,
            prompt_ids=self.chat.prompt_ids(prompt),
            seed=0,
            room=ROOM,
            settings=self.settings,
            rule=hash_vote,
        )


def ratios(folder: Path, settings: RainSettings, rounds: int, wide: int) -> dict[str, Any]:
    """Alternating rounds of both sides; `wide` of them also with 32 prompts in flight."""
    naive = Naive(folder, settings)
    kinds = {
        "": Ours(folder, settings, "float32"),
        "_bf16": Ours(folder, settings, "bfloat16"),
        "_torch": Ours(folder, settings, "float32", packed=False),
    }
    prompts = speed_model.prompts(32)
    theirs: list[Cost] = []
    ours: dict[str, list[Cost]] = {}
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        theirs.append(naive.run(prompts[number]))
        show(f"naive, prompt {number}", theirs[-1])
        for kind, side in kinds.items():
            for count in (1, 8, 32):
                if count == 32 and (number >= wide or kind == "_torch"):
                    continue
                cost = side.run(prompts[number : number + 1] if count == 1 else prompts[:count])
                found.setdefault(f"cpu_ratio_{count}{kind}", []).append(theirs[-1].per_iteration / cost.per_iteration)
                ours.setdefault(f"{count}{kind}", []).append(cost)
                show(f"ours{kind or '_fp32'}, {count} in flight", cost)
    noted = kinds[""].run(prompts[:8], ideal=True)
    iterations = sum(cost.iterations for cost in theirs)
    forwards = sum(cost.forwards for cost in theirs) / iterations
    fed = sum(cost.fed for cost in theirs) / iterations
    eight = ours["8"][0]
    return {
        **{key: statistics.median(values) for key, values in found.items()},
        "spread": {key: [min(values), max(values)] for key, values in found.items()},
        "tokens_over_ideal": noted.fed / noted.ideal,
        "forwards_naive_over_ours_8": forwards / (eight.forwards / eight.iterations),
        "naive_forwards_per_iteration": forwards,
        "naive_tokens_per_iteration": fed,
        "naive_is_official": abs(forwards / OFFICIAL_FORWARDS - 1) <= TOLERANCE
        and abs(fed / OFFICIAL_TOKENS - 1) <= TOLERANCE,
        "cpu_s_per_token": {
            "naive": sum(cost.cpu for cost in theirs) / sum(cost.tokens for cost in theirs),
            **{key: statistics.median(c.cpu / c.tokens for c in costs) for key, costs in ours.items()},
        },
    }


def full_budget(folder: Path, iterations: int = 20) -> dict[str, float]:
    """The first iterations of a commit that may have 50: the same ones on both sides, one prompt in flight."""
    settings = replace(PAPER, stop_value=1.0)
    prompt = speed_model.prompts(1)[0]
    theirs = Naive(folder, settings).run(prompt, iterations=iterations)
    show(f"naive, budget 50/15, first {iterations}", theirs)
    cost = Ours(folder, settings, "float32").run([prompt], iterations=iterations)
    show(f"ours_fp32, budget 50/15, first {iterations}", cost)
    return {"cpu_ratio_1_full_budget": theirs.per_iteration / cost.per_iteration}


def show(name: str, cost: Cost) -> None:
    per_token = f"{cost.cpu / cost.tokens:10.3f}" if cost.tokens else f"{'':10}"
    print(
        f"{name:38}{cost.per_iteration * 1e3:12.1f}{per_token}{cost.wall / cost.cpu:10.2f}"
        f"{cost.forwards / cost.iterations:12.1f}{cost.fed / cost.iterations:12.0f}{cost.iterations:8}{cost.tokens:8}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two naive searches instead of four, no full budget")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = replace(PAPER, stop_value=1.0, max_iterations=16, extra_iterations=6)
    print(
        f"{'':38}{'CPU ms/iter':>12}{'s/token':>10}{'wall/CPU':>10}{'forwards/it':>12}{'tokens/it':>12}{'iters':>8}"
        f"{'tokens':>8}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed_model.build_model(folder)
        report: dict[str, Any] = {"benchmark": "rain_speed", "quick": arguments.quick}
        report |= ratios(folder, settings, rounds=2 if arguments.quick else 4, wide=1 if arguments.quick else 2)
        if not arguments.quick:
            report |= full_budget(folder)
    missed = [key for key, goal in {**GOALS, **GOALS_BF16}.items() if report[key] < goal]
    if report["tokens_over_ideal"] > 1.05:
        missed.append("tokens_over_ideal")
    if report["forwards_naive_over_ours_8"] < 12:
        missed.append("forwards_naive_over_ours_8")
    if not report["naive_is_official"]:
        missed.append("naive_is_official")
    report["missed"] = missed
    for key, goal in {**GOALS, **GOALS_BF16}.items():
        low, high = report["spread"][key]
        print(f"{key:22}{report[key]:8.1f}  [{low:.1f}, {high:.1f}]  goal {goal}")
    print(json.dumps(report))
    return 1 if missed else 0


if __name__ == "__main__":
    run_main(main)
