"""`inferalign train` after `inferalign calibrate`, on a small random model that judges itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferalign.cli.main import main

FLAGS = "--generations 8 --batch-size 16 --warmup 1 --learning-rate 0.003 --transform identity --steps 2"


def prompts(path: Path) -> Path:
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"How {i}?"}) + "\n" for i in range(3)))
    return path


def test_from_prompts_to_a_trained_model(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(llama_dir), "--prompts", str(prompts(tmp_path / "p.jsonl")), "--scorer", short_template]
    anchors, run = tmp_path / "anchors", tmp_path / "run"
    assert main(["calibrate", *common, "--run", str(anchors), "--k", "40", "--max-new-tokens", "3"]) == 0
    train = ["train", *common, "--anchors", str(anchors), *FLAGS.split()]
    assert main([*train, "--run", str(run), "--max-new-tokens", "3", "--for", "sample", "--kl", "0.2"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["steps"] == 2
    assert 0.2 < last["beta"] < 0.7
    assert (run / "model" / "model.safetensors").is_file()
    assert json.loads((run / "config.json").read_text())["settings"]["procedure"] == "sample"
    line = json.loads((run / "steps.jsonl").read_text().splitlines()[0])
    assert line["kl_sequence"] == 0
    assert 0.2 < line["calibrated/mean"] < 0.8
    # what the anchors are not of
    other = [*train, "--run", str(tmp_path / "other")]
    assert main([*other, "--max-new-tokens", "4"]) == 1
    assert "made otherwise" in capsys.readouterr().err
    assert main([*other, "--max-new-tokens", "3", "--kl", "9"]) == 1
    assert "allow a mean KL below" in capsys.readouterr().err
    assert main([*other, "--warmpu", "2"]) == 2
    assert "--warmup" in capsys.readouterr().err
