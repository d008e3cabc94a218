"""The gain study's runs: a whole small study with a random model, taken up again, and its parts by hand."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, LlamaForSequenceClassification

from benchmarks import ctrl_gain, gain_runs, gain_tables, gain_training
from benchmarks.gain_plan import BEST, KL, RECIPES, Plan, charged, cpu_seconds, keep_plan
from benchmarks.gain_runs import Point, study, widening
from benchmarks.gain_training import by_selector, fitted, read_curve
from inferalign.core.errors import InputError
from inferalign.ctrl.scored import Scored
from inferalign.theory.grid import beta_for_kl, policy, win_rate
from inferalign.theory.optimal import solve
from inferalign.theory.procedures import best_of_n
from inferalign.winrate.pools import Pool
from tests.winrate.synthetic import base_pool, pool, verdicts


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path) -> Plan:
    """Two recipes, one point each, on two situations, with a random reward model."""
    reward = tmp_path_factory.mktemp("reward")
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(llama_dir, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(reward)
    AutoTokenizer.from_pretrained(llama_dir).save_pretrained(reward)
    return Plan(
        model=str(llama_dir),
        reward=str(reward),
        seed=1,
        recipes=("identity", "exp:10"),
        kls=(0.5,),
        seeds=1,
        train=2,
        test=2,
        k=16,
        m=4,
        base_m=16,
        tokens=6,
        steps=3,
        batch=16,
        generations=8,
        rate=1e-3,
        situations=("harmful", "benign"),
    )


def unwidened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain_runs, "EXTRA", 0)


def test_a_study_runs_reports_and_is_taken_up_again(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unwidened(monkeypatch)
    base, length, points = study(tmp_path, plan, 1)
    assert [point.recipe for point in points] == ["identity", "exp:10"]
    assert len(base.judge) == 4
    assert 0 < length <= 6
    for point in points:
        assert point.pool.judge.keys() == base.judge.keys()
        assert [line["step"] for line in point.curve] == [1, 2, 3]
        assert point.kl != 0
    models = {path: os.stat(path).st_mtime_ns for path in tmp_path.glob("*/model/model.safetensors")}
    assert len(models) == 2
    monkeypatch.setattr(gain_training, "train_ctrl", None)  # nothing is trained again
    again = study(tmp_path, plan, 1)[2]
    assert [point.kl for point in again] == [point.kl for point in points]
    told = ctrl_gain.report(tmp_path, plan, base, length, points)
    assert told["gain_points"] is None, "one point a sweep encloses no KL, and that is said"
    assert "a sweep needs 2 betas" in capsys.readouterr().out
    json.dumps(told, allow_nan=False)
    assert (tmp_path / "rows.csv").exists()
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="holds another study"):
        study(tmp_path, replace(plan, steps=4), 1)


def test_the_fitted_transform_is_the_optimum_where_the_judge_is_the_selector(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """theory.optimal solves that case without a measured curve: 87.33 % for best-of-4 at KL .5."""
    truth = base_pool(80, 64, 4)
    monkeypatch.setattr(gain_training, "judged_anchors", lambda out, plan, anchors: truth)
    rows = np.array([row.keys for row in truth.selector.values()])
    anchors = SimpleNamespace(scores=Scored.all_scored(rows), prompt_ids=tuple(truth.selector))
    shape, beta = fitted(tmp_path, plan, anchors, plan.settings(RECIPES["fitted-best"], KL, 0))  # type: ignore[arg-type]
    reached = policy(shape, beta_for_kl(shape, KL, shape.grid), shape.grid)
    best = solve(best_of_n(4), kl=KL)
    assert best.win_rate == pytest.approx(0.8733, abs=1e-4)
    assert win_rate(reached, best_of_n(4)).win == pytest.approx(best.win_rate, abs=0.004)
    assert beta == pytest.approx(best.beta, rel=0.15)


def test_a_judge_that_says_nothing_fits_nothing(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = by_judge(base_pool(20, 16, 4), np.zeros(16))
    monkeypatch.setattr(gain_training, "judged_anchors", lambda out, plan, anchors: blind)
    with pytest.raises(InputError, match="nothing can be fitted"):
        fitted(tmp_path, plan, None, plan.settings(RECIPES["fitted-best"], KL, 0))  # type: ignore[arg-type]


def by_judge(found: Pool, keys: np.ndarray) -> Pool:
    return replace(found, judge=dict.fromkeys(found.judge, verdicts(keys)))


def drawn(recipe: str, target: float, kl: float, scale: float = 1.0) -> Point:
    made: Pool = pool(np.zeros((2, 4)), np.zeros((2, 4)), np.full((2, 4), kl))
    return Point(recipe, target, 0, scale, 0.1, made, 1.0, ())


def test_a_sweep_is_widened_towards_the_kl_alone() -> None:
    """From .32 the aim is .7, from 1 it is .5 / 1.4; a sweep that encloses the KL is left, a step is at most 2."""
    low = [drawn("identity", 0.35, 0.1), drawn("identity", 0.7, 0.32)]
    high = [drawn("log", 0.35, 1.0), drawn("log", 0.7, 2.0)]
    around = [drawn("raw", 0.35, 0.4), drawn("raw", 0.7, 0.9)]
    faint = [drawn("exp:10", 0.5, 0.01, scale=1.5)]
    assert widening([*low, *high, *around, *faint]) == [
        ("identity", 0.7, 0, round((0.7 / 0.32) ** 0.5, 3)),
        ("log", 0.35, 0, round((KL / 1.4) ** 0.5, 3)),
        ("exp:10", 0.5, 0, 3.0),
    ]


def test_stretching_multiplies_the_difference(tmp_path: Path, llama_dir: Path) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(llama_dir, trained)
    before = load_file(llama_dir / gain_runs.WEIGHTS)
    save_file({name: each + 0.5 for name, each in before.items()}, trained / gain_runs.WEIGHTS)
    for scale, added in ((2.0, 1.0), (0.0, 0.0)):
        out = tmp_path / f"x{scale}" / "model"
        out.parent.mkdir()
        gain_runs.stretch(llama_dir, trained, out, scale)
        after = load_file(out / gain_runs.WEIGHTS)
        assert all(torch.allclose(after[name], before[name] + added, atol=1e-5) for name in before)
        assert sorted(path.name for path in out.parent.iterdir()) == ["model"]


def test_win_rates_of_a_batch_by_hand() -> None:
    """Four answers above all anchors win always; four equal to the only anchors' value tie."""
    anchors = {"a": np.zeros(8), "b": np.zeros(8)}
    found = by_selector({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0] * 4}, anchors)
    assert found == {"sample": 0.75, "best-of-n:4": 0.75, "worst-of-n:4": 0.75}
    assert by_selector({"a": [-1.0, -1.0, -1.0, 4.0], "b": [0.0] * 4}, anchors)[BEST] == 0.75


