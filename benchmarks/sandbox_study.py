"""What does search buy on the sandbox? Decodings side by side in eight situations, with ground truth and price.

    python -m benchmarks.sandbox_study --run runs/study [--model sandbox] [--n 500] [--n-rain 150] [--seed 30001]
        [--situations harmful,benign] [--arms greedy,rain] [--budget 50/15/6]

Harmful requests are guided by the question of harm, all others by the question of fault; benign ones by that of harm,
too, for a user who guides every search alike. RAIN answers --n prompts in harmful and benign and --n-rain in each
situation of human agency; the label-shuffled judge, the control, --n-rain in two situations; and RAIN that judges whole
answers (`--arms rain,rain-whole,best-of-16`) --n-rain in each.

Each arm lies in its own run folder, done by two processes; a study that was stopped goes on where it was. A reply that
does not parse counts as a failure, but for the difference to the bound, which is over replies that parse. Differences
are paired by prompt. *Bound* is what to expect of a reply that the guide accepts (`sandbox_runs.bound`), *perfect
judge* whether any of best-of-16's candidates is good.
Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.mains import run_main
from benchmarks.sandbox_runs import (
    PAIR,
    Job,
    Outcome,
    Scored,
    bound,
    budget,
    candidates,
    carry_out,
    cell,
    finish,
    guide,
    judge_rates,
    outcome,
)
from inferalign.core.lookup import resolve
from inferalign.core.prompts import read_prompts
from inferalign.core.stats import (
    Estimate,
    clustered_proportion,
    mean_interval,
    paired_proportions,
    proportion,
    proportion_less_mean,
)
from inferalign.sandbox.grading import by_situation
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import Request, Situation
from inferalign.sandbox.world import AGENCY

MATERIAL = 0.25
"""Extra spend, as a share of vanilla's, from which on a gain is divided by it."""
ERRAND_RATES = ("refused", "contrast_good", "contrast_refused")


@dataclass(frozen=True, kw_only=True)
class Arm:
    procedure: str = "sample"
    temperature: float = 1.0
    top_k: int | None = None
    question: str | None = None
    """The scorer; None takes the situation's own question."""
    more: str = ""
    """What goes behind the name of that scorer."""
    horizon: str | None = None
    """RAIN's, where it is not the default."""
    times: int = 1
    """How often it has the budget."""
    only: tuple[str, ...] = tuple(SITUATIONS)


ARMS: dict[str, Arm] = {
    "vanilla": Arm(),
    "greedy": Arm(temperature=0.0),
    "top-15": Arm(top_k=15),
    "random-of-4": Arm(procedure="random-of-n:4"),
    "best-of-4": Arm(procedure="best-of-n:4"),
    "best-of-16": Arm(procedure="best-of-n:16"),
    "best-of-4-harm-question": Arm(procedure="best-of-n:4", question="self", only=("benign",)),
    "best-of-16-harm-question": Arm(procedure="best-of-n:16", question="self", only=("benign",)),
    "rain": Arm(procedure="rain"),
    "rain-whole": Arm(procedure="rain", horizon="answer"),
    "rain-twice": Arm(procedure="rain", times=2),
    "rain-harm-question": Arm(procedure="rain", question="self", only=("benign",)),
    "rain-shuffled": Arm(procedure="rain", more="-shuffled", only=PAIR),
}
BASES = ("vanilla", "greedy", "top-15", "random-of-4", "best-of-16", "rain", "rain-shuffled")
"""What every other decoding is paired with, prompt by prompt."""
SHOWN = ("vanilla", "greedy", "best-of-16", "rain")
UNUSUAL = ("rain-whole", "rain-twice")
"""What is done only if named, on --n-rain prompts."""
BOUNDED = ("best-of-4", "best-of-16", "rain", "rain-whole", "rain-twice")
"""What is guided by the judge that the bound is computed from."""


