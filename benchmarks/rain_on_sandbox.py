"""What RAIN costs and buys on the sandbox, against plain decoding and against best-of-N, with ground truth.

    python -m benchmarks.rain_on_sandbox [--n 250] [--seed 50021] [--in-flight 16] [--quick]

Two tables, one process, one thread, prompts of a seed of their own:

1. *Time.* CPU seconds of an answer token, in alternating rounds over the same prompts: vanilla by `model.generate` with
   a KV cache (left-padded batches of the same size), vanilla by our engine, and RAIN with its early stops, with the
   whole budget spent (stop value out of reach), and at a small budget, all with so many prompts in flight.
2. *What the user buys.* Oracle points (per cent of harmful prompts answered harmlessly, an unparsed reply being a
   failure) for greedy, best-of-N and RAIN at three budgets, with tokens fed and CPU seconds a prompt, and the points
   that each gains over vanilla by 1,000 tokens and by a CPU second.

Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.mains import run_main
from inferalign import api
from inferalign.core.stats import Estimate, paired_proportions
from inferalign.core.types import Prompt, Result
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain_settings import DEFAULT, RainSettings
from inferalign.sandbox.grading import Graded, grade_reply, summarise
from inferalign.sandbox.world import prompts

TOKENS = 96
SMALL = replace(DEFAULT, max_iterations=8, extra_iterations=3, min_visits=2)
MIDDLE = replace(DEFAULT, max_iterations=16, extra_iterations=6, min_visits=4)
WHOLE = replace(DEFAULT, stop_value=1.0)


@dataclass(frozen=True, kw_only=True)
class Arm:
    procedure: str
    temperature: float = 1.0
    rain: RainSettings | None = None


ARMS: dict[str, Arm] = {
    "vanilla": Arm(procedure="sample"),
    "greedy": Arm(procedure="sample", temperature=0.0),
    "best-of-4": Arm(procedure="best-of-n:4"),
    "best-of-8": Arm(procedure="best-of-n:8"),
    "best-of-16": Arm(procedure="best-of-n:16"),
    "best-of-32": Arm(procedure="best-of-n:32"),
    "rain, 8/3, 2 visits": Arm(procedure="rain", rain=SMALL),
    "rain, 16/6, 4 visits": Arm(procedure="rain", rain=MIDDLE),
    "rain, 50/15, 6 visits": Arm(procedure="rain", rain=DEFAULT),
}


@dataclass(frozen=True, kw_only=True)
class Bought:
    """One arm on all prompts."""

    graded: Sequence[Graded]
    tokens: float
    """Fed a harmful prompt, by all roles."""
    cpu: float
    """Seconds a prompt, harmful and benign together."""


def run(model: LoadedModel, arm: Arm, asked: Sequence[Prompt], seed: int, in_flight: int) -> tuple[list[Result], float]:
    """Results, and CPU seconds in all."""
    sampling = Sampling(max_new_tokens=TOKENS, temperature=arm.temperature)
    started = time.process_time()
    results = api.generate(
        model, arm.procedure, asked, seed=seed, sampling=sampling, rain=arm.rain, concurrency=in_flight
    )
    return results, time.process_time() - started


def fed(result: Result) -> int:
    return sum(role.tokens_fed for role in (result.usage.generator, result.usage.evaluator, result.usage.embedder))


def buy(model: LoadedModel, arm: Arm, asked: Sequence[Prompt], seed: int, in_flight: int) -> Bought:
    results, cpu = run(model, arm, asked, seed, in_flight)
    harmful = [result for result in results if result.prompt.id.startswith("harmful")]
    return Bought(
        graded=[grade_reply(r.prompt.id, r.prompt.text, r.response.text) for r in results],
        tokens=statistics.mean(fed(result) for result in harmful),
        cpu=cpu / len(results),
    )


class Generate:
    """Vanilla by transformers alone: batches of left-padded prompts, sampled at temperature 1 with a KV cache."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def run(self, ids: Sequence[Sequence[int]], batch: int) -> tuple[int, float]:
        """Answer tokens, and CPU seconds."""
        started, tokens = time.process_time(), 0
        torch.manual_seed(0)
        for first in range(0, len(ids), batch):
            inputs = self.tokenizer.pad(
                {"input_ids": [list(prompt) for prompt in ids[first : first + batch]]}, return_tensors="pt"
            )
            with torch.inference_mode():
                whole = self.model.generate(
                    **inputs,
                    do_sample=True,
                    top_k=0,
                    top_p=1.0,
                    temperature=1.0,
                    max_new_tokens=TOKENS,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            answers = whole[:, inputs["input_ids"].shape[1] :].tolist()
            tokens += sum(answer.index(self.end) if self.end in answer else len(answer) for answer in answers)
        return tokens, time.process_time() - started

    @property
    def end(self) -> int:
        return int(self.tokenizer.eos_token_id)


def time_table(
    model: LoadedModel, folder: Path, asked: Sequence[Prompt], in_flight: int, rounds: int
) -> dict[str, Any]:
    """CPU milliseconds of an answer token, by side."""
    plain = Generate(folder)
    ids = [model.chat.prompt_ids(prompt) for prompt in asked]
    sides: dict[str, Callable[[int], tuple[int, float]]] = {
        "vanilla, model.generate": lambda seed: plain.run(ids, in_flight),
        "vanilla, our engine": lambda seed: _answered(model, ARMS["vanilla"], asked, seed, in_flight),
        "rain, early stops": lambda seed: _answered(model, ARMS["rain, 50/15, 6 visits"], asked, seed, in_flight),
        "rain, 8/3, early stops": lambda seed: _answered(model, ARMS["rain, 8/3, 2 visits"], asked, seed, in_flight),
        "rain, whole budget": lambda seed: _answered(model, Arm(procedure="rain", rain=WHOLE), asked, seed, in_flight),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            tokens, cpu = side(1000 + number)
            found[name].append(cpu / tokens * 1e3)
    plainly, ours = (
        {
            name: statistics.median(a / b for a, b in zip(values, found[base], strict=True))
            for name, values in found.items()
        }
        for base in ("vanilla, model.generate", "vanilla, our engine")
    )
    print(
        f"{'CPU ms an answer token':28}{'median':>10}{'least':>10}{'most':>10}{'x generate':>12}{'x our vanilla':>15}"
    )
    for name, values in found.items():
        print(
            f"{name:28}{statistics.median(values):10.3f}{min(values):10.3f}{max(values):10.3f}"
            f"{plainly[name]:12.1f}{ours[name]:15.1f}"
        )
    return {
        "cpu_ms_per_token": {name: statistics.median(values) for name, values in found.items()},
        "ratio_to_generate": plainly,
        "ratio_to_our_vanilla": ours,
    }


def _answered(model: LoadedModel, arm: Arm, asked: Sequence[Prompt], seed: int, in_flight: int) -> tuple[int, float]:
    results, cpu = run(model, arm, asked, seed, in_flight)
    return sum(len(result.response.token_ids) for result in results), cpu


def buying_table(bought: Mapping[str, Bought]) -> dict[str, Any]:
    """Points over vanilla, and what each 1,000 tokens and each CPU second of them bought."""
    plain = bought["vanilla"]
    facts: dict[str, Any] = {}
    print(
        f"\n{'':24}{'harmless, strict %':>24}{'helpful %':>11}{'tokens':>8}{'CPU ms':>8}{'gain':>20}{'per 1k tok':>12}"
        f"{'per CPU s':>11}"
    )
    for name, arm in bought.items():
        harmful = [g for g in arm.graded if not g.benign]
        report = summarise(harmful)
        helpful = summarise([g for g in arm.graded if g.benign])
        base = {g.id: g.verdict.harmful is False for g in plain.graded if not g.benign}
        gain = paired_proportions({g.id: g.verdict.harmful is False for g in harmful}, base)
        points = (gain.mean or 0.0) * 100
        more, longer = (arm.tokens - plain.tokens) / 1000, arm.cpu - plain.cpu
        per_token = points / more if more > 0.25 * plain.tokens / 1000 else None
        per_second = points / longer if longer > 0.25 * plain.cpu else None
        facts[name] = {
            "harmless_strict": asdict(report.harmless_strict),
            "helpful_strict": asdict(helpful.helpful_strict),
            "tokens": arm.tokens,
            "cpu_s": arm.cpu,
            "gain": asdict(gain),
            "points_per_1000_tokens": per_token,
            "points_per_cpu_second": per_second,
        }
        print(
            f"{name:24}{_percent(report.harmless_strict):>24}{(helpful.helpful_strict.mean or 0) * 100:11.1f}"
            f"{arm.tokens:8.0f}{arm.cpu * 1e3:8.0f}{_percent(gain):>20}{_number(per_token):>12}"
            f"{_number(per_second):>11}"
        )
    return facts


def _percent(estimate: Estimate) -> str:
    if estimate.mean is None or estimate.low is None or estimate.high is None:
        return "none"
    return f"{estimate.mean * 100:.1f} [{estimate.low * 100:.1f}, {estimate.high * 100:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=250, help="harmful and as many benign prompts")
    parser.add_argument("--seed", type=int, default=50021)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="48 prompts of a kind and two rounds of timing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = 48 if arguments.quick else arguments.n
    model = load("sandbox", ModelOptions(device="cpu"))
    asked = prompts("harmful", count, arguments.seed) + prompts("benign", count, arguments.seed)
    few = asked[:count][: 2 * arguments.in_flight] + asked[count:][: 2 * arguments.in_flight]
    folder = Path(str(files("inferalign.sandbox"))) / "model"
    times = time_table(model, folder, few, arguments.in_flight, rounds=2 if arguments.quick else 5)
    bought = {name: buy(model, arm, asked, arguments.seed, arguments.in_flight) for name, arm in ARMS.items()}
    facts = buying_table(bought)
    report = {"benchmark": "rain_on_sandbox", "n": count, "seed": arguments.seed, "in_flight": arguments.in_flight}
    print(json.dumps({**report, **times, "bought": facts}))


if __name__ == "__main__":
    run_main(main)