def test_a_step_that_was_taken_twice_counts_once(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 1, "cpu": 1.0}, {"step": 2, "cpu": 2.0}, {"step": 2, "cpu": 3.0}]
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line["cpu"] for line in read_curve(tmp_path)] == [1.0, 3.0]


def test_costs_add_up_also_of_work_that_stopped(tmp_path: Path) -> None:
    def spend() -> None:
        with charged(tmp_path, "train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spend()
    with charged(tmp_path, "pool"):
        pass
    assert cpu_seconds(tmp_path) == pytest.approx(cpu_seconds(tmp_path, "train") + cpu_seconds(tmp_path, "pool"))
    assert len((tmp_path / "cost.jsonl").read_text().splitlines()) == 2


def test_a_folder_of_another_plan_is_refused(tmp_path: Path, plan: Plan) -> None:
    keep_plan(tmp_path, plan)
    keep_plan(tmp_path, plan)
    with pytest.raises(SystemExit, match="seed"):
        keep_plan(tmp_path, replace(plan, seed=2))


def test_quick_is_a_plan_and_names_are_recipes() -> None:
    small = Plan(model="m", reward="r", seed=1, recipes=ctrl_gain.QUICK, **ctrl_gain.SMALL)
    assert small.settings(RECIPES["exp:10"], 0.5, 0).prompts_a_step >= 4
    assert set(gain_tables.FOR.values()) <= RECIPES.keys()
    assert {RECIPES[name].procedure for name in gain_tables.CTRL.values()} == set(gain_tables.CTRL)
    assert len({prompt.id for prompt in small.asked("train") + small.asked("test")}) == 8 * (small.train + small.test)
