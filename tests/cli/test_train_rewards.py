"""Every reward is one flag of `train`, and means what it says: its law on the anchors, and beta in its units."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferalign.cli.main import main
from inferalign.ctrl.anchors import AnchorSet
from inferalign.theory.optimal import solve
from inferalign.theory.procedures import best_of_n

K, KL = 60, 0.3
Row = np.ndarray


def rank(row: Row) -> Row:
    """Eq. (12) by counting pairs."""
    return ((row[:, None] > row).sum(axis=1) + (row[:, None] == row).sum(axis=1) / 2) / row.size


MEANT: dict[str, Callable[[Row], Row]] = {
    "raw": lambda row: row,
    "standardised": lambda row: (row - row.mean()) / row.std(),
    "identity": lambda row: rank(row) - 1 / 2,
    "log": lambda row: np.log((row.size * rank(row) + 1 / 2) / (row.size + 1)) + 1,
    "exp:10": lambda row: np.exp(10 * (rank(row) - 1)) - (1 - np.exp(-10)) / 10,
    "exp:-10": lambda row: -np.exp(-10 * rank(row)) + (1 - np.exp(-10)) / 10,
    "one-shot": lambda row: rank(row) ** 7 - 1 / 8,
    "optimal": lambda row: np.asarray(solve(best_of_n(4), kl=KL).transform(rank(row))),
}


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path, short_template: str) -> list[str]:
    folder = tmp_path_factory.mktemp("rewards")
    asked = folder / "p.jsonl"
    asked.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"How {i}?"}) + "\n" for i in range(3)))
    flags = ["--model", str(llama_dir), "--prompts", str(asked), "--scorer", short_template]
    flags += ["--max-new-tokens", "3"]
    assert main(["calibrate", *flags, "--run", str(folder / "anchors"), "--k", str(K)]) == 0
    return [*flags, "--anchors", str(folder / "anchors")]


def mean_kl(rewards: list[Row], beta: float) -> float:
    """Of e^(r/beta) / Z over each prompt's equally likely rollouts."""
    kls = []
    for row in rewards:
        p = np.exp((row - row.max()) / beta)
        p /= p.sum()
        kls.append(float(p @ np.log(p * p.size)))
    return float(np.mean(kls))


@pytest.mark.parametrize(
    ("reward", "algorithm"), [*((name, "reinforce") for name in MEANT), ("exp:10", "offline"), ("raw", "offline")]
)
def test_each_reward_is_one_flag(tmp_path: Path, common: list[str], reward: str, algorithm: str) -> None:
    size = ["--steps", "2", "--generations", "96", "--batch-size", "288", "--warmup", "1", "--learning-rate", "1e-5"]
    recipe = ["--for", "best-of-n:4", "--transform", reward, "--kl", str(KL), "--algorithm", algorithm]
    assert main(["train", *common, "--run", str(tmp_path), *size, *recipe]) == 0
    scores = AnchorSet.load(common[-1]).scores.values
    meant = [MEANT[reward](row) for row in scores]
    beta = json.loads((tmp_path / "metrics.json").read_text())["beta"]
    # few anchors hide some of the KL that training will spend, which beta allows for
    assert mean_kl(meant, beta) == pytest.approx(KL, rel=0.2)
    first = json.loads((tmp_path / "steps.jsonl").read_text().splitlines()[0])
    spread = float(np.sqrt(np.mean([row.var() for row in meant])))
    mean = float(np.mean(meant))
    if reward != "optimal":  # whose table is not centred here
        assert first["reward"] == pytest.approx(mean, abs=4 * spread / 288**0.5 + 1e-3)
    if reward != "raw":  # whose prompts differ in their means too
        assert first["reward_std"] == pytest.approx(spread, rel=0.4)
    errors = [line for line in (tmp_path / "steps.jsonl").read_text().splitlines() if "regression/rms" in line]
    assert len(errors) == (2 if algorithm == "offline" else 0)
