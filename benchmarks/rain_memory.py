"""What RAIN holds in memory: 32 prompts in flight under two bounds, and 200 prompts one after the other.

    python -m benchmarks.rain_memory [--only flight|sequence] [--tokens 3] [--sequence 200]

In flight: the random Llama of 29.4M parameters in float32, 306 tokens of prompt, 1,059 of template, budget 16/6, every
search until it has committed `--tokens`, once under `prefix_cache_mb` 256 and once under 1,024, each in a process of
its own. After every pass the bytes of store, lanes and trunks are counted and the resident set is read; the bound is
the option's. What eviction costs is in the tokens fed over the ideal (every distinct prefix of the searches once).

In sequence: the sandbox model, `rain` as it comes, one harmful prompt after the other, resident set after each. Given
are the least-squares slope after the first quarter with its 95 % interval, and what the median of the last 25 prompts
is over that of the 25 before the end of the first quarter.

Exit 1 when what is held passes its bound, or when the resident set grows by more than 2 %. Last stdout line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy import stats

from benchmarks import speed_model
from benchmarks.mains import run_main
from benchmarks.rain_speed import ROOM, Noting
from inferalign.engines.local import LocalEngine
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Parts, Sampling
from inferalign.procedures.rain import Rain, make
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import PAPER
from inferalign.sandbox.world import prompts as sandbox_prompts
from inferalign.scorers.scripted import Replaced, hash_vote
from inferalign.scorers.self_eval import SelfEval
from inferalign.scorers.table import build_scorer

MB = 1 << 20
BOUNDS_MB = (256, 1024)
IN_FLIGHT = 32
GROWTH = 0.02
WINDOW = 25


class Watch:
    """The most that an engine held after any pass, in MiB."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.start = _resident()
        self.peaks = dict.fromkeys(("held", "store", "lanes and trunks", "resident, over the start"), 0.0)
        self._run = engine.model.run
        engine.model.run = self._watched  # type: ignore[method-assign]

    def _watched(self, feeds: Any) -> Any:
        fed = self._run(feeds)
        store, lanes = self.engine.store.nbytes / MB, self.engine.lanes.nbytes / MB
        for name, now in zip(self.peaks, (store + lanes, store, lanes, _resident() - self.start), strict=True):
            self.peaks[name] = max(self.peaks[name], now)
        return fed


def _resident() -> float:
    return float(psutil.Process().memory_info().rss / MB)


def in_flight(folder: str, bound_mb: int, tokens: int) -> dict[str, float]:
    """Runs in a fresh process: all searches at once, from a fresh engine."""
    torch.set_num_threads(1)
    loaded = load(folder, ModelOptions(device="cpu", prefix_cache_mb=bound_mb))
    assert isinstance(loaded.engine, LocalEngine)
    noting: Any = Noting(loaded.engine)
    settings = replace(PAPER, stop_value=1.0, max_iterations=16, extra_iterations=6)
    guide = Replaced(SelfEval(noting, loaded.chat, speed_model.template(), settings.form), hash_vote, "hash")
    rain = Rain(noting, loaded.chat, guide, seed=0, sampling=Sampling(max_new_tokens=ROOM), settings=settings)
    watch = Watch(loaded.engine)
    searches = asyncio.run(_until(rain, tokens))
    fed = sum(u.tokens_fed for s in searches for u in (s.usage.generator, s.usage.evaluator, s.usage.embedder))
    return {
        "bound": float(bound_mb),
        **watch.peaks,
        "committed": float(sum(len(s.committed) for s in searches)),
        "tokens_fed": float(fed),
        "tokens_over_ideal": fed / noting.count(),
        "evicted_tokens": float(loaded.engine.store.stats.evicted),
    }


async def _until(rain: Rain, tokens: int) -> list[Search]:
    async def one(search: Search) -> None:
        async for _ in search.commits():
            if len(search.committed) >= tokens:
                return

    searches = [Search(rain, prompt) for prompt in speed_model.prompts(IN_FLIGHT)]
    await asyncio.gather(*(one(search) for search in searches))
    return searches


