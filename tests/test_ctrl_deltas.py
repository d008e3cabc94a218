"""The demo's differences are made from a study: cut, stretched towards the KL, measured, and free of local paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ctrl_deltas
from benchmarks.gain_plan import BEST, Plan
from benchmarks.gain_runs import study
from inferalign.engines.deltas import TENSORS, read_delta
from tests.test_gain_runs import plan, unwidened

__all__ = ["plan"]  # the fixture


def test_a_difference_is_made_and_measured(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    unwidened(monkeypatch)
    plan = replace(plan, recipes=("identity",))
    base, _, points = study(tmp_path / "study", plan, 1)
    assert ctrl_deltas.read_plan(tmp_path / "study") == plan
    facts, measured = ctrl_deltas.make(tmp_path / "study", tmp_path / "delta", plan, points[0], base, 60_000)
    delta = read_delta(tmp_path / "delta")
    assert delta.facts["kl"] == facts["kl"] == pytest.approx(sum(measured.kl.values()) / len(measured.kl))
    assert delta.facts["trained_for"] == "sample"
    assert 0.5 < facts["scale"] < 8
    assert measured.wins[BEST].keys() == base.judge.keys()
    assert (tmp_path / "delta" / TENSORS).stat().st_size < 70_000
    assert plan.model not in str(delta.facts)
    assert plan.reward not in str(delta.facts)
