"""The two trained policies that are shipped: made for these weights, near their base, and not the same as it."""

from __future__ import annotations

import pytest

import inferalign
from inferalign.cli.demo_trained import IDENTITY, TRAINED
from inferalign.engines.deltas import read_delta
from inferalign.engines.table import ModelOptions, is_sandbox, load, shipped_deltas
from inferalign.procedures.base import Sampling
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.world import prompts
from tests.sandbox.test_shipped_model import FOLDER

KEPT = {"trained_for", "transform", "beta", "scale", "kl", "win_rate", "procedure", "selector", "judge", "plan"}


def test_what_was_measured_travels_with_them() -> None:
    assert shipped_deltas() == ["best-of-4", "identity"]
    facts = {name: read_delta(FOLDER / "deltas" / name).facts for name in shipped_deltas()}
    assert all(set(each) == KEPT for each in facts.values())
    assert {name: each["transform"] for name, each in facts.items()} == {"best-of-4": "exp:10", "identity": "identity"}
    assert facts["best-of-4"]["plan"] == facts["identity"]["plan"], "one study, so that they may be compared"
    assert abs(facts["best-of-4"]["kl"] - facts["identity"]["kl"]) < 0.1


@pytest.mark.parametrize("name", [IDENTITY, TRAINED])
def test_a_policy_speaks_the_sandbox_and_differs_from_its_base(name: str) -> None:
    """At half a nat a reply, the same random numbers begin a reply alike often, and not always."""
    policy = load(name, ModelOptions(device="cpu"))
    assert is_sandbox(policy.engine.name)
    asked, plain = prompts("harmful", 40, 85_103), Sampling(max_new_tokens=64)
    ours, theirs = (
        inferalign.generate(model, "sample", asked, seed=4, sampling=plain) for model in (policy, "sandbox")
    )
    assert sum(grade(p.text, mine.response.text).bad is not None for p, mine in zip(asked, ours, strict=True)) >= 36
    begun = [[each.response.text.split()[:3] for each in replies] for replies in (ours, theirs)]
    assert 8 <= sum(mine == other for mine, other in zip(*begun, strict=True)) <= 36
