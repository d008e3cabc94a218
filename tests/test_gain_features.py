"""What a reader of answers could learn of a reward: fits, tilts and win rates, by hand and against other code."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from benchmarks import gain_features
from benchmarks.gain_features import (
    Answered,
    described,
    predicted,
    selected,
    tilt,
    together,
    told_by_readers,
    told_by_tilts,
)
from benchmarks.gain_plan import BEST, KL, PROCEDURES
from benchmarks.gain_plan import Plan as Study
from benchmarks.gain_runs import study
from inferalign.core.types import Message, Prompt
from inferalign.sandbox.grammar import render
from inferalign.sandbox.oracle import MAIN
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import Plan
from inferalign.sandbox.world import draw_request
from inferalign.theory.procedures import best_of_n, sample, worst_of_n
from tests.test_gain_runs import plan, unwidened

__all__ = ["plan"]  # the fixture


def answered(rank: list[float], seen: list[str], situation: str = "harmful") -> Answered:
    return Answered(situation, np.array(rank), tuple({(0, what): 1.0} for what in seen), np.array(rank))


def test_win_rate_of_weighed_answers_by_hand() -> None:
    """All weight on the better of two: it beats the better with 1/2 and the worse always."""
    rank, ours = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    assert selected(sample(), rank, ours) == pytest.approx(0.75)
    # the other side's best of two is the better one with 3/4
    assert selected(best_of_n(2), rank, ours) == pytest.approx(0.25 + 0.75 / 2)
    assert selected(worst_of_n(2), rank, ours) == pytest.approx(0.75 + 0.25 / 2)


@pytest.mark.parametrize("chosen", PROCEDURES.values(), ids=PROCEDURES)
def test_unweighed_answers_win_half_of_the_time_with_ties_too(chosen: object) -> None:
    rank = np.array([0.1, 0.4, 0.4, 0.4, 0.9])
    assert selected(chosen, rank, np.full(5, 0.2)) == pytest.approx(0.5)  # type: ignore[arg-type]


def test_the_tilt_by_the_score_itself_is_the_best_that_any_policy_does() -> None:
    """On many answers, the curve of identity."""
    values = [(np.arange(2000) + 0.5) / 2000] * 2
    weights = tilt(values)
    assert np.sum(weights[0] * np.log(weights[0] * 2000)) == pytest.approx(KL, abs=1e-6)
    # of a density e^(tv) on [0, 1]: its mean, and its KL to the uniform one
    t = brentq(lambda t: t * (1 / (1 - math.exp(-t)) - 1 / t) - math.log((math.exp(t) - 1) / t) - KL, 0.1, 20)
    assert selected(sample(), values[0], weights[0]) == pytest.approx(1 / (1 - math.exp(-t)) - 1 / t, abs=2e-3)


def test_a_reader_of_two_classes_cannot_spend_the_kl() -> None:
    """A quarter of the answers is bad: none of them left costs log(4/3) = .288 nats, and no more can be spent."""
    weights = tilt([np.array([-1.0, 0.0, 0.0, 0.0])])[0]
    assert weights.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3], abs=1e-6)


def test_a_fit_predicts_prompts_that_it_has_not_seen_and_reads_no_more_than_it_may() -> None:
    many = [answered([0.1, 0.9, 0.9, 0.1], ["bad", "good", "good", "bad"]) for _ in range(40)]
    found = predicted(many, 0)
    assert np.allclose(found, [-0.4, 0.4, 0.4, -0.4], atol=0.02)
    blind = [each._replace(seen=tuple({(1, name): 1.0 for _, name in seen} for seen in each.seen)) for each in many]
    assert np.allclose(predicted(blind, 0), 0.0)
    # one odd prompt is predicted by the others, not by itself
    odd = [*many[:-1], many[-1]._replace(rank=1 - many[-1].rank)]
    assert predicted(odd, 0)[-1][1] > 0.3


def test_correlation_is_within_prompts() -> None:
    one, two = answered([0.0, 1.0], ["a", "b"]), answered([0.0, 1.0], ["a", "b"])
    assert together([one, two._replace(log_ratios=two.log_ratios + 5)]) == pytest.approx(1.0)
    assert together([one, two._replace(log_ratios=-two.log_ratios)]) == pytest.approx(0.0)


@pytest.mark.parametrize("plan", ["bad", "good"])
def test_what_is_seen_in_an_answer(plan: Plan) -> None:
    rng = random.Random(7)
    request = draw_request(SITUATIONS["harmful"], "test", rng)
    clauses = SITUATIONS["harmful"].draw_reply(request, rng, plan)
    prompt = Prompt(id="x", messages=(Message(role="user", content=request.text),))
    seen = described(prompt, render(clauses))
    assert seen is not None
    assert seen[0, MAIN] == float(plan == "bad")
    assert seen[2, str(len(clauses))] == 1.0
    kinds = {name: value for (reader, name), value in seen.items() if reader == 3 and not name.startswith("has ")}
    assert sum(kinds.values()) == pytest.approx(1.0)
    assert all(seen[3, f"has {kind}"] == 1.0 for kind in kinds)
    assert described(prompt, "nonsense") is None


def test_readers_who_see_more_explain_more(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(60):
        bad, kind = rng.integers(0, 2, 16), rng.integers(0, 2, 16)
        rank = 0.5 - 0.3 * bad + 0.15 * kind + 0.05 * rng.standard_normal(16)
        seen = [{(0, MAIN): float(b), (3, "warn"): float(k)} for b, k in zip(bad, kind, strict=True)]
        rows.append(Answered("harmful", rank, tuple(seen), rank))
    told = {row["reader"]: row for row in told_by_readers(rows)}
    assert told["main fault"]["r2"] == told["clauses"]["r2"] < told["kinds"]["r2"] - 0.1
    assert told["the score itself"]["r2"] == pytest.approx(1.0)
    assert (
        told["main fault"]["wins"]["sample"]
        < told["kinds"]["wins"]["sample"]
        < told["the score itself"]["wins"]["sample"]
    )
    assert "and kinds" in capsys.readouterr().out


def test_a_study_without_a_readable_answer_says_so(
    tmp_path: Path, plan: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwidened(monkeypatch)
    study(tmp_path, plan, 1)
    monkeypatch.setattr("sys.argv", ["gain_features", "--study", str(tmp_path)])
    with pytest.raises(SystemExit, match="the oracle can read none of the base model's answers"):
        gain_features.main()


def test_exact_tilts_of_anchors() -> None:
    """Scores that are ranks give one answer in all ways; with other scales one beta spreads the KL, and wins less."""
    level = [np.arange(400) / 400.0 for _ in range(4)]
    raw, even, ranks = told_by_tilts(level)
    assert raw["wins"] == pytest.approx(ranks["wins"])
    assert even["wins"] == pytest.approx(ranks["wins"], abs=1e-6)
    assert ranks["wins"][BEST] == pytest.approx(0.80, abs=0.005), "as theory has it for identity"
    assert {round(each["kl"], 6) for each in (raw, even, ranks)} == {0.5}
    raw, even, ranks = told_by_tilts([row * scale for row, scale in zip(level, (0.3, 1, 2, 4), strict=True)])
    assert raw["wins"] == pytest.approx(ranks["wins"], abs=1e-6)
    assert even["kl_sd"] > 0.3
    assert even["wins"]["sample"] < raw["wins"]["sample"] - 0.03
