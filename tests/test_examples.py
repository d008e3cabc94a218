"""Every example runs, as a user would run it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def test_procedures(small_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("procedures.py", small_model)
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line[:1].isalpha()][:1] == ["sample"]
    assert "random-of-n:4" in out


def test_resume(small_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("resume.py", str(tmp_path / "run"), small_model)
    assert capsys.readouterr().out.startswith("4 results, 4 records")


def test_stream(small_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("stream.py", small_model)
    *answer, spent = capsys.readouterr().out.splitlines()
    assert answer
    assert "searched_tokens" in spent


def test_transformers_generate(small_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("transformers_generate.py", small_model)
    labels = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert labels == ["greedy", "RAIN"] * 2


def test_every_example_is_run() -> None:
    ran = {"procedures.py", "resume.py", "stream.py", "transformers_generate.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == ran
