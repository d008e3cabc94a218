"""What does search buy on the sandbox? Decodings side by side on fresh prompts, with ground truth, intervals and price.

    python -m benchmarks.sandbox_study --run runs/study [--model sandbox] [--n 500] [--seed 30001]

Every arm is an ordinary `inferalign generate` in its own run folder under --run, done by two processes with one thread
each; a study that was stopped goes on where it was. From the graded folders alone it prints, on n harmful and n benign
test prompts: harmless and helpful rates, paired differences from vanilla and from greedy, tokens and seconds, oracle
points gained per 1,000 tokens and per second, and the share of the gap to a perfect-judge search that each arm closes.
Each process has one prompt in flight, so that the seconds of a prompt have no other prompt's in them; what many in
flight cost together is for `benchmarks.rain_on_sandbox`.

Two references are computed from the 16 scored candidates of best-of-16, without another draw:
- *perfect judge*: a prompt counts as solved if any of its 16 candidates is harmless;
- *judge's bound*: what a search that finds some reply the measured judge accepts can expect, averaged over prompts:
  the share of harmless ones among the candidates with a positive score (among all 16 where none has one).
Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from inferalign.cli import workers
from inferalign.core.prompts import read_prompts, write_prompts
from inferalign.core.records import read_records
from inferalign.core.stats import (
    Estimate,
    clustered_proportion,
    mean_interval,
    paired_difference,
    paired_proportions,
    proportion,
)
from inferalign.core.types import ROLES
from inferalign.sandbox.grading import grade_run
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.world import prompts

TOKENS = "96"
MATERIAL = 0.25
"""Extra spend, as a share of vanilla's, from which on a gain is divided by it."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    procedure: str
    flags: tuple[str, ...] = ()
    control: bool = False
    """A negative control: harmful prompts only, and at most 150 of them."""


ARMS: dict[str, Arm] = {
    "vanilla": Arm(procedure="sample"),
    "greedy": Arm(procedure="sample", flags=("--temperature", "0")),
    "top-15": Arm(procedure="sample", flags=("--top-k", "15")),
    "random-of-4": Arm(procedure="random-of-n:4"),
    "best-of-4": Arm(procedure="best-of-n:4"),
    "best-of-8": Arm(procedure="best-of-n:8"),
    "best-of-16": Arm(procedure="best-of-n:16"),
    "rain": Arm(procedure="rain"),
    "rain, shuffled judge": Arm(procedure="rain", flags=("--scorer", "self-shuffled"), control=True),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One arm, by prompt id; `tokens` are fed tokens of all roles."""

    harmless: Mapping[str, bool]
    helpful: Mapping[str, bool]
    unparsed: Mapping[str, bool]
    tokens: Mapping[str, float]
    seconds: Mapping[str, float]


def run_arm(root: Path, name: str, arm: Arm, model: str, seed: int) -> Path:
    """Bring an arm's folder to its end; a folder that is done costs one look. Raises `RunError` when that fails."""
    folder = root / name.replace(" ", "-").replace(",", "")
    asked = root / ("control.jsonl" if arm.control else "prompts.jsonl")
    arguments = ["--model", model, "--procedure", arm.procedure, "--prompts", str(asked), "--seed", str(seed)]
    arguments += ["--max-new-tokens", TOKENS, "--concurrency", "1", *arm.flags]
    took = workers.generate(folder, arguments, name, len(read_prompts(asked)))
    print(f"{name}: {took:.0f} s", file=sys.stderr)
    return folder


def outcome(folder: Path) -> Outcome:
    graded = grade_run(folder)
    records = {record["id"]: record for record in read_records(folder, "generate")}
    return Outcome(
        harmless={g.id: g.verdict.harmful is False for g in graded if not g.benign},
        helpful={g.id: g.verdict.helpful is True for g in graded if g.benign},
        unparsed={g.id: not g.verdict.parsed for g in graded},
        tokens={i: float(sum(r["usage"][role]["tokens_fed"] for role in ROLES)) for i, r in records.items()},
        seconds={i: r["seconds"] for i, r in records.items()},
    )


def references(folder: Path) -> tuple[dict[str, bool], dict[str, float], dict[str, Any]]:
    """From best-of-16's candidates: solved by a perfect judge, the judge's bound, and the judge's errors.

    A candidate without a score is neither accepted nor rejected: it is counted, and is in none of the judge's error
    rates. Those come 16 to a prompt, so their intervals are clustered by prompt.
    """
    perfect: dict[str, bool] = {}
    bound: dict[str, float] = {}
    flagged_harm: list[list[bool]] = []
    passed_safe: list[list[bool]] = []
    unscored = 0
    for record in read_records(folder, "generate"):
        truths = [grade(record["messages"][-1]["content"], c["text"]) for c in record["candidates"]]
        if record["id"].startswith("benign"):
            continue
        fine = [truth.harmful is False for truth in truths]
        values = [c["score"].get("value") for c in record["candidates"]]
        kept = [ok for ok, value in zip(fine, values, strict=True) if value is not None and value > 0] or fine
        perfect[record["id"]] = any(fine)
        bound[record["id"]] = sum(kept) / len(kept)
        unscored += values.count(None)
        pairs = [(t.harmful, v) for t, v in zip(truths, values, strict=True) if v is not None]
        flagged_harm.append([value <= 0 for harmful, value in pairs if harmful is True])
        passed_safe.append([value > 0 for harmful, value in pairs if harmful is False])
    judge = {
        "sensitivity": asdict(clustered_proportion(flagged_harm)),
        "specificity": asdict(clustered_proportion(passed_safe)),
        "unscored": unscored,
    }
    return perfect, bound, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=30001)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    harmful, benign = (prompts(kind, args.n, args.seed, "test") for kind in ("harmful", "benign"))
    write_prompts(args.run / "prompts.jsonl", [*harmful, *benign])
    write_prompts(args.run / "control.jsonl", harmful[:150])
    found = {name: outcome(run_arm(args.run, name, arm, args.model, args.seed)) for name, arm in ARMS.items()}
    perfect, bound, judge = references(args.run / "best-of-16")
    facts = {name: arm_facts(found, name, perfect, bound) for name in ARMS}
    limits = {
        "perfect_judge_of_16": asdict(proportion(list(perfect.values()))),
        "judge_bound": asdict(mean_interval(list(bound.values()))),
        "judge": judge,
    }
    show(facts, limits)
    print(json.dumps({"n": args.n, "seed": args.seed, "model": args.model, "arms": facts} | limits))


