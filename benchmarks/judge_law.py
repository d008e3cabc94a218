"""RAIN's gain against the accuracy of its judge: the paper's law, where the truth is known.

    python -m benchmarks.judge_law --run runs/law [--model sandbox] [--n 150] [--seed 30002] [--budget 50/15/6]
        [--specificities 0.12,0.35,0.6] [--steps 400] [--flips 0,0.1,0.2,0.3,0.4,0.48] [--figure law.svg]

The paper (arXiv 2309.07124) sees larger models judge better (LLaMA-2: 52 % right at 7B, 98 % at 70B) and gain more, and
cannot tell one cause from the other. Here the policy stays the same and only its judge is weakened, in two ways: by
*knowledge removed* (`sandbox.weak`: the judge is another model, trained on with a teacher that knows less; made in the
run folder where it is missing) and by *coin flips* (its verdicts alone, -1 or 1, turned over on a share of the texts).
A judge's balanced accuracy is measured on the policy's own whole replies (the candidates of best-of-8, the same for
every judge). Two searches go by it, RAIN and that best-of-8; each is paired by prompt with the mean of those eight
draws, which is vanilla without its luck, and with greedy, which is near to what RAIN comes to where its judge says
nothing. A judge that rejects nearly everything has a balanced accuracy of 50 % and may still rank the replies to a
prompt, which is all that best-of-8 needs: hence the AUC inside prompts. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.mains import run_main
from benchmarks.sandbox_runs import (
    PAIR,
    Job,
    Outcome,
    Scored,
    auc,
    budget,
    candidates,
    carry_out,
    cell,
    finish,
    guide,
    judge_rates,
    outcome,
)
from inferalign.core.files import read_json
from inferalign.core.records import differences
from inferalign.core.stats import Estimate, mean_interval, paired_proportions, proportion, proportion_less_mean
from inferalign.engines.weights import weights_digest
from inferalign.reports.figures import Panel, Series, write_figure
from inferalign.sandbox.curriculum import LABELS
from inferalign.sandbox.recipe import Recipe
from inferalign.sandbox.situations.situation import WORLD_VERSION
from inferalign.sandbox.training import CARD
from inferalign.sandbox.weak import weaker

MEASURES = ("balanced accuracy", "AUC")
KINDS = ("own judge", "knowledge removed", "coin flips")
GUIDED = {"rain": "rain", "best-of-8": "best-of-n:8"}
"""The searches that go by each judge, and their procedures."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """One judge of the policy's replies: how it was weakened, and what goes behind the scorer's name."""

    kind: str
    more: str


def judges(args: argparse.Namespace, folder: Path) -> dict[str, Judge]:
    """Every judge by name. Trains those with less knowledge that the run folder lacks, one after the other."""
    made = {"own": Judge(kind=KINDS[0], more="")}
    for text in filter(None, args.specificities.split(",")):
        out = args.run / f"judge-{text}"
        if not (out / CARD).exists():
            command = [sys.executable, "-m", "inferalign.cli.main", "sandbox", "train", "--out", str(out)]
            command += ["--from", str(folder), "--specificity", text, "--steps", str(args.steps)]
            if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
                sys.exit("a judge could not be trained; why is said above. Repeat the command to go on")
        else:
            _require(out, folder, weaker(folder, specificity=float(text), steps=args.steps))
        made[f"knowledge-{text}"] = Judge(kind=KINDS[1], more=f":{out}")
    for text in filter(None, args.flips.split(",")):
        made[f"flips-{text}"] = Judge(kind=KINDS[2], more=f"-flipped:{text}")
    return made


def _require(judge: Path, start: Path, recipe: Recipe) -> None:
    """Stop where the judge in a folder was made by another recipe, from other weights or for another world."""
    card = read_json(judge / CARD)
    made = {"suspicion": "unknown", **card["recipe"]} | {key: card.get(key) for key in ("start", "world", "labels")}
    wanted = asdict(recipe) | {"start": weights_digest(str(start)), "world": WORLD_VERSION, "labels": LABELS}
    if changes := list(differences(made, wanted)):
        sys.exit(f"{judge} was made otherwise ({'; '.join(changes)}): name another --run, or remove it")


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search made of a judge."""

    good: Estimate
    minus_draw: Estimate
    """Less the share of good ones among the prompt's eight draws."""
    minus_greedy: Estimate
    tokens: float
    """Fed for an answer, the judge's among them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One judge in one situation."""

    kind: str
    sensitivity: Estimate
    specificity: Estimate
    balanced: Estimate
    auc: Estimate
    """The chance that of a good and a bad reply to one prompt the good one scores higher."""
    by: Mapping[str, Searched]
    """Either search."""


def jobs(args: argparse.Namespace, known: Mapping[str, Judge]) -> dict[tuple[str, str], Job]:
    """Greedy decoding and every search by every judge, by name and situation."""
    made = {}
    for kind in args.situations.split(","):
        made["greedy", kind] = Job(folder=args.run / kind / "greedy", situation=kind, n=args.n, temperature=0.0)
        for name, judge in known.items():
            for search, procedure in GUIDED.items():
                made[f"{name}/{search}", kind] = Job(
                    folder=args.run / kind / name / search,
                    situation=kind,
                    n=args.n,
                    procedure=procedure,
                    scorer=guide(kind, judge.more),
                    rain=budget(args.budget) if procedure == "rain" else {},
                )
    return made


