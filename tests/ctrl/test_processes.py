"""Two processes that train together, through torchrun on the loopback address: what they write, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from inferalign.cli.main import main
from inferalign.core.errors import RunError
from inferalign.ctrl.processes import check_processes
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer
from tests.ctrl.processes import PROMPTS, SETTINGS, even_share, given_draws

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "processes.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
TORCHRUN += ["--rdzv-endpoint=127.0.0.1:0", "--"]
LIMIT = 600
"""Seconds, of which an idle machine takes 20."""


def environment() -> dict[str, str]:
    """The tests' own, without what an outer launcher says; sockets on the loopback interface alone."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    paths = [str(ROOT), str(ROOT / "src"), kept.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def started(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment(), timeout=LIMIT, capture_output=True, text=True, check=False)


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "model" / "model.safetensors")
    return found


def by_one_process(out: Path, model: Path, settings: CtrlSettings) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CtrlTrainer, "_generate_single_turn", given_draws)
        train_ctrl(settings, model, PROMPTS, even_share, out)
    return weights(out)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "sharded", "sharded adapter"])
def test_two_processes_take_the_steps_of_one_and_resume(tmp_path: Path, llama_dir: Path, how: str) -> None:
    """Given the same draws: weights as one process has them, by DDP and by FSDP2, and again after a stop at step 3."""
    if adapted := "adapter" in how:
        pytest.importorskip("peft")
    done = started(llama_dir, tmp_path, how)
    assert done.returncode == 0, done.stderr[-3000:]
    settings = replace(SETTINGS, lora_rank=4) if adapted else SETTINGS
    once = by_one_process(tmp_path / "alone", llama_dir, settings)
    twice, resumed = (weights(tmp_path / run) for run in ("whole", "killed"))
    start: dict[str, torch.Tensor] = load_file(llama_dir / "model.safetensors")
    for name, tensor in once.items():
        torch.testing.assert_close(twice[name], tensor, atol=2e-5, rtol=1e-4)
        assert torch.equal(resumed[name], twice[name])
        fixed = adapted and not name.endswith("proj.weight")
        assert float((tensor - start[name]).abs().max()) > 1e-3 or fixed
    kept = {path.name for path in (tmp_path / "killed").iterdir()}
    assert kept == {"model", "samples.jsonl", "steps.jsonl", "training.lock"} | ({"adapter"} if adapted else set())
    steps = (tmp_path / "killed" / "steps.jsonl").read_text().splitlines()
    assert len(steps) == SETTINGS.steps, "one process writes"


@pytest.mark.slow
def test_from_the_command_line_one_process_writes_and_speaks(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "prompt": f"How {i}?"}) + "\n" for i in range(5))
    )
    common = ["--model", str(llama_dir), "--prompts", str(tmp_path / "p.jsonl"), "--scorer", short_template]
    common += ["--max-new-tokens", "3"]
    assert main(["calibrate", *common, "--run", str(tmp_path / "anchors"), "--k", "40"]) == 0
    flags = "--for sample --transform identity --kl 0.2 --generations 8 --batch-size 24 --steps 2 --warmup 1"
    train = ["inferalign.cli.main", "train", *common, "--anchors", str(tmp_path / "anchors"), *flags.split()]
    train += ["--run", str(tmp_path / "run"), "--processes", "2"]
    alone = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", *train]
    refused = subprocess.run(alone, env=environment(), timeout=LIMIT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    said = [line for line in refused.stderr.splitlines() if line.startswith("inferalign: ")]
    assert len(said) == 1
    assert "1 processes are training and 2 were asked for" in said[0]
    assert not (tmp_path / "run").exists()
    together = [*TORCHRUN[:-1], "-m", "--", *train]
    done = subprocess.run(together, env=environment(), timeout=LIMIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["steps"] == 2
    assert sum("2 of 2" in each for each in done.stderr.splitlines()) == 1
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert kept == ["config.json", "env.json", "metrics.json", "model", "samples.jsonl", "steps.jsonl", "training.lock"]
    steps = (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(step)["step"] for step in steps] == [1, 2]
    assert main([*train[1:-4], "--run", str(tmp_path / "alone")]) == 0
    costs = [json.loads((tmp_path / run / "metrics.json").read_text())["scoring"] for run in ("run", "alone")]
    shared, single = (cost["tokens_fed"] + cost["tokens_reused"] for cost in costs)
    assert shared == pytest.approx(single, rel=0.2), "what both processes have scored, of as many responses as one's"
    changed = {"1": "0", str(tmp_path / "run"): str(tmp_path / "far")}  # no warm-up, another folder
    far = [*(changed.get(part, part) for part in together), "--learning-rate", "1e30"]
    diverged = subprocess.run(far, env=environment(), timeout=LIMIT, capture_output=True, text=True, check=False)
    assert diverged.returncode != 0
    said = [line for line in diverged.stderr.splitlines() if line.startswith("inferalign: ")]
    assert {line.partition(":")[2].partition(":")[0] for line in said} == {" the training diverged at step 1"}
    assert "terminate called" not in diverged.stderr


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path: Path, llama_dir: Path) -> None:
    """Killed without a word, as by a machine that runs out of memory: the other must not wait for it."""
    command = [*TORCHRUN, str(SCRIPT), str(llama_dir), str(tmp_path), "long"]
    run = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + LIMIT
        while not (tmp_path / "whole" / "steps.jsonl").exists():
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.2)
        workers = [child for child in psutil.Process(run.pid).children() if str(SCRIPT) in child.cmdline()]
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        assert run.wait(timeout=60) != 0
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    finally:
        run.kill()
        run.communicate()


def test_another_number_of_processes_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = CtrlSettings(processes=2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RunError, match=r"^1 processes are training and 2 were asked for.*--nproc_per_node 2 -m --"):
        check_processes(asked)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(asked)
    with pytest.raises(RunError, match="2 processes are training and 1 were asked for: set processes to 2"):
        check_processes(CtrlSettings())
    with pytest.raises(RunError, match="1 processes are training"):
        check_processes(asked, found=1)


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(CtrlSettings(processes=2))
    assert taken == [1]


def test_loading_empty_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(RunError, match="load empty weights"):
        check_processes(CtrlSettings(), found=1)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    check_processes(CtrlSettings(), found=1)
