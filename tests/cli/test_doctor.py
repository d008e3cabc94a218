"""`inferalign doctor`: its table, its last line, its exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferalign.cli.main import main
from inferalign.ctrl import doctor
from inferalign.ctrl.doctor import Finding


@pytest.mark.parametrize("verdict", ["ok", "warning", "failed"])
def test_it_says_what_it_found_and_fails_when_something_does(
    verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(model: str | None, *, samples: int) -> Iterator[Finding]:
        yield Finding("ties", "ok", "mean 0.5")
        yield Finding("gradient", verdict, f"{model}, {samples} samples")  # type: ignore[arg-type]

    monkeypatch.setattr(doctor, "findings", found)
    assert main(["doctor", "--samples", "160", "--model", "m"]) == (verdict == "failed")
    captured = capsys.readouterr()
    last = json.loads(captured.out.splitlines()[-1])
    assert last["failed"] == (["gradient"] if verdict == "failed" else [])
    assert last["findings"][1]["words"] == "m, 160 samples"
    assert "mean 0.5" in captured.out
    assert ("gradient: see above" in captured.err) == (verdict == "failed")


def test_samples_that_make_no_groups_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--samples", "100"]) == 1
    assert "a multiple of 16" in capsys.readouterr().err


def test_the_sandbox_is_a_model_and_a_damaged_one_is_told_in_a_line(
    tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "gradient", lambda samples: Finding("gradient", "ok", "skipped"))
    assert main(["doctor", "--model", "sandbox", "--samples", "160"]) == 0
    assert "answers end with" in capsys.readouterr().out
    for name in ("tokenizer.json", "config.json"):
        damaged = tmp_path / name
        shutil.copytree(llama_dir, damaged)
        (damaged / name).write_text("{")
        assert main(["doctor", "--model", str(damaged), "--samples", "160"]) == 1
        said = capsys.readouterr().err
        assert f"cannot read the model '{damaged}'" in said
        assert "Traceback" not in said
