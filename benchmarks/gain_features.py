"""What of the selector's reward is there to learn, and what did the trainings of a gain study learn of it?

    python -m benchmarks.gain_features --study runs/ctrl_gain

A reward that cannot be learnt and a training that is too short look alike in a win rate. Where the truth is known they
can be told apart. The base model's answers to a test prompt are ranked by the selector, and readers who see more and
more of what an answer says predict the rank: its main fault, its other faults, its length in clauses, what kinds of
clause it has, its phrases and words. They are least-squares fits, one a situation, each on other prompts than those
that it predicts. A reader's *tilt*, the base answers weighed by e^(prediction / beta), is a policy that has learnt what
the reader knows and nothing else.

0. what the exact optimum on the raw reward and on its ranks wins, over each training prompt's anchors, at the study's
   KL: in every prompt, or in the mean at one beta, as a training has it
1. for each reader: the share of the rank's variance that it explains, and the win rates of its tilt at the study's KL,
   selector and judge being one
2. for each recipe, its trainings so far together: KL and win rate, the correlation of log pi/p with the rank over the
   answers to a prompt (1 for the ideal policy of `identity`), and how often answers have what the readers see

Last stdout line: one JSON object.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.optimize import brentq

from benchmarks.gain_plan import KL, PROCEDURES, Plan, read_plan
from benchmarks.gain_runs import draw_base, make_point, point_folder
from benchmarks.mains import run_main
from benchmarks.sandbox_runs import finish
from inferalign.cli.tables import show
from inferalign.core.types import Prompt
from inferalign.ctrl.anchors import AnchorSet
from inferalign.sandbox.oracle import MAIN, grade
from inferalign.theory.procedures import OfN
from inferalign.winrate.estimators import contests
from inferalign.winrate.pools import Pool, read_answers
from inferalign.winrate.run import POOL

Floats = NDArray[np.float64]
READERS = ("main fault", "other faults", "clauses", "kinds", "phrases and words")
"""What each reader sees beyond the one before it."""
FOLDS = 4
RIDGE = 2.0


class Answered(NamedTuple):
    """The answers to one prompt that the oracle can read."""

    situation: str
    rank: Floats
    """Of the selector's score among the base model's answers, 0 to 1; [M]."""
    seen: tuple[Mapping[tuple[int, str], float], ...]
    """Of each answer, what the readers see: (index of the reader, name) to a number."""
    log_ratios: Floats
    """log pi/p, [M]."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("runs/ctrl_gain"))
    args = parser.parse_args()
    plan = read_plan(args.study)
    base, _ = draw_base(args.study, plan)
    answered = read(args.study / "base", base, base)
    if not answered:
        raise SystemExit("the oracle can read none of the base model's answers: give a study on the sandbox model")
    anchors = AnchorSet.load(args.study / "anchors")
    tilts = told_by_tilts([row.values[row.scored] for row in map(anchors.scores.row, range(len(anchors.prompt_ids)))])
    readers = told_by_readers(answered)
    policies = told_by_policies(args.study, plan, base, answered)
    finish({"study": str(args.study), "kl": KL, "tilts": tilts, "readers": readers, "policies": policies})
    return 0


def told_by_tilts(rows: Sequence[Floats]) -> list[dict[str, Any]]:
    """Table 0, and its numbers. rows: the anchors' scores, prompt by prompt."""
    table = Table(
        "tilted by", "KL", "its sd over prompts", *PROCEDURES, title="The anchors, tilted exactly; win rate, %"
    )
    ranks = [np.unique(row, return_inverse=True)[1] / row.size for row in rows]
    raw = {"raw": [tilt([row])[0] for row in rows], "raw, one beta": tilt(rows)}
    told = []
    for name, weighed in {**raw, "ranks": [tilt([row])[0] for row in ranks]}.items():
        kls = [float((w * np.log(np.maximum(w * w.size, 1e-300))).sum()) for w in weighed]
        wins = {
            procedure: float(np.mean([selected(chosen, row, w) for row, w in zip(rows, weighed, strict=True)]))
            for procedure, chosen in PROCEDURES.items()
        }
        told.append({"tilted_by": name, "kl": float(np.mean(kls)), "kl_sd": float(np.std(kls)), "wins": wins})
        table.add_row(name, f"{np.mean(kls):.2f}", f"{np.std(kls):.2f}", *(f"{100 * win:.1f}" for win in wins.values()))
    show(table)
    return told


