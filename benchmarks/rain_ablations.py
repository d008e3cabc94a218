"""What RAIN's parts are worth, each left out at the same budget; and RAIN against best-of-N at equal tokens.

    python -m benchmarks.rain_ablations --run runs/ablations [--model sandbox] [--n 150] [--seed 30004]
        [--budget 50/15/6] [--most 64]

*No similarity*: a value counts for the node it was made for alone (the paper's gamma is 0). *No widening*: a node keeps
the children of its expansion. *c = 0*: selection without exploration. Each is paired with the full search by prompt.
The paper (arXiv 2309.07124) takes them out one on top of the other, which ends in *none of the three*.
*Equal tokens*: best-of-k is read off one best-of-N over all subsets of k candidates, for the k whose tokens come to
what RAIN fed or just above it; where N candidates cost less than RAIN, k is N and the line says that it had less. Last
stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.guide_drift import share
from benchmarks.mains import run_main
from benchmarks.sandbox_runs import (
    PAIR,
    Job,
    best_of,
    budget,
    candidates,
    carry_out,
    cell,
    finish,
    guide,
    outcome,
)
from inferalign.core.stats import Estimate, mean_interval, paired_proportions, proportion, proportion_less_mean

ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no similarity": {"sibling_credit": 0.0},
    "no widening": {"widen_limit": 0},
    "c = 0": {"exploration": 0.0},
    "none of the three": {"sibling_credit": 0.0, "widen_limit": 0, "exploration": 0.0},
}


def jobs(args: argparse.Namespace) -> dict[str, dict[str, Job]]:
    """The best-of-N that is read off (`most`), and RAIN without each of its parts, in each situation."""
    made: dict[str, dict[str, Job]] = {}
    for kind in args.situations.split(","):
        common = {"situation": kind, "n": args.n, "scorer": guide(kind)}
        made[kind] = {"most": Job(folder=args.run / kind / "most", procedure=f"best-of-n:{args.most}", **common)}
        for name, changed in ABLATIONS.items():
            folder = args.run / kind / name.replace(" ", "-").replace("=", "is")
            made[kind][name] = Job(folder=folder, procedure="rain", rain=budget(args.budget) | changed, **common)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=30004)
    parser.add_argument("--situations", default=",".join(PAIR))
    parser.add_argument("--budget", default="50/15/6")
    parser.add_argument("--most", type=int, default=64, help="candidates of the best-of-N that is read off")
    args = parser.parse_args()
    made = jobs(args)
    carry_out(args.run, [job for arms in made.values() for job in arms.values()], args.model, args.seed)
    facts = {kind: situation_facts(arms, args.most) for kind, arms in made.items()}
    for kind, told in facts.items():
        show(kind, told)
    finish({"n": args.n, "seed": args.seed, "budget": args.budget, "situations": facts}, args.model)


def situation_facts(arms: Mapping[str, Job], most: int) -> dict[str, Any]:
    found = {name: outcome(arms[name]) for name in ABLATIONS}
    full = found["full"]
    told: dict[str, Any] = {}
    for name, mine in found.items():
        told[name] = {
            "good_strict": asdict(proportion(list(mine.good.values()))),
            "guide": asdict(mean_interval(list(mine.belief.values()))),
            "tokens": fmean(mine.tokens.values()),
        }
        if name != "full":
            told[name]["minus_full"] = asdict(paired_proportions(mine.good, full.good))
    drawn = outcome(arms["most"])
    k = equal_k(fmean(full.tokens.values()), fmean(drawn.tokens.values()), most)
    rows = {i: row for i, row in candidates(arms["most"]).items() if any(s.value is not None for s in row)}
    truth = {i: best_of(row, k).good for i, row in rows.items()}
    tokens = fmean(drawn.tokens.values()) * k / most
    told["equal_tokens"] = {
        "k": k,
        "tokens": tokens,
        "as_many_as_rain": tokens >= fmean(full.tokens.values()),
        "good_strict": asdict(share(truth)),
        "rain_minus_best_of_k": asdict(less(full.good, truth)),
    }
    return told


def less(good: Mapping[str, bool], truth: Mapping[str, float]) -> Estimate:
    """What is yes or no of each prompt, less what may be a share of subsets there; paired where both are yes or no."""
    if set(truth.values()) <= {0, 1}:
        return paired_proportions(good, {i: value == 1 for i, value in truth.items()})
    return proportion_less_mean(good, truth)


def equal_k(tokens: float, tokens_of_most: float, most: int) -> int:
    """The smallest k whose share of best-of-`most`'s tokens comes to `tokens`; at most `most`.

    A share leaves out that the prompt is read once whatever k is, so that best-of-k is given a little too much.
    """
    return min(most, max(1, math.ceil(tokens / tokens_of_most * most)))


def show(situation: str, told: Mapping[str, Any]) -> None:
    table = Table("search", "without A, strict, %", "- full, points", "guide's mean, %", "tokens", title=situation)
    for name in ABLATIONS:
        fact = told[name]
        less = cell(fact["minus_full"]) if "minus_full" in fact else ""
        table.add_row(name, cell(fact["good_strict"]), less, cell(fact["guide"]), f"{fact['tokens']:.0f}")
    console, equal = Console(width=120), told["equal_tokens"]
    console.print(table)
    fewer = "" if equal["as_many_as_rain"] else ", fewer than RAIN's"
    console.print(
        f"best-of-{equal['k']} at {equal['tokens']:.0f} tokens{fewer}: {cell(equal['good_strict'])}; RAIN less that: "
        f"{cell(equal['rain_minus_best_of_k'])}"
    )


if __name__ == "__main__":
    run_main(main)
