"""Beta for a KL target, and the controller that holds it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from inferalign.core.errors import InputError
from inferalign.ctrl.beta import KlController, _shifts, _unbiased, beta_for, beta_of_tilt, reward_kind
from inferalign.ctrl.reward import HeldAnchors
from inferalign.ctrl.scored import JUDGE, RESPONSE, Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.theory.finite import anchored
from inferalign.theory.optimal import solve
from inferalign.theory.procedures import best_of_n
from inferalign.theory.transforms import Exponential, Tabulated


def anchors(k: int = 256, prompts: int = 40, scales: float = 0.0) -> HeldAnchors:
    draw = np.random.default_rng(1)
    values = draw.normal(size=(prompts, k)) * np.exp(scales * draw.normal(size=(prompts, 1)))
    return HeldAnchors(tuple(f"p{i}" for i in range(prompts)), Scored.all_scored(values))


def test_a_beta_that_is_given_is_taken() -> None:
    assert beta_for(CtrlSettings(beta=0.3), None) == 0.3
    assert beta_for(CtrlSettings(beta=0.3), anchors()) == 0.3


def test_untied_scores_give_the_beta_of_the_theory_of_k_anchors() -> None:
    found = beta_for(CtrlSettings(kl=0.5, transform="exp:10"), anchors())
    assert found == pytest.approx(anchored(best_of_n(4), Exponential(10.0), 256, 0.5).beta, rel=0.02)


def test_the_optimal_transform_is_frozen_at_a_beta_that_is_given() -> None:
    found = reward_kind(CtrlSettings(transform="optimal", procedure="best-of-n:4", beta=0.02))
    at_kl = reward_kind(CtrlSettings(transform="optimal", procedure="best-of-n:4", kl=0.5))
    assert isinstance(found, Tabulated)
    assert isinstance(at_kl, Tabulated)
    assert np.allclose(found.values, solve(best_of_n(4), beta=0.02).transform.values)
    assert not np.allclose(found.values, at_kl.values, atol=0.05)


def test_the_optimal_transform_is_that_of_procedure_and_kl() -> None:
    at = [
        beta_for(CtrlSettings(kl=0.5, transform="optimal", procedure=p), anchors()) for p in ("best-of-n:4", "sample")
    ]
    assert at[0] == pytest.approx(0.2166, rel=0.1)  # the ideal ones
    assert at[1] == pytest.approx(0.2428, rel=0.05)


def test_unscored_anchors_stand_at_the_bottom_or_are_left_out() -> None:
    whole = anchors(k=64, prompts=8)
    blame = np.zeros((8, 64), dtype=np.uint8)
    blame[:, :6] = RESPONSE
    blame[:, 6:8] = JUDGE
    values = np.where(blame == 0, whole.scores.values, 0.0)
    settings = CtrlSettings(kl=0.3, transform="identity")
    found = beta_for(settings, HeldAnchors(whole.prompt_ids, Scored(values, blame)))
    low = np.where(blame == RESPONSE, -1e9, whole.scores.values)[:, [i for i in range(64) if i not in (6, 7)]]
    assert found == pytest.approx(beta_for(settings, HeldAnchors(whole.prompt_ids, Scored.all_scored(low))))


def test_raw_rewards_by_hand() -> None:
    """Two answers with rewards 0 and 1: p = 1 / (1 + e^(-1/beta)), KL = log 2 - H(p), and twice that without bias.

    One reward alone has no KL, so that the jackknife is 2 KL - (2 - 1) 0.
    """
    p = 0.8
    kl = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert beta_of_tilt([np.array([0.0, 1.0])], 2 * kl) == pytest.approx(1 / math.log(p / (1 - p)))


def tilted_kl(rewards: np.ndarray, beta: float) -> float:
    w = np.exp((rewards - rewards.max()) / beta)
    return float(np.mean(w / w.mean() * np.log(np.maximum(w / w.mean(), 1e-300))))


@pytest.mark.parametrize("scaled", [False, True])
def test_the_bias_is_removed_as_by_leaving_out_one_by_one(scaled: bool) -> None:
    """The reference takes them out one at a time and divides by the rest's own deviation."""
    row = np.random.default_rng(3).normal(size=40)
    row = (row - row.mean()) / row.std()
    beta = beta_of_tilt([row], 0.4, scaled=scaled)
    found = tilted_kl(row, beta)
    for i in range(40):
        rest = np.delete(row, i)
        by = rest.std() if scaled else 1.0
        found += 39 / 40 * (tilted_kl(row / by, beta) - tilted_kl(rest / by, beta))
    assert found == pytest.approx(0.4, rel=0.03 if scaled else 1e-6)


