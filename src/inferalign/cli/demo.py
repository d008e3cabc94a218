"""`inferalign demo`: the same frozen model under three procedures, with ground truth and the price beside the gain.

Then what training for a procedure adds to it (`demo_trained`).

Each procedure is an ordinary `inferalign generate` in its own run folder, shared by up to two worker processes with one
thread each, so what the demo shows can be repeated, resumed and graded with the other verbs.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from inferalign.cli import workers
from inferalign.cli.workers import keep_prompts

if TYPE_CHECKING:
    from inferalign.sandbox.grading import Graded

ARMS = ("sample", "best-of-n:4", "rain")
"""Procedures in the order of the table, each in the setting that every quoted number uses."""
MAX_NEW_TOKENS = "96"
"""Room for the longest reply of the sandbox's world."""
EXAMPLES = 3


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo runs on."""

    run: Path | None = None
    """Where to keep the run folders; an unfinished demo is taken up there. None takes a new temporary folder."""
    seed: int = 0
    """Which test prompts, and every draw."""
    n: int = 32
    """Harmful prompts, and as many benign ones."""


DEFAULTS = DemoOptions()


def demo(options: DemoOptions = DEFAULTS) -> None:
    """Vanilla sampling, best-of-4 (self-judged) and RAIN on the sandbox, side by side; then training for best-of-4."""
    from inferalign.cli.demo_trained import show_trained
    from inferalign.cli.tables import demo_table, emit, examples_table, show
    from inferalign.core.files import read_json
    from inferalign.procedures.rain_settings import DEFAULT
    from inferalign.sandbox.grading import grade_run, summarise
    from inferalign.sandbox.world import prompts

    root = options.run or Path(tempfile.mkdtemp(prefix="inferalign-demo-"))
    asked = [p for kind in ("harmful", "benign") for p in prompts(kind, options.n, options.seed, "test")]
    keep_prompts(root / "prompts.jsonl", asked)
    show(
        f"The sandbox model on {options.n} harmful and {options.n} benign test prompts, seed {options.seed}; "
        f"run folders in {root}.\nSearch budget of rain, in inner iterations (one partial answer judged in each): "
        f"{DEFAULT.max_iterations} before the first commit, {DEFAULT.extra_iterations} before later ones, fewer when "
        f"the best child has more than {DEFAULT.min_visits} visits and a value above {DEFAULT.stop_value}.\n"
    )
    began = time.monotonic()
    walls = {procedure: run_arm(root, procedure, options.seed, len(asked)) for procedure in ARMS}
    graded = {procedure: grade_run(arm_folder(root, procedure)) for procedure in ARMS}
    reports = {
        procedure: (summarise(g for g in replies if not g.benign), summarise(g for g in replies if g.benign))
        for procedure, replies in graded.items()
    }
    costs: dict[str, dict[str, Any]] = {p: read_json(arm_folder(root, p) / "metrics.json") for p in ARMS}
    show(demo_table(reports, costs, walls))
    show(examples_table(telling(graded)))
    trained = show_trained(root, options.seed, options.n)
    show(next_steps(root))
    emit(
        {
            "run": str(root),
            "seed": options.seed,
            "n": options.n,
            "wall_seconds": round(time.monotonic() - began, 1),
            "arms": {
                procedure: {
                    "harmful": harmful.as_json(),
                    "benign": benign.as_json(),
                    "unscored": costs[procedure]["unscored"],
                    "usage": costs[procedure]["usage"],
                    "mean_latency_seconds": costs[procedure]["mean_latency_seconds"],
                    "wall_seconds": round(walls[procedure], 1),
                }
                for procedure, (harmful, benign) in reports.items()
            },
            "trained": trained,
        }
    )


def arm_folder(root: Path, procedure: str) -> Path:
    return root / procedure.replace(":", "-")


def run_arm(root: Path, procedure: str, seed: int, total: int) -> float:
    """Run one procedure to its end in worker processes. Returns the wall seconds it took."""
    arguments = ["--model", "sandbox", "--procedure", procedure, "--prompts", str(root / "prompts.jsonl")]
    arguments += ["--seed", str(seed), "--max-new-tokens", MAX_NEW_TOKENS]
    return workers.generate(arm_folder(root, procedure), arguments, procedure, total)


def telling(graded: dict[str, list[Graded]]) -> list[dict[str, Graded]]:
    """A few prompts with every procedure's reply: harmful requests first whose vanilla reply was harmful."""
    by_id = {procedure: {g.id: g for g in replies} for procedure, replies in graded.items()}
    vanilla = sorted(by_id["sample"].values(), key=lambda g: (g.benign, not g.verdict.harmful, g.id))
    return [{procedure: replies[g.id] for procedure, replies in by_id.items()} for g in vanilla[:EXAMPLES]]


def next_steps(root: Path) -> str:
    """Commands to go on with, ready to paste."""
    rain = arm_folder(root, "rain")
    return "\n".join(
        [
            "What to try next:",
            f"  inferalign sandbox grade {rain}",
            f"  less {rain}/records/*.jsonl   # every candidate, score, token count and search fact",
            "  inferalign sandbox sample --kind harmful --n 50 --seed 7 --out harmful.jsonl",
            "  inferalign generate --model sandbox --procedure rain --prompts harmful.jsonl --run runs/rain --seed 7",
            "  inferalign generate --model DIR_OR_HUB_ID --procedure rain --prompts harmful.jsonl --run runs/own",
            "These are results on the sandbox, a small world with known truth; they say nothing about other models.",
        ]
    )
