"""Makes the two differences that `inferalign demo` ends with, from a `ctrl_gain` study, and measures them.

    python -m benchmarks.ctrl_deltas --study runs/ctrl_gain [--out src/inferalign/sandbox/deltas] [--bytes 200000]

Of identity and of exp:10 it takes the first training seed's policy that ended nearest to a KL of 0.5, cuts its
difference to the base down to the bytes (`engines.deltas`; the study's low-rank trainings fit whole), and stretches
what is left to a KL of 0.5 on the training prompts, so that both stand at one KL; then it measures both on the test
prompts. Nothing is chosen by a win rate. Trainings that the study has not done are done. Repeat it after a stop.
Table: what the cut kept. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.gain_plan import BEST, KL, PROCEDURES, RECIPES, Plan, read_plan, tell
from benchmarks.gain_runs import IN_FLIGHT, Point, draw_base, make_point, point_folder, stretch_for
from benchmarks.gain_statistics import nearest
from benchmarks.gain_training import opened
from benchmarks.mains import run_main
from benchmarks.sandbox_runs import cell, finish
from inferalign import api
from inferalign.cli.tables import show
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, mean_interval, paired_difference
from inferalign.core.types import Prompt
from inferalign.engines.deltas import TENSORS, write_delta
from inferalign.engines.local import load_local
from inferalign.engines.table import LoadedModel, ModelOptions
from inferalign.sandbox.quality import QualityScorer
from inferalign.winrate.compare import Measured, Policy, measure
from inferalign.winrate.pools import Pool
from inferalign.winrate.run import POOL, judged_pool

MADE = {"identity": "identity", "exp:10": "best-of-4"}
"""The recipe, and what its difference is called."""
STRETCHES = 3
"""Corrections of the scale."""
STRETCH_DRAWS = 8
"""Answers a training prompt that a correction is measured on."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("runs/ctrl_gain"))
    parser.add_argument("--out", type=Path, default=Path("src/inferalign/sandbox/deltas"))
    parser.add_argument("--bytes", type=int, default=200_000)
    args = parser.parse_args()
    plan = read_plan(args.study)
    base, _ = draw_base(args.study, plan)
    table = Table("recipe", "bytes", "scale", "KL", f"win rate, {BEST}", "the whole difference: KL", "win rate")
    said, found = {}, {}
    for recipe, name in MADE.items():
        point = nearest([make_point(args.study, plan, recipe, kl, 0, 1.0) for kl in plan.targets(recipe)], recipe, 0)
        facts, found[recipe] = make(args.study, args.out / name, plan, point, base, args.bytes)
        said[name] = facts
        whole = measured(point.pool, base, recipe)
        size = (args.out / name / TENSORS).stat().st_size
        row = (facts["kl"], cell(facts["win_rate"]), f"{point.kl:.3f}", cell(estimate(whole)))
        table.add_row(recipe, f"{size:,}", f"{facts['scale']:.2f}", f"{row[0]:.3f}", *row[1:])
    gain = paired_difference(found["exp:10"].wins[BEST], found["identity"].wins[BEST])
    show(table)
    show(f"exp:10 less identity, both cut and stretched, under {BEST}: {cell(gain)} points")
    finish({"study": str(args.study), "deltas": said, "gain": asdict(gain)})
    return 0


def make(
    study_folder: Path, out: Path, plan: Plan, point: Point, base: Pool, most_bytes: int
) -> tuple[dict[str, Any], Measured]:
    """One difference, cut and stretched, written with its facts when both are final."""
    start = Path(opened(plan.model, plan.reward).model.engine.name)
    trained = point_folder(study_folder, point.recipe, point.target, point.seed) / "model"
    work, scale = study_folder / f"delta-{out.name}", point.scale
    draft = work / "draft"
    for attempt in range(STRETCHES):
        write_delta(start, trained, draft, most_bytes=most_bytes, scale=scale)
        kl = mean_kl(pool(work / f"stretch-{attempt}", plan, draft, plan.asked("train"), STRETCH_DRAWS))
        tell(f"{out.name}: scale {scale:.3f} has KL {kl:.3f} on the training prompts")
        scale *= stretch_for(KL, kl)
    write_delta(start, trained, draft, most_bytes=most_bytes, scale=scale)
    final = pool(work / "test", plan, draft, plan.asked("test"), plan.m)
    result = measured(final, base, out.name)
    recipe = RECIPES[point.recipe]
    facts = {
        "trained_for": recipe.procedure,
        "transform": recipe.transform,
        "beta": point.beta * point.scale / scale,  # of the training, over what its difference was stretched by
        "scale": scale,
        "kl": mean_kl(final),
        "win_rate": asdict(estimate(result)),
        "procedure": BEST,
        "selector": "reward",
        "judge": QualityScorer.name,
        "plan": {key: value for key, value in asdict(plan).items() if key not in ("model", "reward")},
    }
    write_delta(start, trained, out, most_bytes=most_bytes, scale=scale, facts=facts)
    return facts, result


def pool(folder: Path, plan: Plan, delta: Path, asked: Sequence[Prompt], count: int) -> Pool:
    """A difference's answers, judged; a folder of another scale is refused by the hash of the weights."""
    o = opened(plan.model, plan.reward)
    name = f"sandbox:{delta}"
    policy = load_local(o.model.engine.name, ModelOptions(device="cpu"), delta=delta, called=name)
    return asyncio.run(_pool(folder, plan, policy, o.model, asked, count))


async def _pool(
    folder: Path, plan: Plan, policy: LoadedModel, base: LoadedModel, asked: Sequence[Prompt], count: int
) -> Pool:
    selector = opened(plan.model, plan.reward).selector
    await api.agenerate(
        policy,
        f"random-of-n:{count}",
        asked,
        seed=derive(plan.seed, "delta"),
        run=folder / POOL,
        sampling=plan.sampling,
        concurrency=IN_FLIGHT,
    )
    return await judged_pool(folder, policy, base, selector, QualityScorer(), concurrency=IN_FLIGHT)


def mean_kl(found: Pool) -> float:
    rows = [float(row.mean()) for row in found.log_ratios.values()]
    return sum(rows) / len(rows)


def measured(found: Pool, base: Pool, name: str) -> Measured:
    return measure(Policy(name, None, (found,)), base, PROCEDURES)


def estimate(found: Measured) -> Estimate:
    return mean_interval([found.wins[BEST][name] for name in sorted(found.wins[BEST])])


if __name__ == "__main__":
    run_main(main)
