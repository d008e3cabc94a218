"""`inferalign agency export` writes the files and says which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferalign.cli.main import main


@pytest.mark.parametrize(("tool", "count"), [("promptfoo", 2), ("lm-eval", 3)])
def test_export_says_what_it_wrote(tool: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--dimension", "correct_misinformation", "--out", str(tmp_path / "out")]
    assert main(["agency", "export", "--to", tool, *where]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["items"], said["to"], len(said["files"])) == (40, tool, count)
    assert sorted(said["files"]) == sorted(str(path) for path in (tmp_path / "out").iterdir())


def test_what_cannot_be_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["agency", "export", "--to", "lm-eval", "--out", str(tmp_path), "--dimension", "encourage_learning"]
    assert main([*arguments, "--condition", "default+followups"]) == 1
    assert "follow-up turns" in capsys.readouterr().err
