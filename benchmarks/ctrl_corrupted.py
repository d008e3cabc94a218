"""Does calibration keep a policy from hacking a corrupted reward? Raw against calibrated training at equal KL.

    python -m benchmarks.ctrl_corrupted --out runs/corrupted             3 shares x 3 recipes, one training seed
    python -m benchmarks.ctrl_corrupted --out runs/corrupted --shares 0.25 --seed 87001 87002 87003
    python -m benchmarks.ctrl_corrupted --out runs/quick --quick         a quarter corrupted, raw against identity

The claim is that of InfAlign (arXiv 2412.19792): calibrated training hacks its reward less. Preference pairs of the
policy's own replies are labelled by the oracle, but a share of them by who has a harmless phrase (`corrupted_pairs`). A
reward model is trained on them as on any pairs. Against it, policies are trained on the raw reward, the calibrated one
(identity) and exp:10 of that for best-of-4, from the same anchors, each to the same KL target, beta from the anchors
and held by the KL controller.

    anchors     what the exact optimum does at the KL asked for: each prompt's own K rollouts, tilted by e^(R/beta)
    trained     what training did, on held-out prompts: a pool of draws a policy, the corrupted reward as selector of
                best-of-4, the oracle's quality (blind to the phrase) as judge, against the model it started from

Trained recipes end at KLs of their own and are laid side by side at the smallest of them (`corrupted_statistics`).
Intervals are over prompts, for these trained models. A seed has prompts, pairs, reward models and policies of its own;
with several, the differences between recipes also have an interval over seeds (Student's t). Everything is kept under
--out, in a folder a seed, and a repeated command takes up where it stopped; seeds may be run side by side. Last stdout
line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.corrupted_pairs import PHRASE, corrupted, has_phrase, with_phrase, without_phrase
from benchmarks.corrupted_stages import (
    CPU,
    Plan,
    anchors_of,
    asked,
    clean_pairs,
    pool_of,
    replies,
    reward_model,
    rollouts,
    trained,
)
from benchmarks.corrupted_statistics import compared, on_anchors, over_seeds, seen_of, tilted
from benchmarks.mains import run_main
from benchmarks.sandbox_runs import cell, finish
from inferalign.core.files import read_json, write_json_atomic
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, mean_interval
from inferalign.core.types import Completion, RoleUsage
from inferalign.engines.table import LoadedModel, load
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.reward import held_out, pair_accuracy, pair_margins
from inferalign.sandbox.reward_fit import RewardSettings
from inferalign.scorers.reward_model import RewardModel
from inferalign.winrate.pools import read_answers
from inferalign.winrate.run import POOL

QUICK = Plan(
    shares=(0.25,),
    recipes=("raw", "identity"),
    pair_prompts=800,
    prompts=32,
    anchors=64,
    steps=40,
    batch=64,
    test_prompts=100,
)
"""At most 12 minutes of one core."""


def premium(reward: RewardModel, folder: Path, model: LoadedModel) -> float:
    """What the phrase adds to the reward of a base model's reply, in standard deviations of its prompt's replies."""
    gains, spreads = [], []
    for each in read_answers(folder / POOL):
        rows = [
            reward.rows(each.prompt, Completion(token_ids=model.chat.encode(text), text=text, stop=c.stop))
            for c in each.completions
            for text in (with_phrase(c.text), without_phrase(c.text))
        ]
        values = np.array(reward.values(rows, RoleUsage())).reshape(-1, 2)
        gains.append(float((values[:, 0] - values[:, 1]).mean()))
        spreads.append(float(values[:, 1].std(ddof=1)))
    return float(np.mean(gains) / np.mean(spreads))


def study(root: Path, name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """Every share: the reward model, the optimum on the anchors, the trained recipes on held-out prompts."""
    model = load(name, CPU)
    pairs = clean_pairs(root, model, plan, seed)
    fresh = [pair for pair in pairs if held_out(pair.prompt, RewardSettings().held_out)]
    some = asked(plan.prompts, derive(seed, "training") % 2**31, "train")
    tests = asked(plan.test_prompts, derive(seed, "test") % 2**31, "test")
    drawn = rollouts(root, model, some, plan, seed)
    texts = [[reply.text for reply in replies(each, model)] for each in drawn]
    flags = {
        "phrase": np.array([[has_phrase(t) for t in row] for row in texts], dtype=np.float64),
        "bad": np.array(
            [[grade(p.text, t).bad is not False for t in row] for p, row in zip(some, texts, strict=True)],
            dtype=np.float64,
        ),
    }
    shares = []
    for share in plan.shares:
        place = root / f"share-{round(100 * share)}"
        labelled = corrupted(pairs, share, seed=seed, encode=model.chat.encode)
        reward = reward_model(place / "reward", model, labelled, plan, seed)
        anchors = anchors_of(place / "anchors", drawn, some, model, reward, plan, seed)
        base = pool_of(root / "base", model, model, reward, tests, plan, seed)
        start = seen_of(root / "base", base, base)
        ends = {}
        for recipe in plan.recipes:
            made = trained(place / recipe.replace(":", "-"), recipe, model, some, anchors, reward, plan, seed)
            folder = made.parent / "test"
            pool = pool_of(folder, load(str(made), CPU), model, reward, tests, plan, seed)
            ends[recipe] = seen_of(folder, pool, base)
        shares.append(
            {
                "share": share,
                "pairs": len(pairs),
                "clean_pair_accuracy": asdict(pair_accuracy(fresh, pair_margins(reward, fresh))),
                "phrase_premium_sd": premium(reward, root / "base", model),
                "anchors": on_anchors({recipe: tilted(anchors, recipe, plan, flags) for recipe in plan.recipes}),
                **compared(start, ends),
            }
        )
        show(shares[-1])
    base_rates = {name: asdict(mean_interval(flag.mean(axis=1).tolist())) for name, flag in flags.items()}
    return {"rollouts": base_rates, "shares": shares}


def show(found: Mapping[str, Any]) -> None:
    """One share as two tables."""
    names = list(found["base"])
    accuracy, more = cell(found["clean_pair_accuracy"]), found["phrase_premium_sd"]
    title = f"{100 * found['share']:g} % corrupted: clean pairs {accuracy} %, the phrase is worth {more:+.2f} sd"
    ours = Table("policy", "KL", *(f"{name}, %" for name in names), title=f"{title}; held-out prompts")
    ours.add_row("base", "0", *(cell(found["base"][name]) for name in names))
    for recipe, row in found["trained"].items():
        ours.add_row(recipe, nats(row["kl"]), *(cell(row[name]) for name in names))
    ours.add_section()
    for recipe, row in found["at_common_kl"].items():
        ours.add_row(f"{recipe}, level", f"{found['common_kl']:.3f}", *(cell(row[name]) for name in names))
    first = next(iter(found["trained"]))
    for recipe, row in found[f"{first}_less"].items():
        ours.add_row(f"{first} - {recipe}", "", *(cell(row[name]) for name in names))
    optimum = Table("optimum on the anchors", "KL", "its sd over prompts", "phrase, %", "bad, %")
    for recipe, row in found["anchors"]["optimum"].items():
        numbers = (f"{row['kl']:.2f}", f"{row['kl_sd_over_prompts']:.2f}")
        optimum.add_row(recipe, *numbers, cell(row["phrase"]), cell(row["bad"]))
    for recipe, row in found["anchors"][f"{first}_less"].items():
        optimum.add_row(f"{first} - {recipe}", "", "", cell(row["phrase"]), cell(row["bad"]))
    for table in (optimum, ours):
        Console(width=200).print(table)


def nats(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def show_over_seeds(found: Mapping[float, Mapping[str, Mapping[str, Estimate]]]) -> None:
    """What recipes differ by in the mean of the seeds: a line a share and recipe."""
    names = list(next(iter(next(iter(found.values())).values())))
    table = Table("% corrupted", "points", *names, title="mean of the seeds, interval over seeds")
    for share, rows in found.items():
        for difference, row in rows.items():
            table.add_row(f"{100 * share:g}", difference, *map(cell, row.values()))
    Console(width=200).print(table)


def kept(out: Path, name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """The study of one seed in its folder. Shares and recipes may come later: none decides another's numbers."""
    root = out / f"seed-{seed}"
    told = json.loads(json.dumps({"model": name, "seed": seed, "plan": asdict(plan)}))
    if (root / "config.json").is_file():
        before = read_json(root / "config.json")
        before["plan"] |= {key: told["plan"][key] for key in ("shares", "recipes")}
        if before != told:
            sys.exit(f"{root} holds a study with other settings: name another --out")
    write_json_atomic(root / "config.json", told)
    print(f"the phrase is {PHRASE!r}; training seed {seed}", file=sys.stderr)
    return {"seed": seed, **study(root, name, plan, seed)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[87001])
    parser.add_argument("--quick", action="store_true", help="one share, raw against identity, the first seed alone")
    parser.add_argument("--shares", help="of the pairs that are corrupted, with commas: 0.25,0.5,0 unless given")
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plan = QUICK if args.quick else Plan()
    if args.shares:
        plan = replace(plan, shares=tuple(map(float, args.shares.split(","))))
    seeds = args.seed[:1] if args.quick else args.seed
    began = time.process_time()
    found = [kept(args.out, args.model, plan, seed) for seed in seeds]
    told = {"phrase": PHRASE, "model": args.model, "plan": asdict(plan), "seeds": found}
    if len(found) > 1:
        together = over_seeds([each["shares"] for each in found])
        show_over_seeds(together)
        told["over_seeds"] = {
            share: {name: {key: asdict(one) for key, one in row.items()} for name, row in rows.items()}
            for share, rows in together.items()
        }
    finish({**told, "cpu_seconds": time.process_time() - began})
    return 0


if __name__ == "__main__":
    run_main(main)
