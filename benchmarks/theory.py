"""How fast the theory answers, each against a plain scipy reference in the same run.

    python -m benchmarks.theory

- one optimal transform at a fixed KL, against damped fixed-point iteration with brentq for beta on 4,000 nodes;
- 10^6 candidates calibrated against K = 100, against scipy.stats.percentileofscore prompt by prompt (on a tenth);
- the figures of docs/theory.md; the planner from process start, against a process that imports numpy and scipy.linalg.

Goals: 0.1 s for N = 4 and 0.2 s for N = 32, 1 s, 15 s and 1 s. Solvers and processes: medians of five; the others run
once, cold. Prints a table; the last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.optimize import brentq
from scipy.stats import percentileofscore

from benchmarks.mains import run_main
from inferalign.cli import theory_docs
from inferalign.theory.calibration import mid_rank
from inferalign.theory.optimal import solve
from inferalign.theory.procedures import OfN, best_of_n, worst_of_n

REPEATS = 5
CANDIDATES = 1_000_000
ANCHORS = 100
SOLVES = ((best_of_n(4), 1.0, 0.1), (worst_of_n(4), 1.0, 0.1), (best_of_n(32), 1.0, 0.2), (worst_of_n(32), 0.5, 0.2))
"""Procedure, KL and the goal in seconds."""
PLAN = ("plan", "--for", "best-of-n:4", "--transform", "exp:10", "--kl", "0.5")


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def damped(selection: OfN, kl: float, eta: float = 0.3, steps: int = 400) -> float:
    """The win rate at the optimum by fixed-point iteration at fixed KL, mixing log f: written with scipy alone."""
    half = np.concatenate([[0.0], np.geomspace(1e-9, 0.5, 2000)])
    u = np.concatenate([half, 1 - half[-2::-1]])
    n, increasing = selection.n, selection.keeps == "best"

    def density(x: np.ndarray) -> np.ndarray:
        return n * (x if increasing else 1 - x) ** (n - 1)

    def tilted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        weights = np.exp(values - values.max())
        mass = cumulative_trapezoid(weights, u, initial=0.0)
        f = weights / mass[-1]
        logs = np.log(np.maximum(f, 1e-300))
        return f, mass / mass[-1], float(np.trapezoid(f * logs, u))

    log_f = np.zeros_like(u)
    for _ in range(steps):
        _, F, _ = tilted(log_f)
        phi = cumulative_trapezoid(density(F) * density(u), u, initial=0.0)
        beta = np.exp(brentq(lambda x, phi=phi: tilted(phi / np.exp(x))[2] - kl, -30, 10, xtol=1e-10))
        moved = (1 - eta) * log_f + eta * phi / beta
        moved -= moved.max()
        if np.abs(moved - log_f).max() < 1e-6 * max(1.0, np.abs(moved).max()):
            break
        log_f = moved
    _, F, _ = tilted(log_f)
    output = F**n if increasing else 1 - (1 - F) ** n
    return 1 - float(np.trapezoid(output * density(u), u))


def optima() -> dict[str, dict[str, float]]:
    found = {}
    for selection, kl, goal in SOLVES:
        ours = seconds(lambda s=selection, k=kl: solve(s, kl=k), REPEATS)  # type: ignore[misc]
        theirs = seconds(lambda s=selection, k=kl: damped(s, k))  # type: ignore[misc]
        gap = solve(selection, kl=kl).win_rate - damped(selection, kl)
        found[f"optimum {selection.name}, KL {kl:g}"] = {
            "seconds": ours,
            "reference_seconds": theirs,
            "ratio": theirs / ours,
            "goal": goal,
            "win_rate_difference": gap,
        }
    return found


def calibration() -> dict[str, dict[str, float]]:
    found = {}
    for prompts in (10_000, 100_000):
        draws = np.random.default_rng(prompts)
        anchors = draws.normal(size=(prompts, ANCHORS))
        scores = draws.normal(size=(prompts, CANDIDATES // prompts))
        tenth = prompts // 10
        expected = np.empty((tenth, scores.shape[1]))

        def plainly(anchors: np.ndarray = anchors, scores: np.ndarray = scores, out: np.ndarray = expected) -> None:
            for place, (row, mine) in enumerate(zip(anchors, scores, strict=True)):
                if place == len(out):
                    break
                out[place] = percentileofscore(row, mine, kind="mean") / 100

        ours = seconds(lambda a=anchors, s=scores: mid_rank(s, a))  # type: ignore[misc]
        theirs = 10 * seconds(plainly)
        np.testing.assert_allclose(mid_rank(scores[:tenth], anchors[:tenth]), expected, atol=1e-12)
        found[f"calibration {prompts:,} x {scores.shape[1]}, K {ANCHORS}"] = {
            "seconds": ours,
            "reference_seconds": theirs,
            "ratio": theirs / ours,
            "goal": 1.0,
        }
    return found


def figures() -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        theory_docs.FIGURES = Path(folder)
        return {"figures of docs/theory.md": {"seconds": seconds(theory_docs.draw), "goal": 15.0}}


def planner() -> dict[str, dict[str, float]]:
    def process(*arguments: str) -> float:
        command = [sys.executable, *arguments]
        return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), REPEATS)

    bare = process("-c", "import numpy, scipy.linalg")
    ours = process("-m", "inferalign.cli.main", *PLAN)
    return {"plan, from process start": {"seconds": ours, "reference_seconds": bare, "ratio": bare / ours, "goal": 1.0}}


def main() -> None:
    solve(best_of_n(2), kl=0.1)
    found = optima() | calibration() | figures() | planner()
    for name, facts in found.items():
        beside = f"{facts['reference_seconds']:9.3f} s  {facts['ratio']:7.1f} x" if "ratio" in facts else ""
        print(f"{name:40} {facts['seconds']:8.3f} s   goal {facts['goal']:6.2f} s   reference {beside or 'none'}")
    print(json.dumps(found))


if __name__ == "__main__":
    run_main(main)
