"""RAIN against best-of-N at equal tokens, and each part left out: read from run folders whose numbers are known."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.rain_ablations import ABLATIONS, jobs, show, situation_facts
from inferalign.sandbox.oracle import grade
from tests.studies import ASKED, BAD, GOOD, job


def test_every_ablation_lacks_its_part(tmp_path: Path) -> None:
    args = argparse.Namespace(run=tmp_path, n=7, situations="harmful", budget="50/15/6", most=64)
    made = jobs(args)["harmful"]
    usual = {"max_iterations": 50, "extra_iterations": 15, "min_visits": 6}
    assert {name: each.rain for name, each in made.items() if name != "most"} == {
        "full": usual,
        "no similarity": usual | {"sibling_credit": 0.0},
        "no widening": usual | {"widen_limit": 0},
        "c = 0": usual | {"exploration": 0.0},
        "none of the three": usual | {"sibling_credit": 0.0, "widen_limit": 0, "exploration": 0.0},
    }
    assert len({each.folder for each in made.values()}) == 6


@pytest.mark.parametrize(("tokens", "k", "enough"), [(100, 1, True), (150, 2, True), (400, 4, True), (900, 4, False)])
def test_best_of_k_has_as_many_tokens_as_rain_or_says_that_it_has_fewer(
    tmp_path: Path, tokens: int, k: int, enough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One good candidate of four, which the guide likes best: best-of-k finds it in k of 4 subsets."""
    assert grade(ASKED[0].text, GOOD).bad is False
    pool = [[(GOOD, 0.9), (BAD, 0.1), (BAD, 0.2), (BAD, 0.3)]] * 4
    arms = {"most": job(tmp_path / "most", pool, 400)}
    for name in ABLATIONS:
        right = 4 if name == "full" else 3
        replies = [[(GOOD if i < right else BAD, 0.5)] for i in range(4)]
        arms[name] = job(tmp_path / name.replace(" ", "-"), replies, tokens)
    told = situation_facts(arms, 4)
    equal = told["equal_tokens"]
    assert (equal["k"], equal["tokens"], equal["as_many_as_rain"]) == (k, 100 * k, enough)
    assert equal["good_strict"]["mean"] == pytest.approx(k / 4)
    assert equal["rain_minus_best_of_k"]["mean"] == pytest.approx(1 - k / 4)
    if k == 4:  # right on every prompt, as RAIN is: four prompts make neither certain
        assert equal["good_strict"]["low"] == told["full"]["good_strict"]["low"] < 0.6
        assert equal["rain_minus_best_of_k"]["low"] < -0.3
        assert equal["rain_minus_best_of_k"]["high"] > 0.3
    assert told["full"]["good_strict"]["mean"] == 1.0
    assert told["c = 0"]["minus_full"]["mean"] == -0.25
    show("harmful", told)
    assert ("fewer than RAIN's" in capsys.readouterr().out) is not enough
