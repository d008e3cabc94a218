"""Plans: against brute-force quadrature, simulation, inverses of each other, and bounds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferalign.core.errors import InputError, UnknownName
from inferalign.theory import planner
from inferalign.theory.optimal import Unconverged
from inferalign.theory.planner import find, plan
from inferalign.theory.procedures import best_of_n, parse_selection, sample, worst_of_n

FIXED = ("identity", "log", "exp:10", "exp:-10", "one-shot")


def brute_force(procedure: str, transform: str, beta: float) -> tuple[float, float]:
    """Win rate and KL on a plain grid, dense at both ends; written without the package."""
    kind, _, number = procedure.partition("-of-n:")
    n = int(number or 1)
    v = np.linspace(0, 1, 100_001)
    u, du = v**3 * (10 - 15 * v + 6 * v**2), 30 * v**2 * (1 - v) ** 2
    t = float(transform.partition(":")[2] or 0)
    with np.errstate(divide="ignore"):
        phi = {
            "identity": u,
            "log": np.log(u),
            "exp:10": np.exp(10 * (u - 1)),
            "exp:-10": -np.exp(t * u),
            "one-shot": -((1 - u) ** (2 * n - 1)) if kind == "worst" else u ** (2 * n - 1),
        }[transform]
    weight = np.exp((phi - phi.max()) / beta)
    cumulated = np.concatenate([[0.0], np.cumsum((weight * du)[1:] + (weight * du)[:-1]) / 2]) * (v[1] - v[0])
    F, f = cumulated / cumulated[-1], weight / cumulated[-1]
    if kind == "worst":
        ours, theirs = 1 - (1 - F) ** n, n * (1 - u) ** (n - 1)
    else:
        ours, theirs = F**n, n * u ** (n - 1)
    kl = np.trapezoid(np.where(f > 0, f * np.log(np.where(f > 0, f, 1.0)), 0.0) * du, v)
    return 1 - float(np.trapezoid(ours * theirs * du, v)), float(kl)


@pytest.mark.parametrize("procedure", ["sample", "best-of-n:64", "worst-of-n:4"])
@pytest.mark.parametrize("transform", FIXED)
def test_win_rates_against_brute_force(procedure: str, transform: str) -> None:
    for kl in (0.05, 5.0):
        found = find(parse_selection(procedure), transform, kl=kl)
        win, reached = brute_force(procedure, transform, found.beta)
        assert found.win.win == pytest.approx(win, abs=1e-6)
        assert reached == pytest.approx(kl, abs=2e-5)


@pytest.mark.parametrize("procedure", ["best-of-n:4", "worst-of-n:32", "best-of-n:16"])
@pytest.mark.parametrize("transform", [*FIXED, "optimal"])
def test_win_rates_against_contests(procedure: str, transform: str) -> None:
    """40,000 contests of N draws each, the policy's by the inverse of its distribution function."""
    selection = parse_selection(procedure)
    found = find(selection, transform, kl=0.5)
    draws = np.random.default_rng(7)
    u = np.linspace(0, 1, 400_001)[1:-1]
    weight = np.exp(found.transform.from_top(u, 1 - u) / found.beta)
    F = np.cumsum(weight) / weight.sum()
    ours = np.interp(draws.random((40_000, selection.n or 1)), F, u)
    theirs = draws.random(ours.shape)
    keep = np.min if procedure.startswith("worst") else np.max
    won = float(np.mean(keep(ours, axis=1) > keep(theirs, axis=1)))
    assert abs(won - found.win.win) < 5 * math.sqrt(won * (1 - won) / 40_000) + 1e-4


