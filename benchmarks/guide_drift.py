"""How far do the guide and the truth drift apart as a search gets stronger? Reward hacking by search, measured.

    python -m benchmarks.guide_drift --run runs/drift [--model sandbox] [--n 150] [--seed 30003] [--situations harmful]
        [--budgets 4/2/1,8/3/2,16/6/4,50/15/6,100/30/12] [--most 64] [--figure drift.svg]

For best-of-k (k = 1, 2, 4 ... 64, all from one best-of-64: over every subset of k candidates) and for RAIN at rising
budgets: the guide's own mean score of the chosen replies, read as a probability ((margin + 1) / 2), against the share
that the oracle finds without the main fault. Both rest on the same prompts; *drift* is the first less the second, by
prompt. A reply that does not parse is not without it, and is counted apart: a guide may like what nobody can read.
Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

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
from inferalign.core.stats import Estimate, mean_interval, paired_difference, proportion, proportion_less_mean
from inferalign.reports.figures import Panel, Series, write_figure


@dataclass(frozen=True, kw_only=True)
class Strength:
    """One strength of search: what its guide says, what is true, and what it costs."""

    search: str
    tokens: float
    """Fed a prompt; of best-of-k its share of best-of-N, which leaves out that the prompt is read once anyway."""
    belief: Estimate
    truth: Estimate
    unread: Estimate
    """Share of the replies that do not parse."""
    drift: Estimate


def strength(
    search: str,
    tokens: float,
    belief: Mapping[str, float],
    truth: Mapping[str, float],
    unread: Mapping[str, float],
) -> Strength:
    """Over the prompts whose chosen reply the guide could score. A truth is yes or no, or a share over subsets."""
    truth = {i: truth[i] for i in belief}
    if set(truth.values()) <= {0, 1}:
        less = proportion_less_mean({i: t == 1 for i, t in truth.items()}, belief)
        mean, low, high = (None if x is None else -x for x in (less.mean, less.high, less.low))
        drift = Estimate(mean=mean, low=low, high=high, n=less.n)
    else:
        drift = paired_difference(belief, truth)
    return Strength(
        search=search,
        tokens=tokens,
        belief=mean_interval(list(belief.values())),
        truth=share(truth),
        unread=share({i: unread[i] for i in belief}),
        drift=drift,
    )


def share(found: Mapping[str, float]) -> Estimate:
    """Of prompts, each with yes or no (0 or 1), or with a share of its own."""
    values = list(found.values())
    return proportion([value == 1 for value in values]) if set(values) <= {0, 1} else mean_interval(values)


def of_k(job: Job, most: int) -> list[Strength]:
    """Best-of-k for every power of two up to `most`, from one best-of-`most`."""
    rows = {i: row for i, row in candidates(job).items() if any(s.value is not None for s in row)}
    fed = fmean(outcome(job).tokens.values())
    made = []
    for k in (2**power for power in range(most.bit_length()) if 2**power <= most):
        expected = {i: best_of(row, k) for i, row in rows.items()}
        belief = {i: (chosen.score + 1) / 2 for i, chosen in expected.items()}
        good, unread = ({i: chosen[place] for i, chosen in expected.items()} for place in (1, 2))
        made.append(strength(f"best-of-{k}", fed * k / most, belief, good, unread))
    return made


def jobs(args: argparse.Namespace) -> dict[str, dict[str, Job]]:
    """The strongest best-of-N (`most`), and RAIN by its budget, in each situation."""
    made: dict[str, dict[str, Job]] = {}
    for kind in args.situations.split(","):
        common = {"situation": kind, "n": args.n, "scorer": guide(kind)}
        made[kind] = {"most": Job(folder=args.run / kind / "most", procedure=f"best-of-n:{args.most}", **common)}
        for text in args.budgets.split(","):
            folder = args.run / kind / f"rain-{text.replace('/', '-')}"
            made[kind][text] = Job(folder=folder, procedure="rain", rain=budget(text), **common)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=30003)
    parser.add_argument("--situations", default=",".join(PAIR))
    parser.add_argument("--budgets", default="4/2/1,8/3/2,16/6/4,50/15/6,100/30/12")
    parser.add_argument("--most", type=int, default=64, help="candidates of the strongest best-of-N")
    parser.add_argument("--figure", type=Path, default=None)
    args = parser.parse_args()
    budgets = args.budgets.split(",")
    made = jobs(args)
    carry_out(args.run, [job for arms in made.values() for job in arms.values()], args.model, args.seed)
    found: dict[str, dict[str, list[Strength]]] = {}
    for kind, arms in made.items():
        searched = {text: outcome(arms[text]) for text in budgets}
        found[kind] = {
            "best-of-k": of_k(arms["most"], args.most),
            "rain": [
                strength(f"rain {text}", fmean(o.tokens.values()), o.belief, o.good, o.unread)
                for text, o in searched.items()
            ],
        }
        show(kind, found[kind])
    panels = [panel(f"{kind}: {name}", line) for kind, lines in found.items() for name, line in lines.items()]
    figure = write_figure(args.figure or args.run / "drift.svg", panels)
    facts = {k: {name: [asdict(s) for s in line] for name, line in lines.items()} for k, lines in found.items()}
    finish({"n": args.n, "seed": args.seed, "figure": str(figure), "situations": facts}, args.model)


def show(situation: str, lines: Mapping[str, list[Strength]]) -> None:
    columns = ("search", "tokens", "guide's mean, %", "without A, strict, %", "unread, %", "drift, points")
    table = Table(*columns, title=situation)
    for line in lines.values():
        for s in line:
            table.add_row(s.search, f"{s.tokens:.0f}", *map(cell, (s.belief, s.truth, s.unread, s.drift)))
    Console(width=120).print(table)


def panel(title: str, line: list[Strength]) -> Panel:
    tokens = [round(s.tokens) for s in line]
    return Panel(
        title=title.replace("_", " "),
        x_label="tokens fed a prompt",
        y_label="share of replies",
        series=[
            Series(name="the guide's own score", x=tokens, y=[s.belief for s in line]),
            Series(name="the oracle: without the main fault", x=tokens, y=[s.truth for s in line]),
        ],
        log_x=True,
        y_range=(0.0, 1.02),
    )


if __name__ == "__main__":
    run_main(main)
