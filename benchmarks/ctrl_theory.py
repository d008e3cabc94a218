"""Does training end where the theory says? Two-symbol responses, every KL and win rate by enumeration.

    python -m benchmarks.ctrl_theory [--seed 82001 [82002 ...]] [--quick] [--out runs/ctrl_theory]

Each seed makes a task (`benchmarks.short_task`: model, prompts, reward, K = 1,024 anchors a prompt) and trains it with
every recipe by `train_ctrl`, the real TRL path. Beside what was trained stands the exact optimum for the rollouts that
were stored, at the same beta. J is W1 - beta KL with the beta of identity at that KL target, W1 the win rate of single
draws: an under-fitted identity shows a high W for its KL, and a low J. Learning rate and steps were chosen for identity
on seeds from 81001 on, and all recipes share them, but that log, exp:-10 and the optimal transform for worst-of-4 have
four times the steps (`theory_runs.LONG`). They end at different KLs, so two recipes are compared at the KL that they
aimed at, to which each is moved along the ideal curve of its own transform.

With several seeds a cell is the mean and half the width of its 95 % interval over seeds (Student's t), and a line
passes when every seed does. --quick takes one seed and leaves out KL 1. A finished training is read and not repeated.
Prints a table and one PASS or MISS a line; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.mains import run_main
from benchmarks.sandbox_runs import student_half
from benchmarks.short_task import PROCEDURES
from benchmarks.theory_runs import BEST, ON_THE_CURVE, RECIPES, WORST, Row, run
from inferalign.theory.planner import find


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of what must show, on every seed."""

    name: str
    values: Sequence[float]
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def holds(self) -> bool:
        return all(self.at_least <= value <= self.at_most for value in self.values)

    def __str__(self) -> str:
        bounds = [f">= {self.at_least:g}"] * (self.at_least > -math.inf) + [f"<= {self.at_most:g}"] * (
            self.at_most < math.inf
        )
        values = " ".join(f"{value:.3f}" for value in self.values)
        return f"{'PASS' if self.holds else 'MISS'}  {self.name}: {values} ({' and '.join(bounds) or 'reported'})"


def above_identity(row: Row, procedure: str) -> float:
    """A trained policy's win rate, in points, less what identity ideally has at the same KL."""
    ended = row.result.trained
    return ended.wins[procedure] - ideal("identity", procedure, ended.kl)


def at_target(row: Row, procedure: str) -> float:
    """A trained policy's win rate in %, moved from the KL that it ended at to the one that it aimed at.

    It goes along the ideal curve of its own transform: policies end at other KLs than they aim at, a win rate rises
    with KL, and transforms lie further apart at some KLs than at others.
    """
    ended, transform = row.result.trained, row.recipe.transform
    return ended.wins[procedure] + ideal(transform, procedure, row.recipe.kl) - ideal(transform, procedure, ended.kl)


def ideal(transform: str, procedure: str, kl: float) -> float:
    """The win rate in % that theory gives, with continuous rewards."""
    return 100 * find(PROCEDURES[procedure], transform, kl=kl).win.win


