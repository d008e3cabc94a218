"""Every example runs, as a user would run it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from inferalign.cli.main import main
from inferalign.ctrl.rloo import quiet_trl
from inferalign.engines.weights import quiet
from tests.plain import QUESTION

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
    ran = {"grpo.py", "procedures.py", "resume.py", "stream.py", "transformers_generate.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == ran


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_grpo(llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.jsonl").write_text("".join(f'{{"id": "p{i}", "prompt": "How {i}?"}}\n' for i in range(4)))
    (tmp_path / "question.toml").write_text(QUESTION)
    asked, question, anchors = (str(tmp_path / name) for name in ("p.jsonl", "question.toml", "anchors"))
    common = ["--model", str(llama_dir), "--prompts", asked, "--scorer", question, "--max-new-tokens", "64"]
    assert main(["calibrate", *common, "--run", anchors, "--k", "16"]) == 0
    with quiet(), quiet_trl():
        run_example("grpo.py", asked, anchors, str(tmp_path / "out"), "1", str(llama_dir), question)
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 steps at beta 0.")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not list((tmp_path / "out").glob("*.bin")), "nothing is pickled"
