"""Weaker judges are trained where they are missing, and one of another training is not taken for this one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import judge_law
from inferalign.sandbox.training import CARD


def asked(run: Path, **changed: object) -> argparse.Namespace:
    return argparse.Namespace(**{"run": run, "specificities": "0.2", "flips": "0.1", "steps": 400} | changed)


def test_a_judge_that_is_there_is_taken_and_one_of_other_steps_refused(tmp_path: Path) -> None:
    (tmp_path / "judge-0.2").mkdir()
    (tmp_path / "judge-0.2" / CARD).write_text(json.dumps({"recipe": {"steps": 400}}))
    found = judge_law.judges(asked(tmp_path), tmp_path)
    assert list(found) == ["own", "knowledge-0.2", "flips-0.1"]
    assert found["knowledge-0.2"].more == f":{tmp_path / 'judge-0.2'}"
    assert found["flips-0.1"].more == "-flipped:0.1"
    with pytest.raises(SystemExit, match="trained for 400 steps, not 300"):
        judge_law.judges(asked(tmp_path, steps=300), tmp_path)


def test_a_judge_that_cannot_be_trained_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="could not be trained"):
        judge_law.judges(asked(tmp_path), tmp_path / "no-model")
