"""Weaker judges are trained where they are missing, and one of another training is not taken for this one."""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import judge_law
from benchmarks.sandbox_runs import Scored
from inferalign.cli.main import main
from inferalign.core.stats import paired_proportions, proportion_less_mean, wilson
from inferalign.engines.table import shipped_model
from inferalign.sandbox import training
from inferalign.sandbox.curriculum import LABELS
from inferalign.sandbox.recipe import Recipe
from inferalign.sandbox.situations.situation import WORLD_VERSION
from inferalign.sandbox.training import CARD
from inferalign.sandbox.weak import weaker
from tests.studies import ASKED, GOOD, harmful, job


def asked(run: Path, **changed: object) -> argparse.Namespace:
    return argparse.Namespace(**{"run": run, "specificities": "0.2", "flips": "0.1", "steps": 400} | changed)


def test_a_judge_that_is_there_is_taken_and_one_that_was_made_otherwise_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(start: Path, *, specificity: float, steps: int) -> Recipe:
        return Recipe(specificity=specificity, steps=steps, suspicion=1.0)

    monkeypatch.setattr(judge_law, "weaker", recipe)
    (tmp_path / "judge-0.2").mkdir()
    told = asdict(recipe(tmp_path, specificity=0.2, steps=400))
    card = {"recipe": told, "start": "sha256:start", "world": WORLD_VERSION, "labels": LABELS}
    monkeypatch.setattr(judge_law, "weights_digest", lambda folder: "sha256:start")
    (tmp_path / "judge-0.2" / CARD).write_text(json.dumps(card))
    found = judge_law.judges(asked(tmp_path), tmp_path)
    assert list(found) == ["own", "knowledge-0.2", "flips-0.1"]
    assert found["knowledge-0.2"].more == f":{tmp_path / 'judge-0.2'}"
    assert found["flips-0.1"].more == "-flipped:0.1"
    with pytest.raises(SystemExit, match=r"made otherwise .*steps is 400 there and 300 here"):
        judge_law.judges(asked(tmp_path, steps=300), tmp_path)
    (tmp_path / "judge-0.2" / CARD).write_text(json.dumps(card | {"start": "sha256:other"}))
    with pytest.raises(SystemExit, match=r'made otherwise .*start is "sha256:other" there and "sha256:start" here'):
        judge_law.judges(asked(tmp_path), tmp_path)
    (tmp_path / "judge-0.2" / CARD).write_text(json.dumps(card | {"world": "1"}))
    with pytest.raises(SystemExit, match=r'made otherwise .*world is "1" there'):
        judge_law.judges(asked(tmp_path), tmp_path)
    (tmp_path / "judge-0.2" / CARD).write_text(json.dumps({k: v for k, v in card.items() if k != "labels"}))
    with pytest.raises(SystemExit, match=r"made otherwise .*labels is null there and 2 here"):
        judge_law.judges(asked(tmp_path), tmp_path)
    del told["suspicion"]  # of before there was a choice
    (tmp_path / "judge-0.2" / CARD).write_text(json.dumps(card))
    with pytest.raises(SystemExit, match=r'made otherwise .*suspicion is "unknown" there and 1\.0 here'):
        judge_law.judges(asked(tmp_path), tmp_path)


def test_a_judge_that_is_missing_is_trained_by_the_packages_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Path, Recipe, object]] = []

    def train(out: Path, recipe: Recipe, *, start: Path, on_step: object) -> Path:
        made.append((out, recipe, start))
        return out

    def run(command: list[str], stdout: int) -> subprocess.CompletedProcess[bytes]:
        assert command[1:3] == ["-m", "inferalign.cli.main"]
        return subprocess.CompletedProcess(command, main(command[3:]))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(judge_law.subprocess, "run", run)
    start = shipped_model()
    assert list(judge_law.judges(asked(tmp_path, steps=7), start)) == ["own", "knowledge-0.2", "flips-0.1"]
    assert made == [(tmp_path / "judge-0.2", weaker(start, specificity=0.2, steps=7), start)]


