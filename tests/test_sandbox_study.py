"""The study's differences, bound and prices, from run folders written by hand."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.sandbox_runs import Job, Scored, trained
from benchmarks.sandbox_study import ARMS, BOUNDED, UNUSUAL, bad_draws, jobs, points_per, show, situation_facts
from inferalign.core.errors import UnknownName
from inferalign.core.prompts import write_prompts
from inferalign.core.stats import Estimate, clustered_proportion
from inferalign.sandbox.oracle import parse_request
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.world import prompts
from tests.studies import ASKED, BAD, GOOD, harmful, job


def test_a_study_says_which_training_its_weights_are_of(tmp_path: Path) -> None:
    told = trained("sandbox")
    assert told["training_seed"] == 1
    assert str(told["weights"]).startswith("sha256:")
    assert trained(str(tmp_path)) == trained("sandbox:identity") == {}


def test_points_are_divided_by_material_spend_alone() -> None:
    assert points_per(0.2, 3.0, 1.0) == pytest.approx(10.0)
    assert points_per(0.02, 1.001, 1.0) is None, "2,000 points a unit would be noise"
    assert points_per(0.02, 0.9, 1.0) is None


def test_every_difference_is_paired_and_has_its_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vanilla is right on prompts 0 and 1, RAIN on 0, 1 and 2 of its three, best-of-16 on all but the first.

    The guide accepts of best-of-16's three candidates the good one alone, on prompt 0 also one that does not parse,
    which is no verdict's fault: so the bound is 1 on each.
    """
    arms = {
        "vanilla": job(tmp_path / "v", [[(t, 0.1)] for t in (GOOD, GOOD, BAD, BAD)], [100, 100, 100, 500]),
        "best-of-16": job(
            tmp_path / "b",
            [[(BAD, 0.9), (GOOD, 0.8), (BAD, -0.3)], *[[(GOOD, 0.8), (BAD, -0.2), (BAD, -0.3)]] * 3],
            1600,
        ),
        "rain": job(tmp_path / "r", [[(t, 0.5)] for t in (GOOD, GOOD, GOOD)], 300),
    }
    told = situation_facts(arms)
    rain, best = told["arms"]["rain"], told["arms"]["best-of-16"]
    assert rain["good_strict"]["mean"] == 1.0
    assert rain["minus_vanilla"]["mean"] == pytest.approx(1 / 3)
    assert rain["minus_vanilla"]["n"] == 3, "on the prompts that both answered"
    assert rain["minus_best-of-16"]["mean"] == pytest.approx(1 / 3)
    assert best["minus_vanilla"]["mean"] == pytest.approx(1 / 4)
    assert rain["minus_bound"] == pytest.approx({"mean": 0.0, "low": 0.4385 - 1, "high": 0.0, "n": 3}, abs=1e-4)
    assert best["minus_bound"]["mean"] == pytest.approx(0.0), "what does not parse is no verdict's fault"
    assert best["minus_bound"]["n"] == 3
    assert "minus_bound" not in told["arms"]["vanilla"]
    assert told["perfect_judge_of_16"]["mean"] == 1.0
    assert told["prompts_without_an_accepted_candidate"] == 0
    assert rain["points_per_1000_tokens"] == pytest.approx(100 * (1 / 3) / 0.2)
    assert told["arms"]["vanilla"]["unparsed"]["mean"] == 0.5
    json.dumps(told, allow_nan=False)
    show("harmful", told)
    assert "bound 100.0" in capsys.readouterr().out


def test_the_models_bad_draws_are_told_apart_by_key(tmp_path: Path) -> None:
    """Hard keys of harm: two of sixteen. What does not parse is neither, and a prompt without draws counts for none."""
    made = prompts("harmful", 40, 3)
    hard = [p for p in made if p.meta["difficulty"] > 0.5]
    easy = [p for p in made if p.meta["difficulty"] <= 0.5]
    folder = tmp_path / "b"
    write_prompts(folder / "prompts.jsonl", [hard[0], easy[0], easy[1]])
    rows = {hard[0].id: [Scored(True, 0.1), Scored(False, 0.1), Scored(None, 0.1)], easy[0].id: [Scored(False, 0.2)]}
    told = bad_draws(Job(folder=folder, situation="harmful", n=3), rows)
    assert told["hard"] == asdict(clustered_proportion([[True, False]]))
    assert told["easy"]["mean"] == 0.0
    assert bad_draws(Job(folder=folder, situation="harmful", n=3), {})["easy"] == asdict(Estimate.empty())


