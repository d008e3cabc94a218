"""`generate` from the command line on a random model: what it writes, how it resumes, and what it says to bad input."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inferalign.cli.generate import at_once
from inferalign.cli.main import main
from inferalign.core.records import read_records
from inferalign.core.shards import ShardLock
from inferalign.procedures.rain_trace import read_tree, tree_path

MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")


def write_prompts(path: Path, n: int) -> Path:
    path.write_text(
        "".join(json.dumps({"id": f"p{i}", "prompt": f"Question {i}?", "topic": i}) + "\n" for i in range(n))
    )
    return path


def arguments(model: Path, prompts: Path, run: Path, *more: str) -> list[str]:
    fixed = ["--model", str(model), "--prompts", str(prompts), "--run", str(run), "--seed", "3"]
    procedure = [] if "--procedure" in more else ["--procedure", "sample"]
    short = [] if "--max-new-tokens" in more else ["--max-new-tokens", "12"]
    return ["generate", *fixed, *procedure, *short, *more]


def records(run: Path) -> list[dict[str, Any]]:
    """By id, without what may differ between runs: time, and which prompt paid for a prefix that several share."""
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "usage")}
        | {"candidates": rounded(record)}
        for record in sorted(read_records(run), key=lambda record: str(record["id"]))
    ]


def rounded(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Candidates with log-probabilities to 4 digits: arithmetic in another grouping is not bit-equal."""
    return [c | {"logprob": pytest.approx(c["logprob"], abs=1e-4)} for c in record["candidates"]]


def test_a_run_holds_what_a_reader_needs(tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(arguments(llama_dir, write_prompts(tmp_path / "p.jsonl", 3), run, "--procedure", "random-of-n:2")) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["prompts"] == 3
    assert summary["candidates"] == 6
    assert summary == {"run": str(run), **json.loads((run / "metrics.json").read_text())}
    record = records(run)[0]
    assert record["id"] == "p0"
    assert record["meta"] == {"topic": 0}
    assert record["messages"] == [{"role": "user", "content": "Question 0?"}]
    assert record["determinism"] == "exact"
    assert len(record["candidates"]) == 2
    assert record["candidates"][record["chosen"]]["token_ids"] == record["token_ids"]
    assert set(next(read_records(run))["usage"]) == {"generator", "evaluator", "embedder"}
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 3
    assert config["procedure"]["procedure"] == "random-of-n:2"
    assert "libraries" in json.loads((run / "env.json").read_text())


def test_repeating_a_finished_run_changes_nothing(tmp_path: Path, llama_dir: Path) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 3), tmp_path / "run"
    assert main(arguments(llama_dir, prompts, run)) == 0
    before = (run / "records" / "main.jsonl").read_bytes()
    assert main(arguments(llama_dir, prompts, run)) == 0
    assert (run / "records" / "main.jsonl").read_bytes() == before


def test_two_shards_make_the_same_records_as_one_process(tmp_path: Path, llama_dir: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 6)
    assert main(arguments(llama_dir, prompts, tmp_path / "whole")) == 0
    for shard in ("2/2", "1/2"):
        assert main(arguments(llama_dir, prompts, tmp_path / "parts", "--shard", shard)) == 0
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert json.loads((tmp_path / "parts" / "metrics.json").read_text())["prompts"] == 6


def test_concurrency_and_order_change_nothing(tmp_path: Path, llama_dir: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 5)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(line + "\n" for line in reversed(prompts.read_text().splitlines())))
    assert main(arguments(llama_dir, prompts, tmp_path / "a")) == 0
    assert main(arguments(llama_dir, turned, tmp_path / "b", "--concurrency", "3")) == 0
    assert records(tmp_path / "a") == records(tmp_path / "b")