def read(folder: Path, pool: Pool, base: Pool) -> list[Answered]:
    """The pool in `folder`, prompt by prompt, ranked among the base model's answers."""
    found = []
    for each in read_answers(folder / POOL):
        name = each.prompt.id
        scores, anchors = pool.selector[name], base.selector[name]
        seen = {at: described(each.prompt, each.completions[at].text) for at in np.flatnonzero(scores.judged).tolist()}
        kept = {at: what for at, what in seen.items() if what is not None}
        if kept:
            found.append(
                Answered(
                    situation=name.rsplit("-", 3)[0],
                    rank=contests(scores.keys[list(kept)], anchors.keys[anchors.judged]).mean(axis=1),
                    seen=tuple(kept.values()),
                    log_ratios=pool.log_ratios[name][list(kept)],
                )
            )
    return found


def described(prompt: Prompt, text: str) -> dict[tuple[int, str], float] | None:
    """What is to be seen in an answer; None where the oracle cannot read it."""
    verdict = grade(prompt.text, text)
    if verdict.letters is None or not verdict.clauses:
        return None
    seen: dict[tuple[int, str], float] = {(0, MAIN): float(MAIN in verdict.letters)}
    seen |= {(1, letter): 1.0 for letter in verdict.letters if letter != MAIN}
    share = 1 / len(verdict.clauses)
    seen[2, str(len(verdict.clauses))] = 1.0
    for clause in verdict.clauses:
        words = [f"{slot}={word}" for slot, word in clause.words]
        for reader, name in [(3, clause.kind), (4, clause.atom), *((4, word) for word in words)]:
            seen[reader, name] = seen.get((reader, name), 0.0) + share
            if reader == 3:
                seen[3, f"has {name}"] = 1.0
    return seen


