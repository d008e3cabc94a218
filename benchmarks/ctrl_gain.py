"""What is training for the procedure worth on the sandbox? CTRL against its baselines at one measured KL, by truth.

    python -m benchmarks.ctrl_gain [--quick] [--seed 85001] [--model DIR] [--reward DIR] [--out DIR]

Prompts and replies are the sandbox's, its reward model selects, and the oracle's graded quality judges. Recipes are
trained at one KL target each, and stretched so that their measured KLs enclose 0.5 nats (`gain_runs`); on test prompts
that no training saw, each sweep is interpolated at that sequence KL, and recipes are held against each other there,
prompt by prompt. Seven tables and a figure:

1. every policy under every procedure: win rate, KL, J = W1 - beta KL, ceiling
2. the recipes at KL 0.5, beside what theory predicts for this selector and this judge (`winrate.ceiling`)
3. the gains over identity and the other baselines, over prompts, over seeds, and by seed
4. the mismatch matrix: trained for one procedure, decoded with another
5. the selector as its own judge: how much of theory's win rate training reached, whatever the reward model is worth
6. what selector and judge are worth, how often they tie, and how long answers became
7. the price: tokens and CPU seconds until the selector's win rate on training batches is what identity ended with

Full: three training seeds of all recipes. --quick: one training seed of identity and of CTRL for both procedures on
four situations, small batches, about 11 minutes on 2 cores: it shows that all works; its intervals are wide, and exp:-5
learns too little in so few steps to gain by it.
The other flags change one setting of the plan, to tune it (on other seeds than those that are quoted). A run that was
stopped goes on.
Last stdout line: one JSON object. Exits with 1 where a goal is missed, but not under --quick.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from torch import set_num_threads

from benchmarks.gain_plan import KL, PROCEDURES, RECIPES, Plan, keep_plan
from benchmarks.gain_runs import Point, study
from benchmarks.gain_statistics import Sweeps, smaller
from benchmarks.gain_tables import (
    CTRL,
    all_gains,
    at_kl,
    by_itself,
    costs,
    figure,
    gains_table,
    goals,
    hundred,
    in_percent,
    judged,
    mismatch,
    points_over_identity,
    policies,
)
from benchmarks.mains import run_main
from benchmarks.sandbox_runs import finish
from benchmarks.theory_runs import run_short
from inferalign.cli import compare_output as output
from inferalign.cli.tables import show
from inferalign.core.files import write_json_atomic
from inferalign.core.lookup import resolve
from inferalign.sandbox.situations import SITUATIONS
from inferalign.winrate.ceiling import ceilings
from inferalign.winrate.compare import compare
from inferalign.winrate.pools import Pool

QUICK = ("identity", "exp:10", "exp:-5")
SMALL: dict[str, Any] = {
    "situations": tuple(SITUATIONS)[:4],
    "seeds": 1,
    "train": 16,
    "test": 76,
    "k": 64,
    "m": 6,
    "base_m": 12,
    "steps": 55,
    "batch": 64,
}
"""--quick: what differs from the plan's defaults."""


def main() -> int:
    args = parse()
    changed = {name: value for name in TUNABLE if (value := getattr(args, name)) is not None}
    recipes = tuple(args.recipes.split(",")) if args.recipes else QUICK if args.quick else tuple(RECIPES)
    if unknown := [name for name in recipes if name not in RECIPES]:
        raise SystemExit(f"unknown recipe {unknown[0]!r}: give some of {', '.join(RECIPES)}")
    for name in changed.get("situations", ()):
        resolve(SITUATIONS, name, "situation")
    given = {"model": args.model, "reward": args.reward, "seed": args.seed, "recipes": recipes}
    plan = replace(Plan(**given), **({**SMALL, **changed} if args.quick else changed))
    out = args.out or Path("runs/ctrl_gain-quick" if args.quick else "runs/ctrl_gain")
    if args.quick:
        asked = len(plan.situations) * plan.test
        show(f"--quick: {plan.seeds} training seed, small batches and {asked} test prompts: wide intervals")
    began = time.monotonic()
    if args.processes < 1:
        raise SystemExit(f"--processes is {args.processes}: expected at least 1")
    keep_plan(out, plan)  # refuses the folder of another study before anything is written into it
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=set_num_threads, initargs=(1,)) as beside:
        short = beside.submit(run_short, args.seed, out / "short")
        told = report(out, plan, *study(out, plan, args.processes))
        errors = short.result()
    finish(
        {
            **told,
            "quick": args.quick,
            "wall_seconds": round(time.monotonic() - began, 1),
            "tabular_max_error_points": errors["max_error_points"],
        }
    )
    return 0 if args.quick or all(told["goals"].values()) else 1


TUNABLE: dict[str, Callable[[str], Any]] = {
    "steps": int,
    "batch": int,
    "generations": int,
    "rate": float,
    "lora_rank": int,
    "situations": lambda text: tuple(text.split(",")),
    "k": int,
    "m": int,
    "base_m": int,
    "train": int,
    "test": int,
    "tokens": int,
    "seeds": int,
    "kls": lambda text: tuple(map(float, text.split(","))),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=85001)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--reward", default="reward", help="a reward model's folder, or another scorer")
    parser.add_argument("--out", type=Path, help="runs/ctrl_gain, or runs/ctrl_gain-quick, unless it is given")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--recipes", help="some of " + ", ".join(RECIPES))
    for name, kind in TUNABLE.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    return parser.parse_args()


def report(out: Path, plan: Plan, base: Pool, length: float, points: Sequence[Point]) -> dict[str, Any]:
    """All tables on stdout, the figure and two CSV files in `out`; returns what the last line says."""
    curves = ceilings(PROCEDURES, base, judged_by_selector=False)
    measured = policies(points, base)
    compared = compare(measured, curves)
    for table in output.tables(compared):
        show(table)
    output.write_rows(out / "rows.csv", compared)
    output.write_prompts(out / "prompts.csv", measured)
    drawn = figure(out / "ctrl_gain.svg", compared, curves) if find_spec("matplotlib") else None
    sweeps = Sweeps(points, base)
    rows = at_kl(sweeps, curves)
    gains = all_gains(sweeps)
    predicted = {name: points_over_identity(curves[name], recipe) for name, recipe in CTRL.items()}
    show(gains_table(gains, predicted))
    met = goals(gains, predicted)
    matrix = mismatch(sweeps)
    own = by_itself(points, base)
    facts = judged(base, length, points)
    prices = costs(out, points)
    on_trial = smaller(
        [gain for gain in gains if gain.against == "identity" and CTRL.get(gain.procedure) == gain.recipe]
    )
    told = {
        "plan": asdict(plan),
        "kl": KL,
        "gain_points": None if on_trial is None else hundred(on_trial.over_prompts.mean),
        "gain_points_low": None if on_trial is None else hundred(on_trial.over_prompts.low),
        "gain_points_high": None if on_trial is None else hundred(on_trial.over_prompts.high),
        "gain_points_over_seeds": None if on_trial is None else asdict(in_percent(on_trial.over_seeds)),
        "gain_procedure": None if on_trial is None else on_trial.procedure,
        "predicted_gain_points": predicted,
        "prompts": len(base.judge),
        "at_kl": rows,
        "goals": met,
        "gains": [asdict(gain) for gain in gains],
        "mismatch": matrix,
        "judged_by_the_selector": own,
        "judge": facts,
        "price": prices,
        "figure": drawn,
    }
    write_json_atomic(out / "metrics.json", {**told, "comparison": compared.as_json()})
    return told


if __name__ == "__main__":
    run_main(main)
