"""The gain study's runs: a whole small study with a random model, taken up again, and its parts by hand."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from concurrent.futures import Future
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
from benchmarks.gain_plan import BEST, KL, RECIPES, Plan, charged, cpu_seconds, keep_plan, read_plan
from benchmarks.gain_runs import Point, study, widening
from benchmarks.gain_training import by_selector, fitted, read_curve
from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, StopReason, Unscored
from inferalign.ctrl.rollout_records import read_rollouts
from inferalign.ctrl.scored import Scored
from inferalign.scorers.scripted import ScriptedScorer
from inferalign.theory.optimal import solve
from inferalign.theory.policies import beta_for_kl, policy, win_rate
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
        lora_rank=None,
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
        steps = (gain_runs.point_folder(tmp_path, point.recipe, 0.5, 0) / "steps.jsonl").read_text().splitlines()
        assert [line["kl"] for line in point.curve] == [json.loads(step)["kl_sequence"] for step in steps]
        drawn = plan.batch * plan.tokens
        assert all(0 < line["tokens"] <= drawn and line["wins"] for line in point.curve)
    models = {path: os.stat(path).st_mtime_ns for path in tmp_path.glob("*/model/model.safetensors")}
    assert len(models) == 2
    offline = gain_runs.make_point(tmp_path, plan, "offline:10", 0.5, 0, 1.0)
    assert [line["tokens"] for line in offline.curve] == [0.0] * 3, "what it draws is to measure it by"
    shutil.rmtree(gain_runs.point_folder(tmp_path, "offline:10", 0.5, 0))
    monkeypatch.setattr(gain_training, "train_ctrl", None)  # nothing is trained again
    again = study(tmp_path, plan, 1)[2]
    assert [point.kl for point in again] == [point.kl for point in points]
    stretched = gain_runs.make_point(tmp_path, plan, "identity", 0.5, 0, 2.0)
    assert (stretched.beta, stretched.curve) == (points[0].beta / 2, points[0].curve)
    seeds = [read_json(path)["seed"] for path in sorted(tmp_path.glob("*/pool/config.json"))]
    assert len(seeds) == 4, "base, exp:10, identity and identity stretched"
    assert len(set(seeds[1:])) == 1, "policies share their random numbers"
    assert seeds[0] not in seeds[1:], "the base model's draws are independent of theirs"
    told = ctrl_gain.report(tmp_path, plan, base, length, points)
    assert told["gain_points"] is None, "one point a sweep encloses no KL, and that is said"
    assert "a sweep needs 2 betas" in capsys.readouterr().out
    json.dumps(told, allow_nan=False)
    assert (tmp_path / "rows.csv").exists()
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="holds another study"):
        study(tmp_path, replace(plan, steps=4), 1)


def test_the_anchors_are_judged_by_their_own_texts(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    gain_runs.draw_anchors(tmp_path, plan, None)
    anchors = gain_training.AnchorSet.load(tmp_path / "anchors")
    monkeypatch.setattr(gain_training, "quality", lambda prompt, text: Score(len(text.text) + 1000.0 * len(prompt.id)))
    found = gain_training.judged_anchors(tmp_path, plan, anchors)
    assert set(found.judge) == {prompt.id for prompt in plan.asked("train")}
    chat = gain_training.opened(plan.model, plan.reward).model.chat
    for each in read_rollouts(tmp_path / "anchors"):
        lengths = [len(chat.decode(ids)) + 1000.0 * len(each.prompt_id) for ids in each.token_ids]
        assert found.judge[each.prompt_id].keys.tolist() == lengths
        place = anchors.prompt_ids.index(each.prompt_id)
        assert found.selector[each.prompt_id].keys.tolist() == anchors.scores.values[place].tolist()


def test_recipes_differ_by_procedure_and_transform_alone(plan: Plan) -> None:
    """No baseline has fewer steps, another rate or another seed; trainings of one recipe differ by their seed."""
    same = {replace(plan.settings(each, 0.4, 1), procedure="sample", transform="raw") for each in RECIPES.values()}
    assert len(same) == 1
    assert len({plan.settings(RECIPES["identity"], 0.4, seed).seed for seed in range(3)}) == 3


def test_what_is_trained_on_is_of_the_train_split_and_what_is_tested_on_is_not(plan: Plan) -> None:
    for split in ("train", "test"):
        assert all(f"-{split}-" in prompt.id for prompt in plan.asked(split))
    assert {p.id for p in plan.asked("test")}.isdisjoint(p.id for p in replace(plan, seed=2).asked("test"))


def test_an_anchor_that_cannot_be_judged_ranks_below_all_others_and_one_that_was_not_judged_nowhere() -> None:
    verdicts = [Score(-7.0), Unscored("?", blame="response"), Score(2.0), Unscored("away", blame="judge")]
    anchors = SimpleNamespace(scores=Scored.of(verdicts).reshape(1, 4), prompt_ids=("p",))
    keys = gain_training.anchor_keys(anchors)["p"]  # type: ignore[arg-type]
    assert keys.tolist() == [-7.0, -np.inf, 2.0]


def test_a_recorder_gives_each_score_once_and_none_that_the_scorer_failed_at() -> None:
    verdicts = [Score(1.0), Unscored("?", blame="response"), Unscored("away", blame="judge")]
    recorder = gain_training.Recorder(ScriptedScorer(verdicts))
    prompt = Prompt(id="p", messages=(Message(role="user", content="hi"),))
    replies = [Completion(token_ids=(), text=text, stop=StopReason.END) for text in "abc"]
    assert asyncio.run(recorder.score(prompt, replies, RoleUsage())) == verdicts
    assert recorder.take() == {"p": [1.0, -np.inf]}
    assert recorder.take() == {}


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


def test_a_sweep_is_widened_when_its_own_trainings_are_done_and_not_for_ever() -> None:
    slow: Future[Point] = Future()
    fast: Future[Point] = Future()
    fast.set_result(drawn("identity", 0.9, 0.1))
    asked = []

    def submit(task: tuple[str, float, int, float]) -> Future[Point]:
        asked.append((task[0], slow.done()))
        if not slow.done() and len(asked) == 2:
            slow.set_result(drawn("exp:10", 0.9, 0.4))
        made: Future[Point] = Future()
        made.set_result(drawn(task[0], 0.9, 0.2 if task[0] == "identity" else 0.6, scale=task[3]))
        return made

    found = list(gain_runs._widened({slow: ("exp:10", 0), fast: ("identity", 0)}, submit))
    assert asked[:2] == [("identity", False)] * 2, "nothing of another sweep is waited for"
    assert [name for name, _ in asked].count("identity") == gain_runs.EXTRA, "no stretch encloses the KL"
    assert [name for name, _ in asked].count("exp:10") == 1
    assert len(found) == 2 + len(asked)


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


def test_a_study_takes_in_further_recipes(tmp_path: Path, plan: Plan) -> None:
    keep_plan(tmp_path, plan)
    keep_plan(tmp_path, replace(plan, recipes=("log",)))
    assert read_plan(tmp_path) == replace(plan, recipes=("identity", "exp:10", "log"))
    with pytest.raises(SystemExit, match="steps"):
        keep_plan(tmp_path, replace(plan, recipes=("raw",), steps=4))


def test_quick_is_a_plan_and_names_are_recipes() -> None:
    small = Plan(model="m", reward="r", seed=1, recipes=ctrl_gain.QUICK, **ctrl_gain.SMALL)
    assert small.settings(RECIPES["exp:10"], 0.5, 0).prompts_a_step >= 4
    assert set(gain_tables.FOR.values()) <= RECIPES.keys()
    assert {RECIPES[name].procedure for name in gain_tables.CTRL.values()} == set(gain_tables.CTRL)
    asked = small.asked("train") + small.asked("test")
    assert len({prompt.id for prompt in asked}) == len(small.situations) * (small.train + small.test)
    assert len(small.asked("test")) >= 300
