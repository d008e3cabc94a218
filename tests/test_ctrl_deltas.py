"""The demo's differences are made from a study: cut, stretched towards the KL, measured, and free of local paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import ctrl_deltas
from benchmarks.gain_plan import BEST, Plan, read_plan
from benchmarks.gain_runs import study
from inferalign.core.types import Prompt
from inferalign.engines.deltas import TENSORS, read_delta
from tests.test_gain_runs import plan, unwidened

__all__ = ["plan"]  # the fixture


def test_a_difference_is_made_and_measured(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    unwidened(monkeypatch)
    plan = replace(plan, recipes=("identity",))
    base, _, points = study(tmp_path / "study", plan, 1)
    assert read_plan(tmp_path / "study") == plan
    facts, measured = ctrl_deltas.make(tmp_path / "study", tmp_path / "delta", plan, points[0], base, 60_000)
    delta = read_delta(tmp_path / "delta")
    assert delta.facts["kl"] == facts["kl"] == pytest.approx(sum(measured.kl.values()) / len(measured.kl))
    assert delta.facts["trained_for"] == "sample"
    assert 0.5 < facts["scale"] <= 8, "three doublings at most"
    assert measured.wins[BEST].keys() == base.judge.keys()
    assert (tmp_path / "delta" / TENSORS).stat().st_size < 70_000
    assert plan.model not in str(delta.facts)
    assert plan.reward not in str(delta.facts)


def test_a_difference_is_stretched_by_the_kl_on_training_prompts_and_measured_on_the_test_ones(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a scale of 1.5 and a KL of .125, twice the scale gives .5, where it stays."""
    kls, splits, scales = iter([0.125, 0.5, 0.5, 0.47]), [], []

    def pool(folder: Path, plan: Plan, delta: Path, asked: Sequence[Prompt], count: int) -> None:
        splits.append({"train" if "-train-" in prompt.id else "test" for prompt in asked})

    monkeypatch.setattr(ctrl_deltas, "pool", pool)
    monkeypatch.setattr(ctrl_deltas, "mean_kl", lambda found: next(kls))
    monkeypatch.setattr(ctrl_deltas, "write_delta", lambda *_, scale, **__: scales.append(scale))
    monkeypatch.setattr(ctrl_deltas, "measured", lambda *_: SimpleNamespace(wins={BEST: {"a": 0.8, "b": 0.9}}))
    point = SimpleNamespace(recipe="exp:10", target=0.4, seed=0, scale=1.5, beta=0.2)
    facts, _ = ctrl_deltas.make(tmp_path, tmp_path / "best-of-4", plan, point, None, 1000)  # type: ignore[arg-type]
    assert scales == [1.5, 3.0, 3.0, 3.0, 3.0]
    assert splits == [{"train"}] * 3 + [{"test"}]
    assert (facts["kl"], facts["scale"], facts["trained_for"]) == (0.47, 3.0, BEST)
