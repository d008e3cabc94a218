"""Writes docs/sandbox.md's generated parts and the model card: `python -m inferalign.cli.sandbox_docs [FILE...]`.

The dialogues come from the world itself, and a test compares the page with them. The figures are copied from files of
what a benchmark printed (`sandbox_reports`): `sandbox_gates` of the shipped weights, then of the other training seeds,
`sandbox_study` likewise, `sandbox_reward`, `inferalign sandbox audit` with and without a run, and the studies of
`sandbox_search_docs`. The model card is written beside the shipped weights when there are gates.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from inferalign.cli.pages import markdown_table, rewrite
from inferalign.cli.sandbox_reports import read_reports
from inferalign.cli.sandbox_search_docs import SEARCH_TABLES, cell, trainings
from inferalign.core.errors import InferalignError
from inferalign.core.files import read_json, write_bytes_atomic
from inferalign.core.seeds import derive
from inferalign.engines.table import SANDBOX_CARD
from inferalign.engines.weights import weights_digest
from inferalign.sandbox.grammar import render
from inferalign.sandbox.knowledge import EASIER
from inferalign.sandbox.oracle import MAIN, grade
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import PLANS
from inferalign.scorers.verdicts import ISSUES

PAGE = Path(__file__).parents[3] / "docs" / "sandbox.md"
MODEL = Path(__file__).parents[1] / "sandbox" / "model"
SEED = 11
READERS = ("reply", "prompt", "both", "overlap", "base")


def dialogues() -> str:
    """A request of each situation with a bad reply, one that only looks like it, and a good one."""
    rows = []
    for name, situation in SITUATIONS.items():
        rng = random.Random(derive(SEED, "docs", name))
        request = situation.draw(rng)
        rows.append([f"**{name}**", f"*{request.text}*", "", ""])
        for plan in PLANS:
            reply = render(situation.draw_reply(request, rng, plan))
            verdict = grade(request.text, reply)
            rows.append([plan, reply, verdict.letters or "none", f"{verdict.merit:g}, {verdict.quality:.2f}"])
    return markdown_table(["", "request and replies", "letters", "merit, quality"], rows)


def letters() -> str:
    """What every issue letter says, and the points that it takes off."""
    rows = [["harmful", "A", "", "says how to do the harm that was asked for: a fitting tool, put to that thing"]]
    rows += [["benign", "A", "", "does not say how to do what was asked for, or refuses"]]
    for name, issues in ISSUES.items():
        for letter, issue in issues.items():
            rows.append([name if letter == MAIN else "", letter, str(issue.points), issue.description])
    return markdown_table(["situation", "letter", "points off", "the reply"], rows)


def difficulty() -> str:
    """How often replies are bad, by situation: as the world has them, for its hard and for its easy keys."""
    rows = []
    for name, situation in SITUATIONS.items():
        cells = []
        for hard in (True, False):
            rates = [rate for rate in situation.bad_rates.values() if (rate > 0.5) == hard]
            cells += [str(len(rates)), f"{100 * min(rates):.0f} to {100 * max(rates):.0f}"]
        rows.append([name, *cells])
    return markdown_table(["situation", "hard keys", "bad replies, %", "easy keys", "bad replies, %"], rows)


def replies(facts: Mapping[str, Any]) -> str:
    """What the model says, vanilla and greedy, by situation."""
    rows = []
    for name in SITUATIONS:
        vanilla, greedy = facts[name]["vanilla"], facts[name]["greedy"]
        cells = (vanilla["unparsed"], vanilla["good_strict"], greedy["good_strict"], vanilla["issues"][MAIN])
        rest = " ".join(f"{x} {100 * rate['mean']:.0f}" for x, rate in vanilla["issues"].items() if x != MAIN)
        merit = vanilla["merit"]
        worth = f"{merit['mean']:.2f} [{merit['low']:.2f}, {merit['high']:.2f}]"
        rows.append([name, *map(cell, cells), rest, worth])
    head = [
        "situation",
        "unparsed, %",
        "without A, vanilla",
        "greedy",
        "issue A, vanilla, %",
        "other issues, %",
        "merit",
    ]
    return markdown_table(head, rows)


def judge(facts: Mapping[str, Any]) -> str:
    """What the model's own judge is worth on them, lettered form, whole and partial replies apart."""
    rows = []
    for name in SITUATIONS:
        for part, found in facts[name]["letters"].items():
            if "balanced" in found:
                words = facts[name]["words"][part].get("balanced")
                beside = "-" if words is None else f"{words:.3f}"
                rejected = "-" if found["auc_rejected"] is None else f"{found['auc_rejected']:.3f}"
                plain = (f"{found['accuracy']:.3f}", f"{found['majority']:.3f}")
                rates = (f"{found['balanced']:.3f}", f"{found['auc']:.3f}", rejected, *plain)
                cells = (cell(found["sensitivity"]), cell(found["specificity"]), *rates)
                rows.append([name, part, str(found["texts"]), *cells, f"{100 * found['flips']:.1f}", beside])
    head = ["situation", "replies", "n", "sensitivity, %", "specificity, %", "balanced", "AUC", "AUC, rejected"]
    return markdown_table([*head, "accuracy", "majority", "order flips, %", "balanced, words"], rows)


def seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """Each training seed's worst situation, and what its gates say; the shipped one first."""
    rows = []
    for facts in runs:
        found = [facts[name] for name in SITUATIONS]
        parsed = min(100 - 100 * f["vanilla"]["unparsed"]["mean"] for f in found)
        gain = max(f["greedy"]["good_strict"]["mean"] - f["vanilla"]["good_strict"]["mean"] for f in found)
        judged = [p for f in found for p in f["letters"].values() if "balanced" in p]
        balanced = [p["balanced"] for p in judged]
        rows.append(
            [
                f"seed {facts['training_seed']}",
                f"{parsed:.1f}",
                cell(facts["harmful"]["vanilla"]["good_strict"]),
                f"{100 * gain:+.1f}",
                f"{min(balanced):.3f} to {max(balanced):.3f}",
                f"{min(p['auc'] for p in judged):.3f}",
                f"{sum(facts['gates'].values())} of {len(facts['gates'])}",
            ]
        )
    head = ["weights", "parsed, %, at least", "harmless, %", "greedy - vanilla, points, at most", "judge, balanced"]
    return markdown_table([*head, "AUC, at least", "gates met"], rows)


def reward(facts: Mapping[str, Any]) -> str:
    """Each reward model on fresh samples, by situation, and how often another orders a pair as the first does."""
    rows = []
    first = next(iter(facts["rewards"]))
    for name, kinds in facts["rewards"].items():
        agreed = facts.get("agreement", {}).get(f"{first} and {name}", {})
        for kind, found in kinds.items():
            grades = (f"{found[key]:.2f}" for key in ("random", "best_of_4", "perfect"))
            cells = (cell(found["accuracy"]), cell(found["ties"]), _number(found["rank"]))
            label = "shipped" if name == "reward" else Path(name.partition(":")[2]).name
            alike = cell(agreed[kind]) if kind in agreed else ""
            rows.append([label, kind, *cells, _number(found["within"]["mean"]), *grades, alike])
    head = ["reward model", "situation", "pairs, %", "ties in best-of-4, %", "rank", "within a prompt", "random reply"]
    return markdown_table([*head, "best-of-4", "best of the four", "agrees with the first, %"], rows)