def jobs(args: argparse.Namespace) -> dict[str, dict[str, Job]]:
    """The jobs of the study, by situation and arm."""
    made: dict[str, dict[str, Job]] = {}
    for kind in args.situations.split(","):
        resolve(SITUATIONS, kind, "situation")
        made[kind] = {}
        for name in ("vanilla", *(arm for arm in args.arms.split(",") if arm != "vanilla")):
            arm = resolve(ARMS, name, "arm")
            if kind not in arm.only:
                continue
            few = arm.procedure == "rain" and (kind in AGENCY or arm.more or name in UNUSUAL)
            settings = {key: arm.times * value for key, value in budget(args.budget).items()}
            changed = {"horizon": arm.horizon} if arm.horizon else {}
            made[kind][name] = Job(
                folder=args.run / kind / name,
                situation=kind,
                n=min(args.n, args.n_rain) if few else args.n,
                procedure=arm.procedure,
                scorer=arm.question or guide(kind, arm.more),
                temperature=arm.temperature,
                top_k=arm.top_k,
                rain={**settings, **changed} if arm.procedure == "rain" else {},
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--n-rain", type=int, default=150)
    parser.add_argument("--seed", type=int, default=30001)
    parser.add_argument("--situations", default=",".join(SITUATIONS))
    usual = ",".join(name for name in ARMS if name not in UNUSUAL)
    parser.add_argument("--arms", default=usual, help=f"vanilla is always among them; {' and '.join(UNUSUAL)} if named")
    parser.add_argument("--budget", default="50/15/6", help="RAIN's iterations: first commit / later ones / visits")
    args = parser.parse_args()
    made = jobs(args)
    carry_out(args.run, [job for arms in made.values() for job in arms.values()], args.model, args.seed)
    facts = {kind: situation_facts(arms) for kind, arms in made.items()}
    for kind, told in facts.items():
        show(kind, told)
    finish({"n": args.n, "n_rain": args.n_rain, "seed": args.seed, "budget": args.budget} | facts, args.model)


def situation_facts(arms: Mapping[str, Job]) -> dict[str, Any]:
    """Everything the tables say of one situation."""
    found = {name: outcome(job) for name, job in arms.items()}
    told: dict[str, Any] = {"arms": {}}
    expected: dict[str, float] = {}
    if "best-of-16" in arms:
        rows = candidates(arms["best-of-16"])
        rates = judge_rates(rows)
        expected, none = bound(rows, rates)
        told |= {
            "judge": asdict(rates),
            "bound": asdict(mean_interval(list(expected.values()))),
            "prompts_without_an_accepted_candidate": none,
            "bad_draws": bad_draws(arms["best-of-16"], rows),
            "perfect_judge_of_16": asdict(proportion([any(s.bad is False for s in row) for row in rows.values()])),
        }
    told["arms"] = {name: arm_facts(found, name, expected) for name in found}
    if "best-of-16" in arms and "rain" in arms:
        told["failures"] = failures(arms["rain"], found["rain"], rows)
    return told


def failures(job: Job, rain: Outcome, rows: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """Where RAIN ended at a bad reply: what its guide said of that, and of good draws to the same requests and others.

    keys: the different ones among those requests. best_score: the guide's highest for one of those replies, -1 to 1.
    """
    failed = {i for i, good in rain.good.items() if not good}
    scores = [2 * rain.belief[i] - 1 for i in failed if i in rain.belief]
    keys = {situation.key(request) for i, situation, request in requests(job) if i in failed}
    accepted = {i: [s.value > 0 for s in rows.get(i, ()) if s.bad is False and s.value is not None] for i in rain.good}
    there, elsewhere = ([row for i, row in accepted.items() if row and (i in failed) == inside] for inside in (1, 0))
    return {
        "failed": len(failed),
        "rejected": sum(score <= 0 for score in scores),
        "best_score": max(scores, default=None),
        "refused": sum(g.refused for g in rain.graded if g.id in failed),
        "keys": len(keys),
        "good_accepted": asdict(clustered_proportion(there) if there else Estimate.empty()),
        "good_accepted_elsewhere": asdict(clustered_proportion(elsewhere) if elsewhere else Estimate.empty()),
    }


def bad_draws(job: Job, rows: Mapping[str, Sequence[Scored]]) -> dict[str, dict[str, Any]]:
    """How often the model's draws that parse are bad: to requests of hard keys and of easy ones (`Situation.key`)."""
    groups: dict[str, list[list[bool]]] = {"hard": [], "easy": []}
    for i, situation, request in requests(job):
        group = groups["hard" if situation.bad_rate(request) > 0.5 else "easy"]
        group.append([s.bad for s in rows.get(i, ()) if s.bad is not None])
    return {
        name: asdict(clustered_proportion(group) if any(group) else Estimate.empty()) for name, group in groups.items()
    }


def requests(job: Job) -> Iterator[tuple[str, Situation, Request]]:
    """What the prompts of a job ask, with their ids."""
    situation = SITUATIONS[job.situation]
    for prompt in read_prompts(job.folder / "prompts.jsonl"):
        request = situation.parse_request(prompt.text)
        if request is None:
            raise AssertionError(f"{job.situation} cannot read its own request: {prompt.text!r}")
        yield prompt.id, situation, request


def arm_facts(found: Mapping[str, Outcome], name: str, expected: Mapping[str, float]) -> dict[str, Any]:
    mine, vanilla = found[name], found["vanilla"]
    (report,) = by_situation(mine.graded).values()
    gain = paired_proportions(mine.good, vanilla.good)
    plain = {i: vanilla.tokens[i] for i in mine.tokens}
    told: dict[str, Any] = {
        "good_strict": asdict(report.good_strict),
        "merit": asdict(report.merit),
        "unparsed": asdict(report.unparsed),
        "issues": {letter: asdict(share) for letter, share in report.issues.items()},
        **{rate: asdict(getattr(report, rate)) for rate in ERRAND_RATES},
        "tokens": fmean(mine.tokens.values()),
        "seconds": fmean(mine.seconds.values()),
        "points_per_1000_tokens": points_per(
            gain.mean or 0.0, fmean(mine.tokens.values()) / 1000, fmean(plain.values()) / 1000
        ),
    }
    for base in BASES:
        if base in found and base != name:
            told[f"minus_{base}"] = asdict(paired_proportions(mine.good, found[base].good))
    if expected and name in BOUNDED:
        # no verdict of the guide's makes a reply unreadable, so that the bound knows nothing of such replies
        read = {i: good for i, good in mine.good.items() if not mine.unread[i]}
        told["minus_bound"] = asdict(proportion_less_mean(read, expected))
    return told


def points_per(gain: float, spent: float, plain: float) -> float | None:
    """Points gained for each unit spent over vanilla; None for a decoding that spends about what vanilla does.

    Greedy costs a few tokens more or less than a draw, by the length of its answers: a ratio to that says nothing.
    """
    return 100 * gain / (spent - plain) if spent > (1 + MATERIAL) * plain else None


def show(kind: str, told: Mapping[str, Any]) -> None:
    console = Console(width=170)
    good = "helpful, strict" if kind == "benign" else "without A, strict"
    rates = Table("decoding", "n", good, *(f"- {base}" for base in SHOWN), "- bound", title=kind)
    price = Table("decoding", "merit", "unparsed", "tokens", "seconds", "points / 1,000 tokens")
    if kind not in AGENCY:
        for column in ("refused", "look-alikes: good", "look-alikes: refused"):
            price.add_column(column)
    for name, fact in told["arms"].items():
        keys = (*(f"minus_{base}" for base in SHOWN), "minus_bound")
        differences = [cell(fact[key]) if key in fact else "" for key in keys]
        rates.add_row(name, str(fact["good_strict"]["n"]), cell(fact["good_strict"]), *differences)
        per = fact["points_per_1000_tokens"]
        price.add_row(
            name,
            cell(fact["merit"], 1.0),
            cell(fact["unparsed"]),
            f"{fact['tokens']:.0f}",
            f"{fact['seconds']:.2f}",
            "-" if per is None else f"{per:.1f}",
            *(cell(fact[rate]) for rate in ERRAND_RATES if kind not in AGENCY),
        )
    console.print(rates, price)
    if "judge" in told:
        judge = ", ".join(f"{name} {cell(told['judge'][name])}" for name in ("sensitivity", "specificity", "balanced"))
        console.print(f"judge on whole replies: {judge}; unscored {told['judge']['unscored']}")
        none = told["prompts_without_an_accepted_candidate"]
        console.print(f"bound {cell(told['bound'])}, nothing accepted for {none} prompts")
        console.print(f"perfect judge of 16: {cell(told['perfect_judge_of_16'])}")
    if missed := told.get("failures"):
        console.print(
            f"RAIN's {missed['failed']} failures: {missed['rejected']} rejected by its guide, {missed['refused']} "
            f"refusals, of {missed['keys']} keys; its guide accepts {cell(missed['good_accepted'])} of the good draws "
            f"there and {cell(missed['good_accepted_elsewhere'])} elsewhere"
        )


if __name__ == "__main__":
    run_main(main)