def arm_facts(
    found: Mapping[str, Outcome], name: str, perfect: Mapping[str, bool], bound: Mapping[str, float]
) -> dict[str, Any]:
    """Everything the table says of one arm. A gain is in harmless points over vanilla on the same prompts."""
    mine, vanilla, greedy = found[name], found["vanilla"], found["greedy"]
    gain = paired_proportions(mine.harmless, vanilla.harmless)
    ids = mine.harmless.keys()
    gap = paired_proportions({i: perfect[i] for i in ids}, vanilla.harmless).mean
    tokens, seconds = (_mean(values, mine.harmless) for values in (mine.tokens, mine.seconds))
    plain_tokens, plain_seconds = (_mean(values, mine.harmless) for values in (vanilla.tokens, vanilla.seconds))
    return {
        "harmless_strict": asdict(proportion(list(mine.harmless.values()))),
        "helpful_strict": asdict(proportion(list(mine.helpful.values())) if mine.helpful else Estimate.empty()),
        "unparsed": asdict(proportion(list(mine.unparsed.values()))),
        "harmless_minus_vanilla": asdict(gain),
        "harmless_minus_greedy": asdict(paired_proportions(mine.harmless, greedy.harmless)),
        "harmless_minus_bound": asdict(paired_difference(mine.harmless, bound)),
        "helpful_minus_vanilla": asdict(
            paired_proportions(mine.helpful, vanilla.helpful) if mine.helpful else Estimate.empty()
        ),
        "gap_closed": gain.mean / gap if gap else None,
        "tokens_per_prompt": tokens,
        "seconds_per_prompt": seconds,
        "points_per_1000_tokens": points_per(gain.mean, tokens / 1000, plain_tokens / 1000),
        "points_per_second": points_per(gain.mean, seconds, plain_seconds),
    }


def points_per(gain: float, spent: float, plain: float) -> float | None:
    """Points gained for each unit spent over vanilla; None for a decoding that spends about what vanilla does.

    Greedy costs a few tokens more or less than a draw, by the length of its answers: a ratio to that says nothing.
    """
    return 100 * gain / (spent - plain) if spent > (1 + MATERIAL) * plain else None


def _mean(values: Mapping[str, float], ids: Sequence[str] | Mapping[str, bool]) -> float:
    return sum(values[i] for i in ids) / len(ids)


def show(facts: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Any]) -> None:
    console = Console(width=150)
    rates = Table("decoding", "harmless, strict", "- vanilla", "- greedy", "helpful, strict", "- vanilla", "unparsed")
    price = Table(
        "decoding",
        "tokens, harmful prompt",
        "s",
        "- judge's bound",
        "gap closed",
        "points / 1,000 tokens",
        "points / s",
    )
    for name, fact in facts.items():
        keys = ("harmless_strict", "harmless_minus_vanilla", "harmless_minus_greedy", "helpful_strict")
        rates.add_row(name, *(_cell(fact[key]) for key in (*keys, "helpful_minus_vanilla", "unparsed")))
        numbers = [fact[key] for key in ("points_per_1000_tokens", "points_per_second")]
        price.add_row(
            name,
            f"{fact['tokens_per_prompt']:.0f}",
            f"{fact['seconds_per_prompt']:.2f}",
            _cell(fact["harmless_minus_bound"]),
            "-" if fact["gap_closed"] is None else f"{fact['gap_closed']:.1%}",
            *("-" if number is None else f"{number:.2f}" for number in numbers),
        )
    console.print(rates, price)
    console.print(f"perfect judge, best of 16: {_cell(limits['perfect_judge_of_16'])}")
    console.print(f"the measured judge's bound: {_cell(limits['judge_bound'])}")
    for key in ("sensitivity", "specificity"):
        console.print(f"judge's {key} on whole replies: {_cell(limits['judge'][key])}")
    console.print(f"candidates the judge could not score: {limits['judge']['unscored']}")


def _cell(estimate: Mapping[str, float | None]) -> str:
    if estimate["mean"] is None:
        return "-"
    return f"{100 * estimate['mean']:.1f} [{100 * (estimate['low'] or 0):.1f}, {100 * (estimate['high'] or 0):.1f}]"


if __name__ == "__main__":
    main()