def told_by_readers(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Table 1, and its numbers."""
    table = Table("a reader who knows", "R2", *(f"{name}, KL {KL:g}" for name in PROCEDURES))
    told = []
    exact = [each.rank for each in answered]
    predictions = {reader: predicted(answered, upto) for upto, reader in enumerate(READERS)}
    for reader, values in {**predictions, "the score itself": exact}.items():
        centred = [each.rank - each.rank.mean() for each in answered]
        left = sum(float(np.square(c - (v - v.mean())).sum()) for c, v in zip(centred, values, strict=True))
        explained = 1 - left / sum(float(np.square(c).sum()) for c in centred)
        weights = tilt(values)
        wins = {
            name: float(np.mean([selected(chosen, each.rank, w) for each, w in zip(answered, weights, strict=True)]))
            for name, chosen in PROCEDURES.items()
        }
        label = reader if reader in (READERS[0], "the score itself") else f"and {reader}"
        table.add_row(label, f"{explained:.2f}", *(f"{100 * win:.1f}" for win in wins.values()))
        told.append({"reader": reader, "r2": explained, "wins": wins})
    show(table)
    return told


def predicted(answered: Sequence[Answered], upto: int) -> list[Floats]:
    """The rank as the reader predicts it, less its mean over the prompt; each prompt by a fit on other folds."""
    found: list[Floats] = [np.zeros(0)] * len(answered)
    for situation in {each.situation for each in answered}:
        places = [at for at, each in enumerate(answered) if each.situation == situation]
        names = sorted({key for at in places for seen in answered[at].seen for key in seen if key[0] <= upto})
        columns = {key: column for column, key in enumerate(names)}
        rows = {}
        for at in places:
            design = np.zeros((len(answered[at].seen), len(names)))
            for row, seen in enumerate(answered[at].seen):
                for key, value in seen.items():
                    if key in columns:
                        design[row, columns[key]] = value
            rows[at] = design - design.mean(axis=0)
        for fold in range(FOLDS):
            others = [at for number, at in enumerate(places) if number % FOLDS != fold]
            x = np.concatenate([rows[at] for at in others])
            y = np.concatenate([answered[at].rank - answered[at].rank.mean() for at in others])
            fit = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(names)), x.T @ y)
            for at in places[fold::FOLDS]:
                found[at] = rows[at] @ fit
    return found


def tilt(values: Sequence[Floats]) -> list[Floats]:
    """Weights of each prompt's answers, proportional to e^(value / beta), at the one beta whose mean KL is `KL`.

    Where no beta has so much, as for a reader of two classes, the steepest that was tried.
    """

    def weights(steep: float) -> list[Floats]:
        raw = [np.exp(steep * (value - value.max())) for value in values]
        return [each / each.sum() for each in raw]

    def kl(steep: float) -> float:
        return float(np.mean([(w * np.log(np.maximum(w * w.size, 1e-300))).sum() for w in weights(steep)]))

    steepest = 1e3
    return weights(steepest if kl(steepest) <= KL else brentq(lambda steep: kl(steep) - KL, 0.0, steepest))


def selected(chosen: OfN, rank: Floats, weights: Floats) -> float:
    """Win rate of the weighed answers over the unweighed, both under `chosen` and judged by their rank; ties half."""
    _, level = np.unique(rank, return_inverse=True)
    up_to = [np.cumsum(np.bincount(level, each)).clip(max=1.0) for each in (weights, np.full(rank.size, 1 / rank.size))]
    won, lost = (np.diff(chosen.G(share, 1 - share), prepend=0.0) for share in up_to)
    return float((won * (np.cumsum(lost) - lost / 2)).sum())


def told_by_policies(study: Path, plan: Plan, base: Pool, answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Table 2, and its numbers; the base model comes first."""
    table = Table("policy", "KL", "win rate", "log pi/p with rank", "main fault, %", "other faults", "clauses")
    told = []
    groups = {"base": answered}
    for recipe, seed in product(plan.recipes, range(plan.seeds)):
        for kl in plan.targets(recipe):
            folder = point_folder(study, recipe, kl, seed)
            if (folder / "model").exists():
                pool = make_point(study, plan, recipe, kl, seed, 1.0).pool
                groups.setdefault(recipe, []).extend(read(folder, pool, base))
    for name, rows in groups.items():
        every = [seen for each in rows for seen in each.seen]
        facts = {
            "policy": name,
            "kl": float(np.mean([each.log_ratios.mean() for each in rows])),
            "win_rate": float(np.mean([each.rank.mean() for each in rows])),
            "log_ratio_with_rank": None if name == "base" else together(rows),
            "main_fault": float(np.mean([seen[0, MAIN] for seen in every])),
            "other_faults": float(np.mean([sum(reader == 1 for reader, _ in seen) for seen in every])),
            "clauses": float(np.mean([next(int(n) for reader, n in seen if reader == 2) for seen in every])),
        }
        told.append(facts)
        correlation = facts["log_ratio_with_rank"]
        table.add_row(
            name,
            f"{facts['kl']:.3f}",
            f"{100 * facts['win_rate']:.1f}",
            "-" if correlation is None else f"{correlation:.2f}",
            f"{100 * facts['main_fault']:.1f}",
            f"{facts['other_faults']:.2f}",
            f"{facts['clauses']:.2f}",
        )
    show(table)
    return told


def together(rows: Sequence[Answered]) -> float:
    """Correlation of log pi/p and rank, each less its prompt's mean."""
    ratios = np.concatenate([each.log_ratios - each.log_ratios.mean() for each in rows])
    rank = np.concatenate([each.rank - each.rank.mean() for each in rows])
    return float(np.corrcoef(ratios, rank)[0, 1])


if __name__ == "__main__":
    run_main(main)