LAWS = {
    "normal": norm.ppf((np.arange(4000) + 0.5) / 4000),
    "skewed": -np.exp(norm.ppf((np.arange(4000) + 0.5) / 4000)),
    "levels": np.repeat([0.0, 1.0, 2.0, 3.0], [1600, 1200, 800, 400]),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scaled", [False, True])
def test_few_anchors_give_the_kl_that_was_asked_for(law: str, scaled: bool) -> None:
    """KL of the law itself, by simulation; 0.62 with normal rewards if the KL of the 16 to themselves is taken."""
    whole, draw = LAWS[law] / LAWS[law].std(), np.random.default_rng(0)
    rows = [row for row in draw.choice(whole, size=(400, 16)) if row.std() > 0]
    scales = [row.std() if scaled else 1.0 for row in rows]
    beta = beta_of_tilt([row / by for row, by in zip(rows, scales, strict=True)], 0.5, scaled=scaled)
    assert np.mean([tilted_kl(whole / by, beta) for by in scales]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("seed", range(12))
def test_heavy_tails_do_not_keep_the_search_from_its_end(seed: int) -> None:
    """Their estimate falls faster than the variance says; a search that trusted it ended at 1.14 with the first."""
    draws = np.random.default_rng(seed).exponential(size=(20, 16))
    rows = [(row - row.mean()) / row.std() for row in draws]
    beta = beta_of_tilt(rows, 0.5, scaled=True)
    assert np.mean([_unbiased(row / beta, _shifts(row))[0] for row in rows]) == pytest.approx(0.5, rel=1e-6)


def test_a_kl_that_the_estimate_never_comes_to_is_refused() -> None:
    """Two tie at the top of four, and the KL goes to log 2 as beta does to 0: without a top one to log 3, else to
    log 3/2. So the estimate goes to log 2 + 3 (log 2 - (log 3 + log 3/2) / 2) = 0.516.
    """
    row = np.array([0.0, 0.0, 1.0, 1.0])
    assert beta_of_tilt([row], 0.51) > 0
    with pytest.raises(InputError, match=r"below 0\.516, and 0\.6 is asked"):
        beta_of_tilt([row], 0.6)


def test_anchors_that_differ_in_one_alone_still_give_a_beta() -> None:
    """Without that one there is no deviation to divide by."""
    rows = [np.array([1.0, -1 / 3, -1 / 3, -1 / 3]) * 3**0.5, np.array([-1.0, -1.0, 1.0, 1.0]), np.zeros(4)]
    assert 0 < beta_of_tilt(rows, 0.2, scaled=True) < math.inf


def test_raw_rewards_of_a_normal_law() -> None:
    """e^(r/beta) of a standard normal r has KL 1 / (2 beta^2); standardised rewards do not care about scales."""
    wide = anchors(k=4000, prompts=10)
    assert beta_for(CtrlSettings(kl=0.5, transform="raw"), wide) == pytest.approx(1.0, rel=0.03)
    scaled = anchors(k=4000, prompts=10, scales=1.0)
    assert beta_for(CtrlSettings(kl=0.5, transform="standardised"), scaled) == pytest.approx(1.0, rel=0.03)


def test_a_kl_above_what_anchors_allow_is_refused() -> None:
    with pytest.raises(InputError, match="allow a mean KL below"):
        beta_for(CtrlSettings(kl=5.0), anchors(k=16))
    with pytest.raises(InputError, match=r"below 0\.693"):
        beta_of_tilt([np.array([0.0, 1.0])], 0.7)
    with pytest.raises(InputError, match="neither a beta nor anchors"):
        beta_for(CtrlSettings(), None)


def test_the_controller_by_hand() -> None:
    control = KlController(target=0.5, gain=0.1, start=0.2, warmup=3)
    assert control(3, 0.2, 0.5) == pytest.approx(0.2)
    assert control(3, 0.2, 0.55) == pytest.approx(0.2 * math.exp(0.01))
    assert control(9, 0.2, 5.0) == pytest.approx(0.2 * math.exp(0.02))
    assert control(9, 0.2, 0.0) == pytest.approx(0.2 * math.exp(-0.02))


def test_the_controller_does_not_wind_up_while_the_rate_rises() -> None:
    """KL is 0 through 20 steps of warm-up, and beta is where theory put it when they end."""
    control, beta = KlController(target=0.5, gain=0.1, start=0.2, warmup=20), 0.2
    for step in range(20):
        beta = control(step, beta, 0.0)
    assert beta == 0.2
    assert control(20, beta, 0.0) < 0.2


@given(st.lists(st.floats(-1, 50), max_size=300))
def test_beta_stays_near_where_it_began(kls: list[float]) -> None:
    control, beta = KlController(target=0.5, gain=1.0, start=0.2, warmup=0), 0.2
    for kl in kls:
        beta = control(0, beta, kl)
        assert 0.05 <= beta <= 0.8


def test_it_holds_the_kl_of_a_system_that_answers() -> None:
    """KL = c / beta^2 as of a weak tilt, whose c theory put a factor 2 too low."""
    control, beta = KlController(target=0.5, gain=0.5, start=0.2, warmup=0), 0.2
    for _ in range(100):
        beta = control(0, beta, 2 * 0.5 * 0.2**2 / beta**2)
    assert 2 * 0.5 * 0.2**2 / beta**2 == pytest.approx(0.5, rel=1e-3)