def lines(found: Sequence[Mapping[str, Row]]) -> list[Line]:
    """What must show; a line whose recipes were not trained is left out. found: one mapping a seed."""
    names = found[0].keys()

    def over(f: Callable[[Mapping[str, Row]], float]) -> list[float]:
        return [f(rows) for rows in found]

    def gap(a: str, b: str, procedure: str) -> list[float]:
        return over(lambda rows: at_target(rows[a], procedure) - at_target(rows[b], procedure))

    made = []
    for name in ON_THE_CURVE:
        if name in names:
            kls, wins = (
                [abs(error) for error in each] for each in zip(*(rows[name].errors for rows in found), strict=True)
            )
            made.append(Line(name=f"{name}: |KL - predicted|", values=kls, at_most=0.06))
            made.append(Line(name=f"{name}: |W - predicted|", values=wins, at_most=1.0))
    made += [
        Line(
            name="identity: ideal J - J", values=over(lambda r: r["identity"].j_ideal - r["identity"].j), at_most=0.01
        ),
        Line(name="exp:10 above identity, best-of-4", values=gap("exp:10", "identity", BEST), at_least=5.0),
        Line(name="identity above log, best-of-4", values=gap("identity", "log", BEST), at_least=0.0),
        Line(
            name="identity above wrong sign (exp:-10), best-of-4", values=gap("identity", "exp:-10", BEST), at_least=0.0
        ),
        Line(name="log above identity, worst-of-4", values=gap("log", "identity", WORST), at_least=0.0),
        Line(name="exp:-10 above log, worst-of-4", values=gap("exp:-10", "log", WORST), at_least=0.0),
        Line(
            name="optimal less exp:-10, worst-of-4",
            values=gap("optimal, worst-of-4", "exp:-10", WORST),
            at_least=-1.0,
            at_most=1.0,
        ),
        Line(
            name="identity above wrong sign (exp:10), worst-of-4", values=gap("identity", "exp:10", WORST), at_least=0.0
        ),
        Line(
            name="raw, lognormal scales: below identity's curve at its KL",
            values=over(lambda r: -above_identity(r["raw, lognormal scales"], BEST)),
            at_least=1.5,
        ),
        Line(
            name="raw, equal scales: above identity's curve at its KL",
            values=over(lambda r: above_identity(r["raw, equal scales"], BEST)),
        ),
        Line(
            name="unscorable, blamed: share at the end less the optimum's, points",
            values=over(lambda r: 100 * _drift(r["unscorable, blamed"])),
            at_least=-1.0,
            at_most=1.0,
        ),
        Line(
            name="unscorable, ignored: share at the end less the optimum's, points",
            values=over(lambda r: 100 * _drift(r["unscorable, ignored"])),
            at_least=1.0,
        ),
    ]
    return made


def _drift(row: Row) -> float:
    return row.result.trained.unscorable - row.result.predicted.unscorable


def table(found: Sequence[Mapping[str, Row]]) -> Table:
    made = Table(title="Trained, and the exact optimum for the stored rollouts", title_justify="left")
    columns = ("recipe", "beta", "KL", "predicted", "W1", "best-of-4", "predicted", "worst-of-4", "predicted", "J")
    for name in (*columns, "above identity at its KL", "KL to optimum", "KL by prompt", "unscorable", "s"):
        made.add_column(name, justify="left" if name == "recipe" else "right")
    for name in found[0]:
        rows = [seed[name] for seed in found]
        ends, best = [row.result.trained for row in rows], [row.result.predicted for row in rows]
        shares = [100 * end.unscorable for end in ends]
        made.add_row(
            name,
            cell([row.result.beta for row in rows], 3),
            cell([end.kl for end in ends], 3),
            cell([end.kl for end in best], 3),
            cell([end.wins["sample"] for end in ends]),
            *(cell([end.wins[p] for end in which]) for p in (BEST, WORST) for which in (ends, best)),
            cell([row.j for row in rows], 4),
            " / ".join(cell([above_identity(row, p) for row in rows], 1) for p in (BEST, WORST)),
            cell([row.result.distance for row in rows], 3),
            f"{min(min(end.kl_by_prompt) for end in ends):.2f} to {max(max(end.kl_by_prompt) for end in ends):.2f}",
            cell(shares) if any(shares) else "",
            cell([row.result.seconds for row in rows], 0),
        )
    return made


def cell(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and half the width of its interval over seeds."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {student_half(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[82001])
    parser.add_argument("--quick", action="store_true", help="the first seed alone, without KL 1")
    parser.add_argument("--out", type=Path, default=Path("runs/ctrl_theory"))
    given = parser.parse_args()
    seeds = given.seed[:1] if given.quick else given.seed
    names = [name for name, recipe in RECIPES.items() if not given.quick or recipe.kl == 0.5]
    found = [run(seed, names, given.out) for seed in seeds]
    Console(width=250).print(table(found))
    shown = lines(found)
    for line in shown:
        print(line)
    curve = [row for rows in found for name, row in rows.items() if name in ON_THE_CURVE]
    facts = {
        "seeds": seeds,
        "quick": given.quick,
        "tabular_max_error_points": max(abs(row.errors[1]) for row in curve),
        "tabular_max_error_kl": max(abs(row.errors[0]) for row in curve),
        "missed": [line.name for line in shown if not line.holds],
        "rows": [{name: {**asdict(row.result), "j": row.j} for name, row in rows.items()} for rows in found],
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    run_main(main)
