"""Targets of offline regression: by hand, as a property, and where the Z of a continuous reward goes wrong."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.beta import beta_for, reward_kind
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_kinds import Kind, Raw, Standardised
from inferalign.ctrl.rollout_records import read_rollouts
from inferalign.ctrl.scored import JUDGE, RESPONSE, Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.stored import StoredRollouts
from inferalign.theory.finite import calibrated_values
from inferalign.theory.grid import default_grid
from inferalign.theory.policies import beta_for_kl, policy
from inferalign.theory.transforms import Exponential, Identity, Log
from tests.ctrl.test_rollouts import K, made, prompts

KINDS: tuple[Kind, ...] = (Identity(), Log(), Exponential(10.0), Exponential(-10.0), Raw(), Standardised())


def stored(scores: np.ndarray, kind: Kind, blame: np.ndarray | None = None) -> StoredRollouts:
    """Rollouts of no tokens: what targets need."""
    blame = np.zeros(scores.shape, dtype=np.uint8) if blame is None else blame
    anchors = HeldAnchors(tuple(f"p{i}" for i in range(len(scores))), Scored(np.where(blame == 0, scores, 0.0), blame))
    reward = CalibratedReward(anchors, kind)
    return StoredRollouts(
        prompt_ids=anchors.prompt_ids,
        token_ids=np.empty(0, dtype=np.int32),
        starts=np.zeros(scores.size + 1, dtype=np.int64),
        ended=np.ones(scores.shape, dtype=np.bool_),
        rewards=reward.rewards(anchors.prompt_ids, anchors.scores),
        fresh=reward.as_fresh(anchors.prompt_ids, anchors.scores),
    )


def test_targets_by_hand() -> None:
    """Scores 1, 2, 2, 5 rank at 1/8, 1/2, 1/2, 7/8, and among the others at 0, 1/2, 1/2, 1; at beta 1/2."""
    z = (1 + 2 * math.exp(1.0) + math.exp(2.0)) / 4
    expected = [x - 0.5 * math.log(z) for x in (0.125, 0.5, 0.5, 0.875)]
    assert stored(np.array([[1.0, 2.0, 2.0, 5.0]]), Identity()).targets(0.5)[0] == pytest.approx(expected)


def test_raw_targets_are_in_the_scorers_units() -> None:
    """Ten times the scores at ten times beta are the same log ratios."""
    scores = np.array([[0.0, 1.0, 3.0, 7.0]])
    one, ten = stored(scores, Raw()).targets(2.0) / 2.0, stored(10 * scores, Raw()).targets(20.0) / 20.0
    assert one == pytest.approx(ten)
    z = sum(math.exp(r / 2.0) for r in scores[0]) / 4
    assert one[0, 3] == pytest.approx(7 / 2.0 - math.log(z))


@given(
    st.lists(st.integers(0, 6), min_size=4, max_size=40).filter(lambda row: len(set(row)) > 1),
    st.sampled_from(KINDS),
    st.floats(0.05, 5.0),
)
def test_target_ratios_have_the_mean_one_over_fresh_draws_and_the_order_of_the_scores(
    row: list[int], kind: Kind, beta: float
) -> None:
    scores = np.array([row], dtype=np.float64)
    held = stored(scores, kind)
    found = held.targets(beta)[0]
    log_z = (held.rewards[0] - found) / beta
    assert np.ptp(log_z) < 1e-9 * max(1.0, abs(log_z[0]))
    assert np.exp(held.fresh[0] / beta - log_z[0]).mean() == pytest.approx(1)
    order = np.argsort(row, kind="stable")
    assert np.all(np.diff(found[order]) >= 0)
    assert np.all((np.diff(found[order]) > 0) == (np.diff(scores[0][order]) > 0)) or beta < 0.2
    if kind not in (Raw(), Standardised()):
        assert stored(np.exp(scores) - 7, kind).targets(beta)[0] == pytest.approx(found)


def test_what_the_judge_failed_on_is_left_out_and_what_cannot_be_judged_is_lowest() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 0.0, 0.0]])
    blame = np.array([[0, 0, 0, RESPONSE, JUDGE]], dtype=np.uint8)
    found = stored(scores, Identity(), blame).targets(0.3)[0]
    assert np.isnan(found[4])
    assert found[:4] == pytest.approx(stored(np.array([[3.0, 1.0, 2.0, -9.0]]), Identity()).targets(0.3)[0])


def test_many_levels_have_the_z_of_a_continuous_reward_and_few_have_not() -> None:
    """Z of exp:10 at KL 0.5: within 0.2 % at 4,000 levels; 3 levels of a third each are a long way off.

    The continuous Z is also the limit of its mean over draws of K anchors, the mean of e^(Phi(j/K)/beta), j = 0..K.
    """
    transform, grid = Exponential(10.0), default_grid()
    beta = beta_for_kl(transform, 0.5, grid)
    continuous = policy(transform, beta, grid)
    # f(1) = e^(Phi(1) / beta) / Z
    ratio = float(continuous.f[-1])
    many = stored(np.arange(4000.0)[None], transform).targets(beta)[0, -1] / beta
    assert math.exp(many) == pytest.approx(ratio, rel=0.01)
    values = np.exp(calibrated_values(transform, 3999) / beta)
    own = np.exp((transform.normalised(np.array(3999.5 / 4000)) - transform.normalised(np.array(1.0))) / beta)
    assert own / values.mean() == pytest.approx(math.exp(many))
    levels = stored(np.repeat([0.0, 1.0, 2.0], 20)[None], transform).targets(beta)[0] / beta
    middle = [transform.normalised(np.array(x)) / beta for x in (1 / 6, 1 / 2, 5 / 6)]
    with_continuous = np.exp(np.array(middle) - transform.normalised(np.array(1.0)) / beta) * ratio
    assert np.exp(levels).mean() == pytest.approx(1, abs=0.03)
    assert with_continuous.mean() < 0.8


@pytest.mark.parametrize(
    ("transform", "k", "levels"),
    [
        ("exp:10", 16, 0),
        ("exp:10", 100, 0),
        ("log", 16, 0),
        ("exp:-10", 100, 0),
        ("exp:10", 60, 4),
        ("identity", 16, 3),
    ],
)
def test_z_is_that_of_fresh_draws(transform: str, k: int, levels: int) -> None:
    """By simulation, 600 prompts of 2,000 fresh draws each; continuous scores, or so many levels of one share."""
    stream = np.random.default_rng(3)

    def drawn(count: int) -> np.ndarray:
        found = stream.normal(size=(600, count))
        return found if not levels else stream.integers(0, levels, size=(600, count)).astype(np.float64)

    scores, fresh = drawn(k), drawn(2000)
    held = HeldAnchors(tuple(f"p{i}" for i in range(600)), Scored(scores, np.zeros(scores.shape, dtype=np.uint8)))
    settings = CtrlSettings(transform=transform, kl=0.5)
    beta, reward = beta_for(settings, held), CalibratedReward(held, reward_kind(settings))
    seen = Scored(fresh, np.zeros(fresh.shape, dtype=np.uint8))
    z = np.exp(reward.rewards(held.prompt_ids, seen) / beta).mean(axis=1)
    told = np.exp(reward.as_fresh(held.prompt_ids, held.scores) / beta).mean()
    own = np.exp(reward.rewards(held.prompt_ids, held.scores) / beta).mean()
    assert z.mean() / told == pytest.approx(1.0, abs=0.04)
    assert z.mean() / own > 1.02 or transform != "exp:10", "their own rewards are too small a Z"


def test_a_prompts_rollouts_are_taken_evenly_and_by_seed() -> None:
    blame = np.zeros((1, 8), dtype=np.uint8)
    blame[0, 2] = JUDGE
    found = stored(np.arange(8.0)[None], Identity(), blame)
    taken = found.chosen(0, 16, seed=3)
    assert sorted(taken[:7].tolist()) == [0, 1, 3, 4, 5, 6, 7]
    assert max(Counter(taken.tolist()).values()) == 3
    assert taken.tolist() == found.chosen(0, 16, seed=3).tolist()
    assert taken.tolist() != found.chosen(0, 16, seed=4).tolist()


def test_rollouts_come_from_the_run_folder_of_the_anchors(tmp_path: Path) -> None:
    asked = prompts(3)
    anchors = made(tmp_path, asked).anchors
    assert anchors
    reward = CalibratedReward(anchors, Identity())
    found = StoredRollouts.read(tmp_path, anchors, reward)
    for record in read_rollouts(tmp_path):
        row = anchors.prompt_ids.index(record.prompt_id)
        assert [found.response(row, draw) for draw in range(K)] == list(record.token_ids)
        assert found.ended[row].tolist() == [stop == "end" for stop in record.stops]
    assert found.digest != replace(found, ended=~found.ended).digest


def test_rollouts_of_other_anchors_or_none_are_refused(tmp_path: Path) -> None:
    anchors, others = made(tmp_path / "a", prompts(3)).anchors, made(tmp_path / "b", prompts(4)).anchors
    assert anchors
    assert others
    reward = CalibratedReward(anchors, Identity())
    with pytest.raises(InputError, match="not those of its anchors"):
        StoredRollouts.read(tmp_path / "b", anchors, reward)
    with pytest.raises(InputError, match="no rollouts of 1 prompts, 'p3' for one"):
        StoredRollouts.read(tmp_path / "a", others, CalibratedReward(others, Identity()))
    shifted = replace(anchors, scores=Scored(anchors.scores.values + anchors.scores.scored, anchors.scores.blame))
    assert isinstance(shifted, AnchorSet)
    with pytest.raises(InputError, match="not those of its anchors"):
        StoredRollouts.read(tmp_path / "a", shifted, reward)
