"""A whole comparison on pools whose win rates, KLs and objectives theory knows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from inferalign.core.errors import InputError, ScoringError
from inferalign.core.types import Score, Unscored
from inferalign.theory.grid import default_grid
from inferalign.theory.policies import beta_for_kl, win_rate, win_rate_plain
from inferalign.theory.procedures import best_of_n, worst_of_n
from inferalign.theory.transforms import Identity
from inferalign.winrate.ceiling import ceilings
from inferalign.winrate.compare import Policy, compare, largest_objective, measure, predicted
from inferalign.winrate.pools import Pool, Verdicts
from tests.winrate.synthetic import base_pool, density, pool, trained_pool

PROMPTS = 250
PROCEDURES = {"best-of-n:4": best_of_n(4), "worst-of-n:4": worst_of_n(4)}
BASE = base_pool(PROMPTS, 24, 0)
CEILINGS = ceilings(PROCEDURES, BASE, judged_by_selector=True)


def trained(transform: str, kl: float, seeds: int = 1, **facts: object) -> Policy:
    pools = tuple(trained_pool(density(transform, kl), PROMPTS, 16, 10 + seed) for seed in range(seeds))
    return Policy(transform, None, pools, **facts)


def sigma(low: float | None, high: float | None) -> float:
    assert low is not None
    assert high is not None
    return (high - low) / 3.92


@pytest.mark.parametrize(("transform", "kl"), [("identity", 0.5), ("exp:10", 0.5), ("exp:-10", 0.3)])
def test_win_rates_kl_and_objective_are_those_of_theory(transform: str, kl: float) -> None:
    exact, beta = density(transform, kl), 0.2
    found = compare([measure(trained(transform, kl, beta=beta), BASE, PROCEDURES)], CEILINGS)
    for row in found.rows:
        assert row.win_rate.mean is not None
        assert row.kl.mean is not None
        assert row.objective is not None
        assert row.objective.mean is not None
        truth = win_rate(exact, PROCEDURES[row.procedure]).win
        assert abs(row.win_rate.mean - truth) < 4 * sigma(row.win_rate.low, row.win_rate.high)
        assert abs(row.kl.mean - exact.kl) < 4 * sigma(row.kl.low, row.kl.high)
        objective = win_rate_plain(exact).win - beta * exact.kl
        assert abs(row.objective.mean - objective) < 4 * sigma(row.objective.low, row.objective.high)
        assert not row.above_ceiling
        assert row.win_rate.n == PROMPTS
        assert row.left_out == 0


def test_the_largest_objective_is_that_of_theory_and_is_reached_by_its_policy() -> None:
    """Identity at KL .5: beta log(beta (e^(1/beta) - 1)), which exp:10 at this beta does not reach."""
    beta = beta_for_kl(Identity(), 0.5, default_grid())
    at_best, elsewhere = (trained(name, 0.5, beta=beta) for name in ("identity", "exp:10"))
    best, other = (compare([measure(policy, BASE, PROCEDURES)], CEILINGS).rows[0] for policy in (at_best, elsewhere))
    assert best.ideal == other.ideal == pytest.approx(beta * math.log(beta * math.expm1(1 / beta)), abs=2e-3)
    assert best.objective is not None
    assert other.objective is not None
    assert best.objective.mean is not None
    assert other.objective.high is not None
    assert abs(best.objective.mean - best.ideal) < 4 * sigma(best.objective.low, best.objective.high) + 2e-3
    assert other.objective.high < best.ideal


def test_the_largest_objective_by_hand() -> None:
    """Half of the answers tie at the bottom and half at the top: ranks 1/4 and 3/4; a tilt of them has that J."""
    scores, beta = np.array([1.0, 5.0, 1.0, 5.0]), 0.3
    p = 1 / (1 + math.exp(-0.5 / beta))
    kl = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert largest_objective(scores, beta) == pytest.approx((0.25 + 0.5 * p) - beta * kl)
    assert largest_objective(100 * scores, beta) == largest_objective(scores, beta)
    assert largest_objective(np.ones(4), beta) == pytest.approx(0.5)


def test_the_base_model_wins_half_against_itself() -> None:
    other = base_pool(PROMPTS, 16, 5)
    found = compare([measure(Policy("same", None, (other,)), BASE, PROCEDURES)], CEILINGS)
    for row in found.rows:
        assert row.win_rate.low is not None
        assert row.win_rate.high is not None
        assert row.win_rate.low < 0.5 < row.win_rate.high
        assert (row.objective, row.ideal) == (None, None)
        assert (row.ceiling, row.above_ceiling) == (0.5, False)


def test_a_kl_that_is_told_too_small_is_noticed() -> None:
    honest = trained("exp:10", 0.5).pools[0]
    ratios = {name: row / 3 for name, row in honest.log_ratios.items()}
    found = compare(
        [measure(Policy("leak", None, (Pool(honest.selector, honest.judge, ratios),)), BASE, PROCEDURES)], CEILINGS
    )
    assert {row.procedure: row.above_ceiling for row in found.rows} == {"best-of-n:4": True, "worst-of-n:4": False}


def test_differences_are_paired_over_prompts() -> None:
    first, second = (measure(trained(name, 0.5), BASE, PROCEDURES) for name in ("identity", "exp:10"))
    found = compare([first, second], CEILINGS)
    assert [(d.procedure, d.policy, d.against) for d in found.differences] == [
        ("best-of-n:4", "exp:10", "identity"),
        ("worst-of-n:4", "exp:10", "identity"),
    ]
    gain = found.differences[0].win_rate
    exact = [win_rate(density(name, 0.5), best_of_n(4)).win for name in ("exp:10", "identity")]
    assert gain.mean is not None
    assert gain.low is not None
    assert abs(gain.mean - (exact[0] - exact[1])) < 4 * sigma(gain.low, gain.high)
    assert gain.low > 0
    losses = found.differences[1].win_rate
    assert losses.high is not None
    assert losses.high < 0


def test_training_seeds_are_averaged_by_prompt_and_shown_apart() -> None:
    three = trained("identity", 0.5, seeds=3)
    measured = measure(three, BASE, PROCEDURES)
    alone = [measure(Policy("one", None, (each,)), BASE, PROCEDURES) for each in three.pools]
    for name in PROCEDURES:
        assert measured.by_seed[name] == pytest.approx([np.mean(list(one.wins[name].values())) for one in alone])
        for prompt in ("p0000", "p0123"):
            assert measured.wins[name][prompt] == pytest.approx(np.mean([one.wins[name][prompt] for one in alone]))
    row = compare([measured], CEILINGS).rows[0]
    assert row.win_rate.n == PROMPTS
    assert len(row.by_seed) == 3


def test_recipes_at_one_kl() -> None:
    policies = [
        Policy(name, f"{kl}", (trained_pool(density(name, kl), PROMPTS, 16, seed),))
        for seed, (name, kl) in enumerate((n, k) for n in ("identity", "exp:10") for k in (0.3, 0.7))
    ]
    lonely = trained("log", 0.5)
    found = compare([measure(each, BASE, PROCEDURES) for each in (*policies, lonely)], CEILINGS, kl=0.5)
    best = {each.recipe: each for each in found.at_kl if each.procedure == "best-of-n:4"}
    for name in ("identity", "exp:10"):
        estimate = best[name].win_rate
        assert estimate.mean is not None
        # a chord lies a little below the curve
        assert estimate.mean == pytest.approx(
            win_rate(density(name, 0.5), best_of_n(4)).win, abs=4 * sigma(estimate.low, estimate.high) + 0.005
        )
    assert best["log"].outside is not None
    assert "2 betas" in best["log"].outside
    assert best["log"].win_rate.mean is None
    (gain,) = (each for each in found.at_kl_differences if each.procedure == "best-of-n:4")
    assert (gain.policy, gain.against, gain.kl) == ("exp:10", "identity", None)
    assert gain.win_rate.low is not None
    assert gain.win_rate.low > 0.04
    json.dumps(found.as_json(), allow_nan=False)


def test_unscored_answers_are_counted_and_never_numbers() -> None:
    scores = [Score(1.0), Unscored("no words", blame="response"), Unscored("timeout", blame="judge"), Score(0.0)]
    found = Verdicts.of(scores)
    assert found.unscored == (1, 1)
    assert list(found.judged) == [True, True, False, True]
    one = Pool({"p": found}, {"p": Verdicts.of([Score(0.0)] * 4)}, {"p": np.zeros(4)})
    assert list(one.usable("p")[0]) == [1.0, -np.inf, 0.0]
    assert one.unscored == {"selector": {"response": 1, "judge": 1}, "judge": {"response": 0, "judge": 0}}
    base = Pool({"p": Verdicts.of([Score(0.5)] * 4)}, {"p": Verdicts.of([Score(0.0)] * 4)}, {"p": np.zeros(4)})
    measured = measure(Policy("x", None, (one,)), base, {"best-of-n:3": best_of_n(3)})
    assert measured.plain["p"] == pytest.approx(1 / 3)  # beats, loses by its fault, loses
    with pytest.raises(ScoringError, match=r"no prompt has enough judged answers.*--m"):
        measure(Policy("x", None, (one,)), base, PROCEDURES)


def test_a_prompt_with_too_few_judged_answers_is_left_out_and_counted() -> None:
    whole = trained("identity", 0.5).pools[0]
    cut = dict(whole.selector)
    cut["p0003"] = Verdicts(cut["p0003"].keys, np.arange(16) < 3)
    measured = measure(Policy("x", None, (Pool(cut, whole.judge, whole.log_ratios),)), BASE, PROCEDURES)
    rows = compare([measured], CEILINGS).rows
    assert [(row.left_out, row.win_rate.n, row.kl.n) for row in rows] == [(1, PROMPTS - 1, PROMPTS)] * 2
    assert rows[0].unscored["selector"] == {"response": 0, "judge": 13}


def test_theory_curves() -> None:
    found = predicted(CEILINGS["best-of-n:4"], ("identity", "optimal"), (0.5, 1.0))
    assert found["identity"] == pytest.approx([0.7998, 0.8770], abs=1e-4)
    assert found["optimal"] == pytest.approx([0.8733, 0.9411], abs=1e-4)


def test_what_cannot_be_compared() -> None:
    one = measure(trained("identity", 0.5), BASE, PROCEDURES)
    with pytest.raises(InputError, match="names of their own, got identity, identity"):
        compare([one, one], CEILINGS)
    with pytest.raises(InputError, match="answered different prompts"):
        measure(Policy("x", None, (base_pool(3, 16, 1),)), BASE, PROCEDURES)
    rows = np.zeros((2, 3))
    with pytest.raises(InputError, match="on the same prompts"):
        Pool(pool(rows, rows, rows).selector, {}, {})
