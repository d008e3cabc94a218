"""TRL's gradient against the exact one: it agrees, and every setting that spoils it is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inferalign.core.errors import InputError, RunError
from inferalign.ctrl.checks import BETA, GENERATIONS, Agreement, Case, gradient_agreement
from inferalign.ctrl.tabular import END, log_probabilities, responses
from inferalign.ctrl.trainer import CtrlTrainer

FEW = 16384
"""Draws of the check that must hold: the ratio's standard error is 0.007."""
FEWER = 8192
"""Of those that must fail, by far."""


class K3InReward(CtrlTrainer):
    """log(pi/p) replaced by k3 = p/pi - 1 - log(p/pi) in the reward, as was proposed upstream."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if len(self._seen) < 2 or found[0].requires_grad:
            return found
        policy, reference = self._seen
        log_ratio = reference - policy
        return (policy - (log_ratio.exp() - 1 - log_ratio), *found[1:])


def standardised(rewards: list[float]) -> list[float]:
    """What GRPO does to the rewards of a prompt."""
    groups = torch.tensor(rewards).view(-1, GENERATIONS)
    scaled = (groups - groups.mean(dim=1, keepdim=True)) / (groups.std(dim=1, keepdim=True) + 1e-4)
    return [float(x) for x in scaled.flatten()]


def test_the_installed_trl_computes_the_exact_gradient() -> None:
    found = gradient_agreement(samples=FEW)
    found.require()
    assert found.cosine > 0.9998
    assert found.kl > 0.5


def test_without_a_kl_there_is_no_training() -> None:
    with pytest.raises(InputError, match="beta is 0"):
        gradient_agreement(samples=FEWER, changes={"beta": 0.0})


@pytest.mark.slow
def test_it_holds_at_the_full_number_of_samples_and_another_seed() -> None:
    found = gradient_agreement(seed=1)
    assert found.holds
    assert abs(found.ratio - 1) < 0.012


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param({"changes": {"generation_kwargs": {"suppress_tokens": [END]}}}, id="suppress_tokens"),
        pytest.param({"changes": {"mask_truncated_completions": True}}, id="mask_truncated_completions"),
        pytest.param({"changes": {"top_k": 4}}, id="top_k"),
        pytest.param({"changes": {"temperature": 0.7}}, id="temperature"),
        pytest.param({"changes": {"normalize_advantages": True}}, id="normalize_advantages"),
        pytest.param({"changes": {"reward_clip_range": (0.0, 0.3)}}, id="reward_clip_range"),
        pytest.param({"trainer": K3InReward}, id="k3 in the reward"),
        pytest.param({"rewarded": standardised}, id="group-normalised rewards"),
    ],
)
def test_what_breaks_the_gradient_is_seen(spoilt: dict[str, Any]) -> None:
    found = gradient_agreement(samples=FEWER, **spoilt)
    assert not found.holds
    assert found.cosine < 0.99 or abs(found.ratio - 1) > 0.1
    with pytest.raises(RunError, match="another gradient"):
        found.require()


def test_the_exact_gradient_is_that_of_finite_differences() -> None:
    case = Case.of()

    def objective(table: torch.Tensor) -> float:
        logs = log_probabilities(table)
        ratios = logs - log_probabilities(case.reference)
        return float(logs.exp() @ case.rewards - BETA * (logs.exp() @ ratios))

    exact, _ = case.exact()
    step = 1e-5
    for row, column in ((END, 1), (3, END), (5, 5)):
        up, down = case.policy.clone(), case.policy.clone()
        up[row, column] += step
        down[row, column] -= step
        assert float(exact[row, column]) == pytest.approx((objective(up) - objective(down)) / 2 / step, rel=1e-5)


def test_calibrated_rewards_of_the_case_have_the_references_mean() -> None:
    """The mean of exact mid-ranks is 1/2 under the reference; Phi of them increases with the score."""
    case = Case.of()
    mass = log_probabilities(case.reference).exp()
    ranks = case.rewards.log() / 5 + 1
    assert float(mass @ ranks) == pytest.approx(0.5)
    assert len(responses()) == len(case.rewards) == 57


@pytest.mark.parametrize(
    ("cosine", "ratio", "holds"), [(0.9995, 1.019, True), (0.9985, 1.0, False), (1.0, 0.97, False)]
)
def test_the_verdict_by_hand(cosine: float, ratio: float, holds: bool) -> None:
    assert Agreement(cosine=cosine, ratio=ratio, kl=0.5, samples=1).holds is holds