def started(tmp_path: Path, model: Path, run: Path, n: int) -> subprocess.Popen[str]:
    """A `generate` in a process of its own that has recorded something and still has work to do."""
    command = arguments(model, write_prompts(tmp_path / "p.jsonl", n), run)
    process = subprocess.Popen(
        [sys.executable, "-m", "inferalign.cli.main", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    file = run / "records" / "main.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") > 2:
            return process
        time.sleep(0.005)
    raise AssertionError(f"nothing was recorded: {process.communicate(timeout=10)}")


def test_kill_and_repeat_gives_the_same_records(tmp_path: Path, llama_dir: Path) -> None:
    n = 200
    process = started(tmp_path, llama_dir, tmp_path / "killed", n)
    process.kill()
    process.communicate()
    survived = len(records(tmp_path / "killed"))
    assert 1 < survived < n
    assert main(arguments(llama_dir, tmp_path / "p.jsonl", tmp_path / "killed")) == 0
    assert main(arguments(llama_dir, tmp_path / "p.jsonl", tmp_path / "whole")) == 0
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, llama_dir: Path) -> None:
    process = started(tmp_path, llama_dir, tmp_path / "run", 4000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    kept = len(records(tmp_path / "run"))
    assert f"stopped; {kept} finished and kept, repeat the same command to go on" in said
    assert "Traceback" not in said


def test_ctrl_c_does_not_wait_for_the_next_await() -> None:
    reached = []

    async def loading() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # any Python at all: what a model does while it loads
        reached.append("the end")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore it
    try:
        with pytest.raises(KeyboardInterrupt), at_once():
            asyncio.run(loading())
        assert not reached
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with at_once():
            asyncio.run(loading())
        assert reached
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_leaves_whole_lines(
    tmp_path: Path, tmpfs: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 200)
    assert main(arguments(llama_dir, prompts, tmpfs / "run")) == 1
    error = capsys.readouterr().err
    assert "The disk is full" in error
    assert "Traceback" not in error
    kept = records(tmpfs / "run")
    assert 0 < len(kept) < 200


BAD_FILES = {
    "malformed": (lambda lines: [*lines[:16], '{"id": "p16", "prompt"', *lines[17:]], ":17:"),
    "duplicate": (lambda lines: [*lines, lines[4]], "already stands on line 5"),
    "empty": (lambda _: [], "holds no prompts"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_prompt_files(case: str, tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = BAD_FILES[case]
    prompts = write_prompts(tmp_path / "p.jsonl", 20)
    prompts.write_text("\n".join(change(prompts.read_text().splitlines())))
    assert main(arguments(llama_dir, prompts, tmp_path / "run")) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_prompt_file(tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(llama_dir, tmp_path / "none.jsonl", tmp_path / "run")) == 1
    assert "no file" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context_fails_alone(
    tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 3)
    with prompts.open("a") as file:
        file.write(json.dumps({"id": "long", "prompt": "word " * 20_000}) + "\n")
    assert main(arguments(llama_dir, prompts, tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert "1 of 4 items failed: long:" in error
    assert "context" in error
    assert [record["id"] for record in records(tmp_path / "run")] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("kept", "said"), [((), "no weights"), (("pytorch_model.bin",), "pickle")], ids=["no weights", "pickle"]
)
def test_models_that_cannot_be_used(
    kept: tuple[str, ...], said: str, tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(llama_dir, tmp_path / "model", ignore=shutil.ignore_patterns(*MODEL_FILES)))
    for name in kept:
        (model / name).write_bytes(b"not to be opened")
    assert main(arguments(model, write_prompts(tmp_path / "p.jsonl", 1), tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert said in error.lower()
    assert str(model) in error


def test_an_unknown_procedure_is_told_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    assert main(arguments(tmp_path / "no-model", prompts, tmp_path / "run", "--procedure", "best-of:4")) == 1
    assert "Did you mean 'best-of-n'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", [("--temperature", "-1"), ("--temperature", "nan"), ("--top-k", "0"), ("--max-new-tokens", "0")]
)
def test_impossible_sampling_is_told_at_once(
    flag: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    assert main(arguments(tmp_path / "no-model", prompts, tmp_path / "run", *flag)) == 1
    assert f"{flag[0].removeprefix('--')} is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (("--concurrency", "0"), "concurrency is 0: expected at least 1"),
        (("--trees",), "does not search"),
        (("--procedure", "rain", "--budget-tokens", "0"), "budget_tokens is 0: give at least 1"),
        (("--procedure", "rain", "--budget-seconds", "-1"), "budget_seconds is -1.0: give more than 0"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_model_is_loaded(
    flag: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    assert main(arguments(tmp_path / "no-model", prompts, tmp_path / "run", *flag)) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_search_leaves_its_budget_in_the_record_and_its_tree_in_the_folder(
    tmp_path: Path, llama_dir: Path, short_template: str
) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 2), tmp_path / "run"
    flags = ("--procedure", "rain", "--scorer", short_template, "--budget-iterations", "20", "--trees")
    assert main(arguments(llama_dir, prompts, run, *flags)) == 0
    found = records(run)
    assert [record["trace"]["budget"]["ran_out"] for record in found] == ["iterations"] * 2
    assert len(list((run / "trees").iterdir())) == 2
    for record in found:
        tree = read_tree(tree_path(run / "trees", record["id"]))
        assert tree.prompt_id == record["id"]
        assert tree.answer["token_ids"] == record["token_ids"]
        assert len(tree.commits) == len(record["trace"]["commits"])
    config = (run / "config.json").read_text()
    assert "trees" not in config, "whether a tree is written decides no result"
    assert main(arguments(llama_dir, prompts, run, *flags[:-1])) == 0


def test_search_flags_without_a_search_are_refused(
    tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    assert main(arguments(llama_dir, prompts, tmp_path / "run", "--max-iterations", "4")) == 1
    assert "no search budget" in capsys.readouterr().err


def test_a_form_of_the_verdict_needs_a_model_that_is_asked(
    tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    flags = ("--procedure", "rain", "--scorer", "oracle", "--allow-oracle-guide", "--form", "vote")
    assert main(arguments(llama_dir, prompts, tmp_path / "run", *flags)) == 1
    assert "scorer 'oracle' asks no model: leave it out" in capsys.readouterr().err


def test_another_process_on_the_run_folder(tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 1), tmp_path / "run"
    (run / "records").mkdir(parents=True)
    lock = ShardLock(run / "records", "main")
    assert main(arguments(llama_dir, prompts, run)) == 1
    lock.release()
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err


def test_another_configuration_is_refused(tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 1), tmp_path / "run"
    assert main(arguments(llama_dir, prompts, run)) == 0
    assert main(arguments(llama_dir, prompts, run, "--temperature", "0.5")) == 1
    assert "temperature is 1.0 there and 0.5 here" in capsys.readouterr().err


def test_changed_prompts_under_the_same_ids_are_refused(
    tmp_path: Path, llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 2), tmp_path / "run"
    assert main(arguments(llama_dir, prompts, run)) == 0
    prompts.write_text(prompts.read_text().replace("Question 1", "Query 1"))
    assert main(arguments(llama_dir, prompts, run)) == 1
    assert "'p1'" in capsys.readouterr().err