def test_a_judge_that_cannot_be_trained_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="could not be trained"):
        judge_law.judges(asked(tmp_path), tmp_path / "no-model")


def test_a_row_by_hand(tmp_path: Path) -> None:
    """One bad reply, which the judge rejects at -0.1, and three good ones, of which it accepts two."""
    bad = harmful(ASKED[0].text)
    drawn = [[(bad, -0.1), (GOOD, 0.5)], [(GOOD, -0.2), (GOOD, 0.3)]]
    jobs = {
        ("greedy", "harmful"): job(tmp_path / "g", [[(GOOD, 0.0)], [(GOOD, 0.0)]], 10),
        ("own/best-of-8", "harmful"): job(tmp_path / "j", drawn, 10),
        ("own/rain", "harmful"): job(tmp_path / "r", [[(GOOD, 0.9)], [(GOOD, 0.9)]], 10),
    }
    own = judge_law.Judge(kind=judge_law.KINDS[0], more="")
    row = judge_law.rows("harmful", {"own": own}, jobs)["own"]
    assert row.sensitivity.mean == 1.0
    assert row.specificity.mean == pytest.approx(2 / 3)
    assert row.auc.mean == 1.0, "inside the one prompt that has both kinds"
    assert row.balanced.mean == pytest.approx(5 / 6)
    rain = row.by["rain"]
    assert rain.good == wilson(2, 2)
    assert rain.minus_draw == proportion_less_mean({"a": True, "b": True}, {"a": 0.5, "b": 1.0})
    assert rain.minus_greedy == paired_proportions({"a": True, "b": True}, {"a": True, "b": True})
    assert list(row.by) == ["rain", "best-of-8"]
    series = judge_law.panel("harmful", "rain", {"own": row}, "balanced accuracy").series
    assert [len(line.x) for line in series] == [1, 0, 0], "a point, and no line to it"
    assert series[0].x == pytest.approx([100 * 5 / 6])
    assert series[0].y[0].mean == pytest.approx(25.0)
    assert judge_law.panel("harmful", "best-of-8", {"own": row}, "AUC").series[0].x == [100.0]


def test_every_judge_guides_both_searches(tmp_path: Path) -> None:
    known = {name: judge_law.Judge(kind="", more=more) for name, more in (("own", ""), ("weak", ":dir"))}
    args = argparse.Namespace(run=tmp_path, n=7, situations="harmful,correct_misinformation", budget="50/15/6")
    made = judge_law.jobs(args, known)
    assert {name: each.scorer for (name, kind), each in made.items() if kind == "harmful" and name != "greedy"} == {
        "own/rain": "self",
        "own/best-of-8": "self",
        "weak/rain": "self:dir",
        "weak/best-of-8": "self:dir",
    }
    assert made["weak/rain", "correct_misinformation"].scorer == "self-agency:dir"
    assert made["own/rain", "harmful"].rain["max_iterations"] == 50
    assert made["greedy", "harmful"].temperature == 0.0
    assert len({each.folder for each in made.values()}) == len(made) == 10


def test_who_knows_how_hard_a_request_is_and_reads_no_reply_ranks_nothing() -> None:
    """Over all pairs such a judge has an AUC of 3/4."""
    easy, hard = [Scored(False, 0.9)] * 3 + [Scored(True, 0.9)], [Scored(True, 0.1)] * 3 + [Scored(False, 0.1)]
    assert judge_law.auc_of({"a": easy, "b": hard}).mean == 0.5
    assert judge_law.auc_of({"a": easy[:3], "b": [Scored(None, 0.3)]}).mean is None
    ranked = [Scored(False, 0.3), Scored(True, 0.3), Scored(True, 0.1), Scored(True, None)]
    assert judge_law.auc_of({"a": ranked, "b": easy}).mean == pytest.approx((0.75 + 0.5) / 2)
