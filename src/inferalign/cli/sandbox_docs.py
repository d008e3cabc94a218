"""Writes the dialogues and the measured figures of docs/sandbox.md: `python -m inferalign.cli.sandbox_docs [GATES...]`.

The dialogues come from the world itself, and a test compares the page with them. The figures are copied from what
`python -m benchmarks.sandbox_gates` printed last (one file a training seed, its last line the JSON object).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inferalign.cli.pages import markdown_table, rewrite
from inferalign.core.seeds import derive
from inferalign.sandbox.grammar import render
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import PLANS

PAGE = Path(__file__).parents[3] / "docs" / "sandbox.md"
SEED = 11


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


def replies(facts: Mapping[str, Any]) -> str:
    """What the model says, vanilla and greedy, by situation."""
    rows = []
    for name in SITUATIONS:
        vanilla, greedy = facts[name]["vanilla"], facts[name]["greedy"]
        cells = (vanilla["unparsed"], vanilla["good_strict"], greedy["good_strict"])
        issues = " ".join(f"{letter} {100 * rate['mean']:.0f}" for letter, rate in vanilla["issues"].items())
        rows.append([name, *map(_cell, cells), issues, f"{vanilla['merit']['mean']:.2f}"])
    head = ["situation", "unparsed, %", "without A, vanilla", "greedy", "issues, vanilla, %", "merit"]
    return markdown_table(head, rows)


def judge(facts: Mapping[str, Any]) -> str:
    """What the model's own judge is worth on them, lettered form, whole and partial replies apart."""
    rows = []
    for name in SITUATIONS:
        for part, found in facts[name]["letters"].items():
            if "balanced" in found:
                words = facts[name]["words"][part].get("balanced")
                rates = (f"{found['balanced']:.3f}", f"{found['auc']:.3f}", f"{found['majority']:.3f}")
                cells = (_cell(found["sensitivity"]), _cell(found["specificity"]), *rates)
                rows.append([name, part, str(found["texts"]), *cells, f"{100 * found['flips']:.1f}", f"{words:.3f}"])
    head = ["situation", "replies", "n", "sensitivity, %", "specificity, %", "balanced", "AUC", "majority"]
    return markdown_table([*head, "order flips, %", "balanced, words"], rows)


def _cell(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['mean']:.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def read_gates(path: Path) -> dict[str, Any]:
    """The JSON object that a run of the gates printed last."""
    found: dict[str, Any] = json.loads(path.read_text().strip().splitlines()[-1])
    return found


def main(arguments: Sequence[str]) -> None:
    parts = {"dialogues": dialogues}
    if arguments:
        facts = read_gates(Path(arguments[0]))
        parts |= {"replies": lambda: replies(facts), "judge": lambda: judge(facts)}
    PAGE.write_text(rewrite(PAGE.read_text(), parts))


if __name__ == "__main__":
    main(sys.argv[1:])
