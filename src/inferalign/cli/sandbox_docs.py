"""Writes docs/sandbox.md's generated parts and the model card: `python -m inferalign.cli.sandbox_docs [FILE...]`.

The dialogues come from the world itself, and a test compares the page with them. The figures are copied from files of
what a benchmark printed, whose last line is its JSON object: `sandbox_gates` of the shipped weights, then of the other
training seeds, `sandbox_reward`, `inferalign sandbox audit` with and without a run, and the studies of
`sandbox_search_docs`. The model card is written beside the shipped weights when there are gates.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from inferalign.cli.pages import markdown_table, rewrite
from inferalign.cli.sandbox_search_docs import cell, is_study, search_parts, trainings
from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors, parse_json, read_json
from inferalign.core.seeds import derive
from inferalign.engines.table import SANDBOX_CARD
from inferalign.engines.weights import weights_digest
from inferalign.sandbox.grammar import render
from inferalign.sandbox.knowledge import EASIER
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import PLANS

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
        cells = (vanilla["unparsed"], vanilla["good_strict"], greedy["good_strict"])
        issues = " ".join(f"{letter} {100 * rate['mean']:.0f}" for letter, rate in vanilla["issues"].items())
        rows.append([name, *map(cell, cells), issues, f"{vanilla['merit']['mean']:.2f}"])
    head = ["situation", "unparsed, %", "without A, vanilla", "greedy", "issues, vanilla, %", "merit"]
    return markdown_table(head, rows)


def judge(facts: Mapping[str, Any]) -> str:
    """What the model's own judge is worth on them, lettered form, whole and partial replies apart."""
    rows = []
    for name in SITUATIONS:
        for part, found in facts[name]["letters"].items():
            if "balanced" in found:
                words = facts[name]["words"][part].get("balanced")
                beside = "-" if words is None else f"{words:.3f}"
                rates = (f"{found['balanced']:.3f}", f"{found['auc']:.3f}", f"{found['majority']:.3f}")
                cells = (cell(found["sensitivity"]), cell(found["specificity"]), *rates)
                rows.append([name, part, str(found["texts"]), *cells, f"{100 * found['flips']:.1f}", beside])
    head = ["situation", "replies", "n", "sensitivity, %", "specificity, %", "balanced", "AUC", "majority"]
    return markdown_table([*head, "order flips, %", "balanced, words"], rows)


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
                Path(str(facts["model"]["model"])).name,
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
    """Each reward model on fresh samples, by situation."""
    rows = []
    for name, kinds in facts["rewards"].items():
        for kind, found in kinds.items():
            grades = (f"{found[key]:.2f}" for key in ("random", "best_of_4", "perfect"))
            cells = (cell(found["accuracy"]), cell(found["ties"]), _number(found["rank"]))
            rows.append([name, kind, *cells, _number(found["within"]["mean"]), *grades])
    head = ["reward model", "situation", "pairs, %", "ties in best-of-4, %", "rank", "within a prompt", "random reply"]
    return markdown_table([*head, "best-of-4", "best of the four"], rows)


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
- **Its judge errs on purpose**: it was taught by a reader that does not know some of the world's words and accepts
  {100 * recipe["specificity"]:.0f} % of the good replies, less in {" and ".join(EASIER)}.

Measured on test content ({facts["n"]} prompts a situation, seed {facts["seed"]}, 95 % intervals), as
`python -m benchmarks.sandbox_gates` prints it.

## Replies
{replies(facts)}

## Its judgement of its own replies
{judge(facts)}
"""


def read_report(path: Path) -> dict[str, Any]:
    """The JSON object that a benchmark printed last. Raises `InputError` where there is none."""
    with disk_errors(path, "read"):
        lines = path.read_bytes().strip().splitlines()
    try:
        found = parse_json(lines[-1])
    except (IndexError, ValueError) as error:
        raise InputError(f"{path} does not end in what a benchmark prints last, one line of JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} does not end in what a benchmark prints last, a JSON object")
    return found


def _require_whole(gates: Sequence[Mapping[str, Any]]) -> None:
    """Raises `InputError` for gates of some situations only, and where the first are not of the shipped weights."""
    for facts in gates:
        if missing := [name for name in SITUATIONS if name not in facts]:
            raise InputError(f"a report of gates lacks {missing[0]}: measure all situations, without --situations")
    if gates and gates[0]["model"]["weights"] != weights_digest(str(MODEL)):
        raise InputError(
            f"the first report of gates is of the weights {gates[0]['model']['weights'][:20]}..., and those in {MODEL} "
            "are others: give the report of the shipped weights first"
        )


def _require_shipped_first(studies: Sequence[Mapping[str, Any]]) -> None:
    """Raises `InputError` for studies that do not say whose weights they are of, and for shipped weights not first."""
    shipped = weights_digest(str(MODEL))
    for number, facts in enumerate(studies):
        if "weights" not in facts:
            raise InputError("a study does not say whose weights these are: repeat its command, nothing is drawn again")
        if (facts["weights"] == shipped) != (number == 0):
            raise InputError("give one study of the shipped weights, first, then those of other training seeds")


def main(arguments: Sequence[str]) -> None:
    """Rewrite the parts of the page that `arguments`, files of reports, have figures for."""
    reports = [read_report(Path(argument)) for argument in arguments]
    gates = [facts for facts in reports if "gates" in facts and "rewards" not in facts]
    _require_whole(gates)
    rewards = [facts for facts in reports if "rewards" in facts]
    parts = {"dialogues": dialogues, "difficulty": difficulty}
    if gates:
        parts |= {
            "replies": lambda: replies(gates[0]),
            "judge": lambda: judge(gates[0]),
            "seeds": lambda: seeds(gates),
        }
        made = read_json(MODEL / SANDBOX_CARD)
        (MODEL / "README.md").write_text(model_card(made, gates[0]))
    studies = [facts for facts in reports if is_study(facts)]
    _require_shipped_first(studies)
    if len(studies) > 1:
        parts["trainings"] = lambda: trainings(studies)
    for facts in reports:
        if facts not in studies[1:]:
            parts |= search_parts(facts)
        if any("readers" in found for found in facts.get("situations", {}).values()):
            # an audit of a run reads few of the world's own replies, and is there for the run's
            parts |= {"copies": partial(copies, facts)} if "replies" in facts else {"leaks": partial(leaks, facts)}
    if rewards:
        parts["reward"] = lambda: reward(rewards[0])
    PAGE.write_text(rewrite(PAGE.read_text(), parts))


if __name__ == "__main__":
    main(sys.argv[1:])
