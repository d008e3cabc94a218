"""What the sandbox model's other typed decisions are worth: does issue B hold, how many points, beside the oracle.

    python -m benchmarks.sandbox_decisions [--model sandbox] [--n 150] [--seed 30021] [--situations encourage_learning]

Searches are led by the question of the main fault, which `sandbox_gates` measures. Here the model is asked the others
about its own T=1 replies, in the form that it was trained on: *yes or no* for every other letter of human agency, about
whole replies and about replies cut at every clause end (there for issues of commission alone: what was left out may
still come), and *points*, from 0 to 10, of whole replies. Prompts are clusters. Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.mains import run_main
from benchmarks.sandbox_gates import IN_FLIGHT, answers, by_prompt, cuts_of
from benchmarks.sandbox_runs import cell, finish
from inferalign.core.errors import InferalignError
from inferalign.core.stats import Estimate
from inferalign.core.types import Result, RoleUsage, Unscored
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.sandbox.curriculum import ISSUE, NO, SCORE, SCORES, YES
from inferalign.sandbox.oracle import MAIN
from inferalign.sandbox.situations import SITUATIONS
from inferalign.scorers.decisions import Decision, DecisionJudge, DecisionSet, Scale, YesNo
from inferalign.scorers.questions import Phrasing
from inferalign.scorers.verdicts import ISSUES

POINTS = "points"


class Said(NamedTuple):
    """The answer to one question about one text, and the truth: whether the issue is there, or its merit."""

    prompt: str
    asked: str
    """A letter, or `POINTS`."""
    whole: bool
    truth: float
    answer: float
    """The probability of yes, or the mean of the points."""


def decisions(situation: str) -> DecisionSet:
    """Every question about a reply there but that of the main fault."""
    asked: list[Decision] = [
        YesNo(name=letter, phrasings=(Phrasing(text=ISSUE.format(letter=letter), labels=(YES, NO)),))
        for letter in ISSUES.get(situation, ())
        if letter != MAIN
    ]
    asked.append(Scale(name=POINTS, levels=tuple(range(len(SCORES))), phrasings=(Phrasing(text=SCORE, labels=SCORES),)))
    return DecisionSet(name=situation, conversation="chat", preamble="", decisions=tuple(asked))


async def ask(model: LoadedModel, kind: str, results: Sequence[Result]) -> list[Said]:
    """Raises `InferalignError` where the model gives no answer at all: that is no figure."""
    judge, turns = DecisionJudge(model.engine, model.chat, decisions(kind)), asyncio.Semaphore(IN_FLIGHT)

    async def one(result: Result) -> list[Said]:
        async with turns:
            return await ask_about(judge, kind, result)

    return [said for of_one in await asyncio.gather(*map(one, results)) for said in of_one]


async def ask_about(judge: DecisionJudge, kind: str, result: Result) -> list[Said]:
    cuts = [cut for cut in cuts_of(judge.chat, result) if cut.verdict.parsed]
    said = await judge.ask(result.prompt, [cut.text for cut in cuts], RoleUsage())
    made = []
    for cut, of_cut in zip(cuts, said, strict=True):
        for name, answer in of_cut.items():
            if isinstance(answer, Unscored):
                raise InferalignError(f"{result.prompt.id}: {answer.reason}")
            if name == POINTS and cut.whole and cut.verdict.merit is not None:
                made.append(Said(result.prompt.id, name, True, cut.verdict.merit, answer.expected))
            elif name != POINTS and (cut.whole or name not in SITUATIONS[kind].omissions):
                there = name in (cut.verdict.letters or "")
                made.append(Said(result.prompt.id, name, cut.whole, float(there), answer.yes))
    return made


def facts(found: Sequence[Said]) -> dict[str, Any]:
    """Of the issues, pooled: the share of those there that are named, and of those not there that are not."""
    told: dict[str, Any] = {}
    for part, whole in (("whole", True), ("partial", False)):
        asked = [said for said in found if said.asked != POINTS and said.whole == whole]
        there = [(said.prompt, said.answer > 0.5) for said in asked if said.truth]
        absent = [(said.prompt, said.answer <= 0.5) for said in asked if not said.truth]
        told[part] = {"named": asdict(rate(there)), "not_named": asdict(rate(absent))}
    points = [said for said in found if said.asked == POINTS]
    truth, answer = [said.truth for said in points], [said.answer for said in points]
    told[POINTS] = {
        "n": len(points),
        "rank": float(spearmanr(truth, answer).statistic) if len(set(truth)) > 1 and len(set(answer)) > 1 else None,
        "error": fmean(abs(a - t) for a, t in zip(answer, truth, strict=True)) if points else None,
        "bias": fmean(answer) - fmean(truth) if points else None,
    }
    return told


def rate(right: list[tuple[str, bool]]) -> Estimate:
    return by_prompt(right) if right else Estimate.empty()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=30021)
    parser.add_argument("--situations", default=",".join(SITUATIONS))
    args = parser.parse_args()
    model = load(args.model, ModelOptions())
    told = {}
    for kind in args.situations.split(","):
        told[kind] = facts(asyncio.run(ask(model, kind, answers(model, kind, args.n, args.seed, 1.0))))
        print(f"{kind}: done", file=sys.stderr)
    show(told)
    finish({"n": args.n, "seed": args.seed, "decisions": told}, args.model)


def show(told: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("situation", "whole: named", "not named", "partial: named", "not named", "rank", "error", "bias")
    for kind, found in told.items():
        rates = [cell(found[part][key]) for part in ("whole", "partial") for key in ("named", "not_named")]
        points = found[POINTS]
        table.add_row(
            kind, *rates, *("-" if points[k] is None else f"{points[k]:.2f}" for k in ("rank", "error", "bias"))
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    run_main(main)