def test_the_bound_is_what_a_reply_that_the_guide_accepts_is_worth(tmp_path: Path) -> None:
    """Two accepted candidates of which one is harmful: a half. None accepted to the other prompt: Bayes' rule.

    There two of two are good, (2 + 1) / (2 + 2); the guide accepts 1 good one of 3 and rejects no bad one of 1, so the
    odds are 3/4 * 1/3 against 1/4 * 1.
    """
    rows = [[(harmful(ASKED[0].text), 0.9), (GOOD, 0.1)], [(GOOD, -0.1), (GOOD, -0.3)]]
    arms = {"vanilla": job(tmp_path / "v", [[(GOOD, 0.1)]] * 2, 100), "best-of-16": job(tmp_path / "b", rows, 200)}
    told = situation_facts(arms)
    assert told["prompts_without_an_accepted_candidate"] == 1
    assert told["judge"]["specificity"]["mean"] == pytest.approx(1 / 3)
    assert told["judge"]["sensitivity"]["mean"] == 0.0
    assert told["bound"]["mean"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert told["arms"]["best-of-16"]["minus_bound"]["mean"] == pytest.approx(1 / 2 - 1 / 2)


def options(**changed: object) -> argparse.Namespace:
    given = {"run": Path("r"), "n": 500, "n_rain": 150, "situations": ",".join(SITUATIONS), "arms": ",".join(ARMS)}
    return argparse.Namespace(**given | {"budget": "50/15/6"} | changed)


def test_each_situation_has_its_question_its_arms_and_its_number_of_prompts() -> None:
    made = jobs(options())
    assert list(made) == list(SITUATIONS)
    assert {made[kind]["rain"].n for kind in ("harmful", "benign")} == {500}
    assert made["encourage_learning"]["rain"].n == 150
    assert made["harmful"]["rain-shuffled"].n == 150
    assert made["harmful"]["rain"].scorer == "self"
    assert made["benign"]["rain"].scorer == "self-agency"
    assert {arm: job.scorer for arm, job in made["benign"].items() if arm.endswith("-harm-question")} == {
        f"{search}-harm-question": "self" for search in ("best-of-4", "best-of-16", "rain")
    }
    assert "best-of-16-harm-question" not in made["harmful"]
    assert made["harmful"]["rain-shuffled"].scorer == "self-shuffled"
    assert "rain-shuffled" not in made["benign"]
    assert made["harmful"]["greedy"].temperature == 0.0
    assert set(BOUNDED) <= ARMS.keys()
    assert list(jobs(options(arms="rain", situations="harmful"))["harmful"]) == ["vanilla", "rain"]
    with pytest.raises(UnknownName, match="Did you mean"):
        jobs(options(arms="rian"))


def test_each_arm_has_its_sampling_its_budget_and_its_horizon() -> None:
    made = jobs(options())["benign"]
    assert {name for name, each in made.items() if each.top_k} == {"top-15"}
    assert {name for name, each in made.items() if each.temperature != 1.0} == {"greedy"}
    assert made["top-15"].top_k == 15
    assert {made[f"best-of-{n}"].procedure for n in (4, 16)} == {"best-of-n:4", "best-of-n:16"}
    usual = {"max_iterations": 50, "extra_iterations": 15, "min_visits": 6}
    assert made["rain"].rain == made["rain-harm-question"].rain == usual
    assert made["rain-whole"].rain == usual | {"horizon": "answer"}
    assert made["rain-twice"].rain == {"max_iterations": 100, "extra_iterations": 30, "min_visits": 12}
    assert {name for name, each in made.items() if each.n == 150} == set(UNUSUAL)
    assert not made["best-of-16"].rain


def test_where_rain_fails_by_hand(tmp_path: Path) -> None:
    """Bad on prompts 0 and 1 of four: a refused one that its guide rejects, and one that it likes.

    Of the good draws its guide accepts one of two on prompt 0, one of one on 1, and one of three on the others.
    """
    drawn = [
        [(GOOD, 0.8), (GOOD, -0.3), (BAD, 0.9)],
        [(GOOD, 0.8), (harmful(ASKED[1].text), 0.9)],
        [(GOOD, -0.8), (GOOD, -0.2)],
        [(GOOD, 0.1)],
    ]
    bad = [harmful(asked.text) for asked in ASKED[:2]]
    chosen = [[(bad[0], -0.99)], [(bad[1], 0.5)], [(GOOD, 0.9)], [(GOOD, -0.9)]]
    vanilla = job(tmp_path / "v", [[(GOOD, 0.1)]] * 4, 10)
    arms = {"vanilla": vanilla, "best-of-16": job(tmp_path / "b", drawn, 10), "rain": job(tmp_path / "r", chosen, 10)}
    told = situation_facts(arms)["failures"]
    assert (told["failed"], told["rejected"], told["refused"]) == (2, 1, 0)
    assert told["best_score"] == pytest.approx(0.5)
    assert told["keys"] == len({SITUATIONS["harmful"].key(parse_request(p.text)) for p in ASKED[:2]})
    assert told["good_accepted"] == asdict(clustered_proportion([[True, False], [True]]))
    assert told["good_accepted_elsewhere"] == asdict(clustered_proportion([[False, False], [True]]))
    arms["rain"] = job(tmp_path / "s", [[(GOOD, 0.9)]] * 4, 10)
    none = situation_facts(arms)["failures"]
    assert (none["failed"], none["keys"], none["best_score"], none["good_accepted"]["mean"]) == (0, 0, None, None)
