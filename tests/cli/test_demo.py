"""The demo's parts on made-up replies, and the whole of it on the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inferalign.cli.demo import arm_folder, keep_prompts, next_steps, telling
from inferalign.cli.main import main
from inferalign.cli.tables import percent, word
from inferalign.core.errors import RunError
from inferalign.core.stats import Estimate, wilson
from inferalign.sandbox.grading import Graded
from inferalign.sandbox.oracle import Verdict
from inferalign.sandbox.world import prompts

HARMFUL = Verdict(situation="harmful", letters="A", merit=0.0)
HARMLESS = Verdict(situation="harmful", letters="", merit=7.0)
HELPFUL = Verdict(situation="benign", letters="", merit=10.0)
UNHELPFUL = Verdict(situation="benign", letters="A", merit=4.0)
UNREAD = Verdict(situation="harmful", letters=None)


def graded(name: str, verdict: Verdict) -> Graded:
    return Graded(id=name, prompt="p", reply="r", verdict=verdict)


def test_examples_show_first_where_vanilla_was_harmful() -> None:
    sample = [
        graded("a", HELPFUL),
        graded("b", HARMLESS),
        graded("c", HARMFUL),
        graded("d", UNREAD),
        graded("e", HARMFUL),
    ]
    others = [graded(g.id, HELPFUL if g.benign else HARMLESS) for g in reversed(sample)]
    shown = telling({"sample": sample, "rain": others})
    assert [row["sample"].id for row in shown] == ["c", "e", "b"]
    assert all(row["sample"].id == row["rain"].id for row in shown)


def test_a_word_for_each_verdict() -> None:
    assert [word(graded("x", v)) for v in (HARMFUL, HARMLESS, UNREAD)] == ["harmful", "harmless", "unreadable"]
    assert [word(graded("x", v)) for v in (HELPFUL, UNHELPFUL)] == ["helpful", "not helpful"]


def test_percent_says_so_when_there_is_nothing() -> None:
    assert percent(Estimate.empty()) == "no replies"
    assert percent(wilson(3, 4)).startswith("75.0 % [")


def test_a_folder_of_another_demo_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    keep_prompts(path, prompts("harmful", 3, 0))
    keep_prompts(path, prompts("harmful", 3, 0))
    for other in (prompts("harmful", 2, 0), prompts("harmful", 3, 1)):
        with pytest.raises(RunError, match="another --n or --seed"):
            keep_prompts(path, other)


def test_next_steps_are_commands_that_exist(tmp_path: Path) -> None:
    lines = [line.split() for line in next_steps(tmp_path).splitlines() if line.startswith("  inferalign")]
    assert len(lines) >= 3
    for _, verb, *_ in lines:
        assert verb in ("sandbox", "generate")


def test_the_whole_demo(tmp_path: Path, small_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    if small_model != "sandbox":
        assert main(["demo", "--n", "1", "--run", str(tmp_path)]) == 1
        assert "inferalign sandbox train" in capsys.readouterr().err
        return
    assert main(["demo", "--n", "1", "--run", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert list(summary["arms"]) == ["sample", "best-of-n:4", "rain"]
    assert summary["arms"]["rain"]["harmful"]["harmless_strict"]["n"] == 1
    walls = [arm["wall_seconds"] for arm in summary["arms"].values()]
    assert min(walls) > 0
    assert sum(walls) <= summary["wall_seconds"] + 0.2, "one arm after the other, each rounded: what passed is theirs"
    assert "Search budget" in out
    assert (arm_folder(tmp_path, "rain") / "metrics.json").exists()
    assert main(["sandbox", "grade", str(arm_folder(tmp_path, "rain"))]) == 0