def others(facts: Mapping[str, Any]) -> str:
    """What the model answers when it is asked about something else than the main fault."""
    rows = []
    for name, found in facts["decisions"].items():
        rates = [cell(found[part][key]) for part in ("whole", "partial") for key in ("named", "not_named")]
        rows.append([name, *rates, *(_number(found["points"][key]) for key in ("rank", "error"))])
    head = ["situation", "whole: named, %", "not named, %", "partial: named, %", "not named, %", "points: rank"]
    return markdown_table([*head, "mean error"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def leaks(facts: Mapping[str, Any]) -> str:
    """How well readers without understanding find the main fault of the world's own replies: balanced accuracy."""
    rows = []
    for name, found in facts["situations"].items():
        counts = (f"{found['reading']['cuts']:,}", str(found["reading"]["ambiguous"] + found["reading"]["unread"]))
        rows.append([name, *counts, *(cell(found["readers"][reader]) for reader in READERS)])
    head = ["situation", "cuts", "read in two ways or none", "words of the reply", "of the request", "of both"]
    return markdown_table([*head, "shared by both", "base rate of the key"], rows)


def copies(facts: Mapping[str, Any]) -> str:
    """How many of a model's replies occur in none of its training conversations."""
    rows = [[name, str(found["new"]["n"]), cell(found["new"])] for name, found in facts["replies"].items()]
    return markdown_table(["situation", "replies", "new, %"], rows)


def model_card(made: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The README.md of the shipped weights: `made` is their sandbox.json, `facts` what the gates measured on them."""
    recipe = made["recipe"]
    return f"""---
license: apache-2.0
library_name: transformers
tags: [synthetic, measuring-instrument]
---
# {made["version"]}

A chat model of {recipe["layers"]} layers and width {recipe["hidden"]} that speaks about a small made-up world (version
{made["world"]}) and judges what it says there. It is a measuring instrument: every reply can be parsed back, so the
truth about it is known. It knows nothing of the real world, and is no assistant.

- **Made by** `inferalign sandbox train --seed {recipe["seed"]} --out DIR`, from random weights:
  {recipe["steps"]:,} steps of {recipe["batch_size"]} generated conversations. No text by or about people was used.
- **Load it** with `AutoModelForCausalLM.from_pretrained`, or as `--model sandbox`. Weights are safetensors in bfloat16.
- **It answers badly on purpose**, as often as the tables say, so that a search or a training has something to mend.
- **Its judge errs on purpose**: it was taught by a reader that does not know some of the world's words, and suspects
  {100 - 100 * recipe["specificity"]:.0f} % of the good replies for that, more in {" and ".join(EASIER)}.

Measured on test content ({facts["n"]} prompts a situation, seed {facts["seed"]}, 95 % intervals), as
`python -m benchmarks.sandbox_gates` prints it.

## Replies
{replies(facts)}

## Its judgement of its own replies
{judge(facts)}
"""


def parts_of(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Callable[[], str]]:
    """The parts of the page that there are figures for, by name; `reports` as `read_reports` gives them."""
    parts = {"dialogues": dialogues, "letters": letters, "difficulty": difficulty}
    if gates := reports.get("gates"):
        parts |= {
            "replies": lambda: replies(gates[0]),
            "judge": lambda: judge(gates[0]),
            "seeds": lambda: seeds(gates),
        }
    for kind, tables in TABLES.items():
        if kind in reports:
            parts |= {name: partial(table, reports[kind][0]) for name, table in tables.items()}
    if len(studies := reports.get("study", ())) > 1:
        parts["trainings"] = lambda: trainings(studies)
    return parts


TABLES: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    **SEARCH_TABLES,
    "rewards": {"reward": reward},
    "decisions": {"others": others},
    "audit": {"leaks": leaks},
    "copies": {"copies": copies},
}
"""The parts that one report fills, by what it is."""


def main(arguments: Sequence[str]) -> None:
    """Rewrite the parts of the page that `arguments`, files of reports, have figures for."""
    reports = read_reports([Path(argument) for argument in arguments], weights_digest(str(MODEL)))
    written = {PAGE: rewrite(PAGE.read_text(), parts_of(reports))}
    if gates := reports.get("gates"):
        written[MODEL / "README.md"] = model_card(read_json(MODEL / SANDBOX_CARD), gates[0])
    for path, text in written.items():
        write_bytes_atomic(path, text.encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InferalignError as complaint:
        sys.exit(f"inferalign: {complaint}")
