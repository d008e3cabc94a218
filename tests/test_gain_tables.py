"""What the gain study says at its end, on pools whose win rates theory knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import ctrl_gain, gain_tables
from benchmarks.gain_plan import BEST, WORST, Plan
from benchmarks.gain_runs import Point
from benchmarks.gain_statistics import Gain, nearest, nearest_training
from benchmarks.gain_tables import costs, goals
from inferalign.core.stats import Estimate
from inferalign.theory.procedures import best_of_n, worst_of_n
from inferalign.winrate.ceiling import selector_ceiling
from inferalign.winrate.pools import Pool
from tests.test_gain_statistics import point
from tests.winrate.synthetic import base_pool, verdicts


def test_the_last_line_says_the_smaller_gain_of_the_two_in_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At KL .5, exp:10 gains 7.2 points over identity under best-of-4, exp:-5 5.8 under worst-of-4."""
    monkeypatch.setattr(ctrl_gain, "costs", lambda out, points: {})
    recipes = ("identity", "exp:10", "exp:-5")
    points = [point(recipe, kl, seed) for seed in range(2) for recipe in recipes for kl in (0.35, 0.7)]
    plan = Plan(model="m", reward="r", seed=1, recipes=recipes)
    told = ctrl_gain.report(tmp_path, plan, base_pool(300, 64, 5), 20.0, points)
    curves = {BEST: selector_ceiling(best_of_n(4)), WORST: selector_ceiling(worst_of_n(4))}
    theory = {name: gain_tables.points_over_identity(curve, gain_tables.CTRL[name]) for name, curve in curves.items()}
    assert theory == pytest.approx({BEST: 7.2, WORST: 5.8}, abs=0.1)
    assert told["gain_procedure"] == WORST
    assert told["gain_points"] == pytest.approx(theory[WORST], abs=1.0)
    assert told["gain_points_low"] < told["gain_points"] < told["gain_points_high"]
    assert told["gain_points_high"] - told["gain_points_low"] < 3
    seeds = told["gain_points_over_seeds"]
    assert seeds["mean"] == pytest.approx(told["gain_points"]), "in points, as its name says"
    assert seeds["high"] - seeds["low"] > told["gain_points_high"] - told["gain_points_low"]
    assert len(told["goals"]) == 4
    assert all(told["goals"].values())
    matrix = told["mismatch"]
    for decoded in matrix:
        best = max(matrix, key=lambda trained: matrix[trained][decoded]["win_rate"]["mean"])
        assert best == decoded, "the recipe trained for it is the best of its column"
        assert matrix[decoded][decoded]["own_recipe_less_this"]["mean"] == 0
        others = [matrix[trained][decoded]["own_recipe_less_this"]["mean"] for trained in matrix if trained != decoded]
        assert min(others) > 0


def test_what_the_selector_says_of_itself_has_nothing_of_the_judge() -> None:
    points = [point(recipe, kl, 0) for recipe in ("identity", "exp:10") for kl in (0.35, 0.7)]
    base = base_pool(300, 64, 5)

    def misjudged(of: Pool) -> Pool:
        drawn = np.random.default_rng(7)
        return replace(of, judge={name: verdicts(drawn.random(row.keys.size)) for name, row in of.judge.items()})

    others = [each._replace(pool=misjudged(each.pool)) for each in points]
    assert gain_tables.by_itself(others, misjudged(base)) == gain_tables.by_itself(points, base)


def gain(procedure: str, mean: float, half: float) -> Gain:
    estimate = Estimate(mean=mean, low=mean - half, high=mean + half, n=9)
    return Gain(
        procedure=procedure,
        recipe=gain_tables.CTRL[procedure],
        against="identity",
        over_prompts=estimate,
        over_seeds=estimate,
        by_seed=(mean,),
    )


def test_goals_by_hand() -> None:
    """An interval that holds 0, and a gain that is missing, meet nothing, whatever theory predicts."""
    found = goals([gain(BEST, 0.03, 0.01), gain(WORST, 0.03, 0.04)], {BEST: 7.0, WORST: 5.0})
    assert list(found.values()) == [True, False, False, True]
    assert not any(goals([], {BEST: 7.0, WORST: -0.1}).values())


def test_what_is_held_against_what() -> None:
    """CTRL less each baseline under its own procedure, and the uncalibrated ones less identity: in this order."""

    class Asked:
        recipes = ("identity", "raw", "exp:10", "exp:-5")

        def gain(self, procedure: str, recipe: str, against: str) -> Any:
            return procedure, recipe, against

    sweeps: Any = Asked()
    assert gain_tables.all_gains(sweeps) == [
        (BEST, "exp:10", "identity"),
        (BEST, "exp:10", "raw"),
        (BEST, "raw", "identity"),
        (WORST, "exp:-5", "identity"),
        (WORST, "exp:-5", "raw"),
        (WORST, "raw", "identity"),
        ("sample", "raw", "identity"),
    ]


def curve(*wins: float) -> tuple[dict[str, Any], ...]:
    return tuple({"wins": {BEST: win, WORST: win}, "tokens": 10.0, "cpu": 2.0} for win in wins)


def made(recipe: str, kl: float, wins: tuple[dict[str, Any], ...], scale: float = 1.0) -> Point:
    return point(recipe, kl, curve=wins)._replace(scale=scale)


def test_the_price_is_that_of_a_training_and_not_of_a_policy_stretched_from_it() -> None:
    points = [made("identity", 0.25, curve(0.6)), made("identity", 0.5, curve(0.9), 1.4), made("identity", 1.0, ())]
    assert nearest(points, "identity", 0).scale == 1.4
    assert nearest_training(points, "identity", 0).target == 0.25


def test_a_price_that_was_never_paid_in_full_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Identity ends at .7 over its last five steps; exp:10 of one seed gets there at step 6, of the other never."""
    monkeypatch.setattr(gain_tables.AnchorSet, "load", lambda folder: SimpleNamespace(tokens=1000))
    monkeypatch.setattr(gain_tables, "cpu_seconds", lambda folder, what: 30.0)
    steps = (0.5, 0.7, 0.7, 0.7, 0.7, 0.7, 0.8)
    points = [point("identity", 0.5, seed, curve(*([0.7] * 5))) for seed in (0, 1)]
    points += [point("exp:10", 0.5, 0, curve(*steps)), point("exp:10", 0.5, 1, curve(*([0.6] * 7)))]
    told = costs(tmp_path, points)["recipes"]
    assert told["identity"][BEST] == {"stated": 0.7, "steps": [5, 5], "tokens": 1050.0, "cpu_seconds": 40.0}
    assert told["exp:10"][BEST]["steps"] == [6, None]
    assert told["exp:10"][BEST]["tokens"] == 1000 + (60 + 70) / 2
    out = capsys.readouterr().out
    assert "never in 1 of 2" in out
    assert ">1,065" in out