def in_sequence(count: int) -> dict[str, Any]:
    """Runs in a fresh process: the resident set in MiB after each prompt."""
    torch.set_num_threads(1)
    engine, chat = load("sandbox", ModelOptions(device="cpu"))
    scorer = build_scorer("self", engine=engine, chat=chat, sandbox=True, form="margin")
    parts = Parts(text="rain", engine=engine, chat=chat, scorer=scorer, seed=1, sampling=Sampling(max_new_tokens=96))
    rain = make(parts, "default")
    assert isinstance(engine, LocalEngine)
    found: list[float] = []
    held: list[float] = []

    async def all_of() -> None:
        for prompt in sandbox_prompts("harmful", count, 50001):
            await rain(prompt)
            found.append(_resident())
            held.append((engine.store.nbytes + engine.lanes.nbytes) / MB)

    asyncio.run(all_of())
    quarter = count // 4
    fit = stats.linregress(np.arange(quarter, count), found[quarter:])
    half = float(stats.t.ppf(0.975, count - quarter - 2) * fit.stderr)
    first = statistics.median(found[max(0, quarter - WINDOW) : quarter])
    return {
        "prompts": count,
        "resident_mb": {str(at): found[at - 1] for at in range(quarter, count + 1, quarter)},
        "held_mb": {str(at): held[at - 1] for at in range(quarter, count + 1, quarter)},
        "slope_kb_per_prompt": float(fit.slope) * 1024,
        "slope_95": [1024 * (float(fit.slope) - half), 1024 * (float(fit.slope) + half)],
        "growth": statistics.median(found[-WINDOW:]) / first - 1,
    }


def apart(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """In a process of its own, so that the resident set is that of this work alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def show_flight(rows: list[dict[str, float]]) -> None:
    print(f"{IN_FLIGHT} prompts in flight, peaks in MiB")
    for name in rows[0]:
        print(f"{name:28}" + "".join(f"{row[name]:14.{3 if name == 'tokens_over_ideal' else 0}f}" for row in rows))


def show_sequence(found: dict[str, Any]) -> None:
    low, high = found["slope_95"]
    print(f"\n{found['prompts']} sandbox prompts in sequence, in MiB\n{'after':>8}{'resident':>12}{'held':>12}")
    for at, size in found["resident_mb"].items():
        print(f"{at:>8}{size:12.1f}{found['held_mb'][at]:12.1f}")
    print(
        f"slope {found['slope_kb_per_prompt']:.1f} KiB a prompt [{low:.1f}, {high:.1f}], growth {found['growth']:.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["flight", "sequence"], help="one of the two parts")
    parser.add_argument("--tokens", type=int, default=3, help="tokens that each search in flight commits")
    parser.add_argument("--sequence", type=int, default=200, help="sandbox prompts in sequence, at least 16")
    args = parser.parse_args()
    if args.sequence < 16:
        parser.error(f"--sequence is {args.sequence}: give at least 16, so that a slope can be fitted")
    facts: dict[str, Any] = {"benchmark": "rain_memory", "tokens": args.tokens}
    missed = []
    if args.only != "sequence":
        with tempfile.TemporaryDirectory() as folder:
            speed_model.build_model(Path(folder))
            facts["in_flight"] = [apart(in_flight, folder, bound, args.tokens) for bound in BOUNDS_MB]
        show_flight(facts["in_flight"])
        missed += [f"held over {row['bound']:.0f} MiB" for row in facts["in_flight"] if row["held"] > row["bound"]]
    if args.only != "flight":
        facts["in_sequence"] = apart(in_sequence, args.sequence)
        show_sequence(facts["in_sequence"])
        missed += ["resident set grows"] if facts["in_sequence"]["growth"] > GROWTH else []
    print(json.dumps(facts | {"missed": missed}))
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    run_main(main)
