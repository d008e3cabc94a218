"""What does a CTRL step cost beside a bare RLOO step of TRL, and where does its time go?

    python -m benchmarks.ctrl_step                16 pairs of steps on a random model of the sandbox's size
    python -m benchmarks.ctrl_step --quick        5 pairs
    python -m benchmarks.ctrl_step --model sandbox    on its policy (or DIR), with its prompts and its answers' lengths

Two trainers take turns in one process, one step each, and who is first changes every time: `CtrlTrainer` with exp:10 of
a calibrated reward, and TRL's own `RLOOTrainer` with the raw reward of the same reward model. Everything else is equal:
arguments, prompts, weights (the learning rate is 0) and responses. Each draws as it does and pays for it; both go on
with what the first of them drew, which is checked. A step is one turn of the training loop with all that belongs to it:
batch, draws, log-probabilities, rewards, gradient, update, log. Times are CPU seconds of the process on one thread,
which do not count what else the machine does. The ratio is the median of those of the pairs. The goal is 1.05 at most.

The second table says where the time of a CTRL step goes. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import binom
from transformers import TrainerCallback

from benchmarks.mains import run_main
from benchmarks.sandbox_runs import finish
from benchmarks.step_trainers import GENERATIONS, RESPONSES, Setting, Timed
from inferalign.core.stats import Estimate
from inferalign.ctrl.rloo import quiet_trl

GOAL = 1.05


class Turns:
    """Whose step it is. Both training loops run, each in a thread, and one of them waits."""

    def __init__(self, schedule: Sequence[str]) -> None:
        self._schedule, self._at, self._changed = list(schedule), 0, threading.Condition()

    def wait(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._at >= len(self._schedule) or self._schedule[self._at] == name)

    def over(self, turns: int = 1) -> None:
        with self._changed:
            self._at += turns
            self._changed.notify_all()

    def train(self, trainer: Any) -> None:
        """A whole training; where it fails nobody waits for its turns any more."""
        try:
            trainer.train()
        except BaseException:  # whatever came: the other trainer would wait for ever; it goes on up
            self.over(len(self._schedule))
            raise


class Taken(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Times a loop from one step's beginning to the next one's, and hands over in between."""

    def __init__(self, name: str, turns: Turns) -> None:
        self._name, self._turns = name, turns
        self.seconds: list[float] = []
        self._began: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end()
        self._turns.wait(self._name)
        self._began = time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end()

    def _end(self) -> None:
        if self._began is not None:
            self.seconds.append(time.process_time() - self._began)
            self._began = None
            self._turns.over()


def paired(setting: Setting) -> tuple[Timed, list[float], list[float]]:
    """CTRL's trainer, and CPU seconds of each step of CTRL and of the bare trainer, the first step left out."""
    turns = Turns([name for i in range(setting.steps) for name in (("ctrl", "bare") if i % 2 else ("bare", "ctrl"))])
    ctrl, bare = setting.ctrl(), setting.bare()
    clocks = {"ctrl": Taken("ctrl", turns), "bare": Taken("bare", turns)}
    ctrl.add_callback(clocks["ctrl"])
    bare.add_callback(clocks["bare"])
    with quiet_trl(), ThreadPoolExecutor(2) as threads:
        for running in [threads.submit(turns.train, trainer) for trainer in (ctrl, bare)]:
            running.result()
    if ctrl.drawn != bare.drawn or len(bare.drawn) != setting.steps:
        sys.exit("the two trainers trained on different responses, so that their times cannot be compared")
    return ctrl, clocks["ctrl"].seconds[1:], clocks["bare"].seconds[1:]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """The median of paired ratios, and the order statistics that hold it with 95 % (exact, by the sign test).

    A mean would be that of the few steps in which something else had the machine. With fewer than 6 pairs the interval
    is from the least to the greatest, and holds it with less.
    """
    found = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    n = len(found)
    outside = max(int(binom.ppf(0.025, n, 0.5)) - 1, 0)
    return Estimate(mean=statistics.median(found), low=found[outside], high=found[n - 1 - outside], n=n)


def parts(ctrl: Timed, steps: Sequence[float]) -> dict[str, float]:
    """Median CPU seconds of a step's parts, the first step left out."""
    found = {name: statistics.median(values[1:]) for name, values in ctrl.parts.items()}
    whole, inside = statistics.median(steps), found.pop("training step")
    found["backward"] = inside - sum(found.values())
    found["update, log, batch"] = whole - inside
    return {**found, "whole": whole}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 pairs of steps instead of 16")
    parser.add_argument("--model", help="sandbox, or the folder of a policy of it; without it, random weights")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = 5 if args.quick else 16
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(args.model, Path(folder), pairs + 1)
        ctrl, ours, theirs = paired(setting)
        found, spent = ratio(ours, theirs), parts(ctrl, ours)
    lengths = statistics.mean(len(reply) for drawn in ctrl.drawn for reply in drawn)
    print(f"{RESPONSES} responses, {GENERATIONS} a prompt, {lengths:.1f} tokens in the mean; CPU seconds, medians")
    print(f"CTRL {statistics.median(ours):.3f}, bare RLOO {statistics.median(theirs):.3f}")
    verdict = "met" if found.mean is not None and found.mean <= GOAL else "MISSED"
    print(f"ratio {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] over {pairs} pairs, goal {GOAL}: {verdict}")
    table = Table("part of a CTRL step", "CPU s", "share, %")
    for name, seconds in spent.items():
        table.add_row(name, f"{seconds:.3f}", f"{100 * seconds / spent['whole']:.0f}")
    Console(width=100).print(table)
    finish(
        {
            "benchmark": "ctrl_step",
            "model": args.model or "random",
            "pairs": pairs,
            "mean_tokens": lengths,
            "ratio": asdict(found),
            "goal": GOAL,
            "parts": spent,
        }
    )
    return 0 if args.quick or verdict == "met" else 1


if __name__ == "__main__":
    run_main(main)