@given(
    n=st.integers(1, 64),
    keeps=st.sampled_from([best_of_n, worst_of_n]),
    transform=st.sampled_from(FIXED),
    kl=st.floats(0.05, 5.0),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_no_recipe_beats_the_ceiling(n: int, keeps: type, transform: str, kl: float) -> None:
    selection = keeps(n)
    found, best = find(selection, transform, kl=kl), find(selection, "optimal", kl=kl)
    assert found.win.win <= best.win.win + 1e-9
    assert found.win.win > 0.5
    assert found.plain.win <= find(sample(), "identity", kl=kl).win.win + 1e-9  # the optimum of one draw


@pytest.mark.parametrize("transform", ["exp:10", "log", "optimal"])
@pytest.mark.parametrize("procedure", ["best-of-n:4", "worst-of-n:8"])
def test_kl_beta_and_win_rate_are_inverses(transform: str, procedure: str) -> None:
    selection = parse_selection(procedure)
    by_kl = find(selection, transform, kl=0.3)
    by_beta = find(selection, transform, beta=by_kl.beta)
    by_target = find(selection, transform, target=by_kl.win.win)
    assert by_beta.kl == pytest.approx(0.3, rel=1e-6)
    assert by_target.kl == pytest.approx(0.3, rel=1e-6)
    assert by_target.beta == pytest.approx(by_kl.beta, rel=1e-6)


def test_the_plan_of_the_readme() -> None:
    made = plan(best_of_n(4), "exp:10", kl=0.5)
    said = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert said["win_rate"] == pytest.approx(0.8715128, abs=1e-7)
    assert said["win_rate_plain"] == pytest.approx(0.7117, abs=1e-4)
    assert said["ceiling"] == pytest.approx(0.8732505, abs=1e-7)
    assert said["gap"] == pytest.approx(said["ceiling"] - said["win_rate"], abs=1e-12)
    assert said["gain"] == pytest.approx(said["win_rate"] - 0.7998269, abs=1e-7)
    assert 140 <= said["anchors"] <= 200
    assert said["with_anchors"]["loss"] <= 0.005


def test_a_target_above_the_ceiling_is_refused_and_one_below_is_not() -> None:
    with pytest.raises(InputError, match=r"no recipe can reach this: at KL 0.5 under best-of-n:4.*0.873250"):
        plan(best_of_n(4), "exp:10", kl=0.5, target=0.9)
    assert plan(best_of_n(4), "exp:10", kl=0.5, target=0.873).recipe.kl == pytest.approx(0.5)
    with pytest.raises(InputError, match="no recipe can reach this: at KL 20"):
        plan(best_of_n(2), "optimal", target=1 - 1e-11)
    with pytest.raises(InputError, match="no KL up to 20 reaches a win rate"):
        plan(sample(), "exp:10", target=1 - 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kl": -1.0}, "KL -1 cannot be planned for"),
        ({"kl": math.nan}, "KL nan cannot be planned for"),
        ({"kl": 0.0}, "give nats from"),
        ({"kl": 21.0}, "to below 20"),
        ({"kl": 20.0}, "to below 20"),
        ({"beta": 1e9}, "beta 1e.09 leaves the base model as it is.*give a smaller `--beta`"),
        ({"beta": 1e-12}, "beta 1e-12 with exp:10 .* plans stop below 20: give a larger `--beta`"),
        ({"target": 0.50001}, "too small to plan for: .*give `--win-rate 0.5008` or more"),
        ({"beta": 0.0}, "beta 0 cannot be used"),
        ({"target": 1.2}, "win rate 1.2 cannot be aimed at: give a fraction"),
        ({"target": 0.4}, "above 0.5"),
        ({}, "one of KL, beta and win rate"),
        ({"kl": 0.5, "beta": 0.1}, "one of KL, beta and win rate"),
        ({"beta": 0.5, "target": 0.7}, "`--win-rate` alone"),
        ({"kl": 0.5, "max_loss": 0.0}, "--max-loss 0.005"),
        ({"kl": 3.0, "anchors": 4}, "give at least 11 anchors"),
    ],
)
def test_what_cannot_be_planned_is_told(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(best_of_n(4), "exp:10", **arguments)  # type: ignore[arg-type]


def test_a_win_rate_at_either_end_is_refused_in_its_own_terms() -> None:
    with pytest.raises(InputError, match="too small to plan for: KL 1e-06 with optimal"):
        plan(best_of_n(4), "optimal", target=0.5000001)
    with pytest.raises(InputError, match=r"below 0.999999999999999: give `--win-rate 0.999999` or less$"):
        plan(best_of_n(4), "optimal", target=0.999999999999999)
    for target in (0.5008, 0.503, 1 - 1e-8):
        assert find(best_of_n(4), "optimal", target=target).win.lose == pytest.approx(1 - target, rel=1e-6)
    with pytest.raises(InputError, match="leaves the base model as it is"):
        plan(best_of_n(4), "optimal", beta=1e9)


def test_a_search_that_does_not_settle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = find(best_of_n(4), "optimal", kl=0.5)
    monkeypatch.setattr(planner, "_best", lambda selection, kl: stuck)
    with pytest.raises(Unconverged, match=r"no KL was found at which the optimum for best-of-n:4 wins 0.8"):
        planner._best_reaching(best_of_n(4), 0.8)


def test_more_anchors_than_are_simulated_are_marked_and_rounded() -> None:
    said = plan(best_of_n(32), "optimal", kl=0.5).as_json()
    assert said["anchors_extrapolated"] is True
    assert said["anchors"] in range(12_000, 18_000, 1000)
    assert said["with_anchors"] is None
    assert plan(best_of_n(2), "identity", kl=0.5).as_json()["anchors_extrapolated"] is False


def test_unknown_transforms_have_a_did_you_mean() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'identity'"):
        plan(best_of_n(4), "identty", kl=0.5)