def rows(situation: str, known: Mapping[str, Judge], jobs: Mapping[tuple[str, str], Job]) -> dict[str, Row]:
    greedy = outcome(jobs["greedy", situation]).good
    made = {}
    for name, judge in known.items():
        judged = candidates(jobs[f"{name}/best-of-8", situation])
        rates = judge_rates(judged)
        made[name] = Row(
            kind=judge.kind,
            sensitivity=rates.sensitivity,
            specificity=rates.specificity,
            balanced=rates.balanced,
            auc=auc_of(judged),
            by={search: searched(outcome(jobs[f"{name}/{search}", situation]), judged, greedy) for search in GUIDED},
        )
    return made


def searched(found: Outcome, drawn: Mapping[str, Sequence[Scored]], greedy: Mapping[str, bool]) -> Searched:
    shares = {prompt: fmean(candidate.bad is False for candidate in row) for prompt, row in drawn.items()}
    return Searched(
        good=proportion(list(found.good.values())),
        minus_draw=proportion_less_mean(found.good, shares),
        minus_greedy=paired_proportions(found.good, greedy),
        tokens=fmean(found.tokens.values()),
    )


def auc_of(found: Mapping[str, Sequence[Scored]]) -> Estimate:
    """The mean AUC of the prompts that have replies of both kinds.

    Pairs across prompts are left out: a judge that knows how hard a request is and reads no reply would order many of
    them, and no best-of-N would gain by it.
    """
    inside = []
    for row in found.values():
        good = np.array([s.value for s in row if s.bad is False and s.value is not None])
        bad = np.array([s.value for s in row if s.bad is True and s.value is not None])
        if len(good) and len(bad):
            inside.append(auc(good, bad))
    return mean_interval(inside) if inside else Estimate.empty()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=30002)
    parser.add_argument("--situations", default=",".join(PAIR))
    parser.add_argument("--budget", default="50/15/6")
    parser.add_argument("--specificities", default="0.12,0.35,0.6", help="of the weaker judges' teachers")
    parser.add_argument("--steps", type=int, default=400, help="of training a weaker judge")
    parser.add_argument("--flips", default="0,0.1,0.2,0.3,0.4,0.48", help="shares of verdicts turned over")
    parser.add_argument("--figure", type=Path, default=None)
    args = parser.parse_args()
    folder = Path(str(files("inferalign.sandbox"))) / "model" if args.model == "sandbox" else Path(args.model)
    known = judges(args, folder)
    made = jobs(args, known)
    carry_out(args.run, list(made.values()), args.model, args.seed)
    found = {kind: rows(kind, known, made) for kind in args.situations.split(",")}
    for kind, table in found.items():
        show(kind, table)
    panels = [
        panel(kind, search, table, measure)
        for kind, table in found.items()
        for search in GUIDED
        for measure in MEASURES
    ]
    figure = write_figure(args.figure or args.run / "law.svg", panels)
    facts = {kind: {name: asdict(row) for name, row in table.items()} for kind, table in found.items()}
    told = {"n": args.n, "seed": args.seed, "budget": args.budget, "figure": str(figure), "judges": facts}
    finish(told, args.model)


def show(situation: str, table: Mapping[str, Row]) -> None:
    shown = Table("judge", "balanced accuracy", "sensitivity", "specificity", "AUC", title=situation)
    for search in GUIDED:
        for column in (f"{search}: without A", "- a draw", "- greedy", "tokens"):
            shown.add_column(column)
    for name, row in sorted(table.items(), key=lambda item: -(item[1].balanced.mean or 0.0)):
        rates = map(cell, (row.balanced, row.sensitivity, row.specificity, row.auc))
        cells: list[str] = []
        for found in row.by.values():
            cells += map(cell, (found.good, found.minus_draw, found.minus_greedy))
            cells.append(f"{found.tokens:.0f}")
        shown.add_row(name, *rates, *cells)
    Console(width=200).print(shown)


def panel(situation: str, search: str, table: Mapping[str, Row], measure: str) -> Panel:
    """Gains in points over a measure of the judge in per cent, a line for each way of weakening it.

    The own judge is a point by itself: it was taught by another rule than those that know less.
    """
    series = []
    for kind in KINDS:
        rows = [row for row in table.values() if row.kind == kind]
        measured = [(row.balanced if measure == MEASURES[0] else row.auc).mean for row in rows]
        gains = [percent(row.by[search].minus_draw) for row in rows]
        known = [(100 * x, y) for x, y in zip(measured, gains, strict=True) if x is not None]
        series.append(Series(name=kind, x=[x for x, _ in known], y=[y for _, y in known]))
    return Panel(
        title=f"{situation.replace('_', ' ')}: {search}",
        x_label=f"judge's {measure}, %",
        y_label="gain over a draw, points",
        series=series,
        zero=True,
    )


def percent(estimate: Estimate) -> Estimate:
    """The same in per cent."""
    mean, low, high = (None if v is None else 100 * v for v in (estimate.mean, estimate.low, estimate.high))
    return Estimate(mean=mean, low=low, high=high, n=estimate.n)


if __name__ == "__main__":
    run_main(main)
