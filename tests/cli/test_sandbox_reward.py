"""`sandbox train-reward` from the command line: from a file of pairs to a model that `generate` can be guided by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inferalign.cli.main import main
from inferalign.core.records import read_records
from inferalign.sandbox.pairs import write_pairs
from tests.toy_pairs import toy_pairs


def test_from_pairs_to_best_of_n(
    tmp_path: Path, llama_dir: Path, qwen_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(60))
    reward = tmp_path / "reward"
    train = ["sandbox", "train-reward", "--base", str(llama_dir), "--pairs", str(tmp_path / "pairs.jsonl")]
    assert main([*train, "--out", str(reward), "--layers", "1"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["trained_on"] + said["held_out"] == 120
    assert said["pair_accuracy"]["low"] <= said["pair_accuracy"]["mean"] <= said["pair_accuracy"]["high"]
    assert "train-reward: 6 of 6" in err
    assert main([*train, "--out", str(reward)]) == 1
    assert "holds a finished reward model" in capsys.readouterr().err

    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a", "prompt": "How?"}) + "\n")
    ask = ["generate", "--prompts", str(tmp_path / "p.jsonl"), "--procedure", "best-of-n:3", "--max-new-tokens", "8"]
    ask += ["--scorer", f"reward:{reward}", "--device", "cpu"]
    assert main([*ask, "--model", str(llama_dir), "--run", str(tmp_path / "run")]) == 0
    (record,) = read_records(tmp_path / "run")
    assert all("value" in candidate["score"] for candidate in record["candidates"])
    assert main([*ask, "--model", str(qwen_dir), "--run", str(tmp_path / "other")]) == 1
    assert "give --model the one that it was trained on" in capsys.readouterr().err
    # The base's hash is in the run's configuration, its place is not.
    copy = shutil.copytree(llama_dir, tmp_path / llama_dir.name)
    assert main([*ask, "--model", str(copy), "--run", str(tmp_path / "run")]) == 0


def test_ctrl_c_says_what_is_kept(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inferalign.sandbox.reward.train_reward", interrupted)
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(20))
    train = ["sandbox", "train-reward", "--base", str(llama_dir), "--pairs", str(tmp_path / "pairs.jsonl")]
    assert main([*train, "--out", str(tmp_path / "reward")]) == 130
    assert "to begin again (the first checkpoint is at step 100)" in capsys.readouterr().err


def test_the_shipped_model_is_a_base_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bases: list[Path] = []

    def noted(base: Path, *_: Any, **__: Any) -> None:
        bases.append(base)
        raise KeyboardInterrupt

    monkeypatch.setattr("inferalign.sandbox.reward.train_reward", noted)
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(20))
    train = ["sandbox", "train-reward", "--base", "sandbox", "--pairs", str(tmp_path / "pairs.jsonl")]
    assert main([*train, "--out", str(tmp_path / "reward")]) == 130
    assert [base.name for base in bases] == ["model"]
    assert (bases[0] / "model.safetensors").is_file()
    capsys.readouterr()
