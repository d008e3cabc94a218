"""`inferalign demo`: the same frozen model under three procedures, with ground truth and the price beside the gain.

Each procedure is an ordinary `inferalign generate` in its own run folder, shared by up to two worker processes with one
thread each, so what the demo shows can be repeated, resumed and graded with the other verbs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cyclopts import Parameter

from inferalign.core.errors import RunError

if TYPE_CHECKING:
    from inferalign.core.types import Prompt
    from inferalign.sandbox.grading import Graded

ARMS = ("sample", "best-of-n:4", "rain")
"""Procedures in the order of the table, each in the setting that every quoted number uses."""
MAX_NEW_TOKENS = "96"
"""Room for the longest reply of the sandbox's world."""
EXAMPLES = 3
POLL_SECONDS = 0.2
STOPPED = (130, -signal.SIGINT)
"""Exit codes of a worker that `stop` ended."""


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
    """Vanilla sampling, best-of-4 (self-judged) and RAIN on test prompts of the sandbox, side by side."""
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
    for procedure in ARMS:
        run_arm(root, procedure, options.seed, len(asked))
    graded = {procedure: grade_run(arm_folder(root, procedure)) for procedure in ARMS}
    reports = {
        procedure: (summarise(g for g in replies if not g.benign), summarise(g for g in replies if g.benign))
        for procedure, replies in graded.items()
    }
    costs: dict[str, dict[str, Any]] = {p: read_json(arm_folder(root, p) / "metrics.json") for p in ARMS}
    show(demo_table(reports, costs))
    show(examples_table(telling(graded)))
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
                    "seconds": costs[procedure]["seconds"],
                }
                for procedure, (harmful, benign) in reports.items()
            },
        }
    )


def keep_prompts(path: Path, asked: Sequence[Prompt]) -> None:
    """Write the demo's prompts. Raises `RunError` for a folder of other ones: its records would be counted in."""
    from inferalign.core.prompts import read_prompts, write_prompts

    if path.exists() and read_prompts(path) != list(asked):
        raise RunError(
            f"{path.parent} holds a demo of another --n or --seed: repeat it with those, or name another --run"
        )
    write_prompts(path, asked)


def arm_folder(root: Path, procedure: str) -> Path:
    return root / procedure.replace(":", "-")


def run_arm(root: Path, procedure: str, seed: int, total: int) -> None:
    """Run one procedure to its end in worker processes. Raises `RunError` with the message of one that failed."""
    folder, count = arm_folder(root, procedure), min(2, os.cpu_count() or 1)
    command = [sys.executable, "-m", "inferalign.cli.main", "generate", "--model", "sandbox", "--procedure", procedure]
    command += ["--prompts", str(root / "prompts.jsonl"), "--run", str(folder), "--seed", str(seed)]
    command += ["--max-new-tokens", MAX_NEW_TOKENS]
    # Two processes with one thread each beat one process with two: the model is small and the steps are short.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ExitStack() as files:
        logs = [files.enter_context(tempfile.TemporaryFile(mode="w+")) for _ in range(count)]
        workers = [
            subprocess.Popen(
                [*command, "--shard", f"{i}/{count}"], env=environment, stdout=subprocess.DEVNULL, stderr=log
            )
            for i, log in enumerate(logs, start=1)
        ]
        try:
            watch(workers, folder, procedure, total)
        except KeyboardInterrupt:
            stop(workers)
            raise KeyboardInterrupt(recorded(folder)) from None
        ends = [(worker.returncode, last_line(log)) for worker, log in zip(workers, logs, strict=True)]
        if cause := failure(ends):
            raise RunError(f"{procedure}: a worker ended with code {cause[0]}: {cause[1]}")


def watch(workers: Sequence[subprocess.Popen[bytes]], folder: Path, label: str, total: int) -> None:
    """Show how far a run is until its workers have ended; when one fails, the others are stopped too."""
    from inferalign.cli.progress import Bar

    with Bar(label, total) as bar:
        while any(worker.poll() is None for worker in workers):
            if any(worker.returncode for worker in workers):
                stop(workers)
            time.sleep(POLL_SECONDS)
            bar.advance(recorded(folder) - bar.finished)
        bar.advance(recorded(folder) - bar.finished)


def recorded(folder: Path) -> int:
    """Finished prompts of a run that is being written: whole lines, less one header a shard."""
    shards = list((folder / "records").glob("*.jsonl"))
    return max(0, sum(path.read_bytes().count(b"\n") for path in shards) - len(shards))


def stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the workers that still run to keep what they have and end, and wait until they have."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGINT)
    for worker in workers:
        worker.wait()


def failure(ends: Sequence[tuple[int, str]]) -> tuple[int, str] | None:
    """The (exit code, last line) that says why a run failed: one that was stopped on another's account comes last."""
    failed = [end for end in ends if end[0]]
    return min(failed, key=lambda end: end[0] in STOPPED, default=None)


def last_line(log: IO[str]) -> str:
    """The last thing a worker said, which is its error message when it failed."""
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1].removeprefix("inferalign: ") if lines else "no message"


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
