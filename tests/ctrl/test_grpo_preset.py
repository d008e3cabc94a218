"""One step of the installed TRL's GRPO under `grpo_settings`, against the gradient of what its docstring promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from inferalign.ctrl.checks import BETA, Case
from inferalign.ctrl.columns import grpo_settings
from inferalign.ctrl.rloo import quiet_trl
from inferalign.ctrl.tabular import END, LENGTH, TablePolicy, log_probabilities, write_table
from inferalign.engines.weights import quiet

GROUP, SAMPLES = 16, 16384


def promised(case: Case) -> torch.Tensor:
    """Of E[R] - beta times the KL of each next token, given what precedes it: [V, V].

    The response's own reward in the group's mean takes 1/G off, and the loss is divided by the longest length.
    """
    table = case.policy.clone().requires_grad_()
    laws, others = table.log_softmax(dim=-1), case.reference.log_softmax(dim=-1)
    by_token = (laws.exp() * (laws - others)).sum(dim=-1)
    begun = laws[END].exp().detach().clone()
    begun[END] = 0.0  # what has ended has no second token
    reward = log_probabilities(table).exp() @ case.rewards
    (reward - BETA * (by_token[END] + begun @ by_token)).backward()
    assert table.grad is not None
    return table.grad * (GROUP - 1) / GROUP / LENGTH


def measured(case: Case, folder: Path, changes: dict[str, Any]) -> torch.Tensor:
    """What one step of plain gradient descent at learning rate 1 does to the table."""
    place, reward_of = write_table(folder, case.reference.float()), case.reward_of()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward_of[tuple(ids)] for ids in completion_ids]

    plain = {"bf16": False, "activation_checkpointing": False, "max_grad_norm": 0.0, "disable_tqdm": True}
    quiet = {"report_to": [], "logging_strategy": "no", "save_strategy": "no", "use_cpu": True, "seed": 3}
    size = {"per_device_train_batch_size": SAMPLES, "max_completion_length": LENGTH, "max_steps": 1}
    settings = grpo_settings(BETA, num_generations=GROUP) | changes
    made = GRPOTrainer(
        model=TablePolicy.from_pretrained(place),
        reward_funcs=reward,
        args=GRPOConfig(str(folder / "trl"), **plain, **quiet, **size, **settings),
        train_dataset=Dataset.from_list([{"prompt": str(END)}] * (SAMPLES // GROUP)),
        processing_class=AutoTokenizer.from_pretrained(place),
    )
    with torch.no_grad():
        made.model.table.copy_(case.policy)  # the reference is read from the folder
    before = made.model.table.detach().clone()
    made.optimizer = torch.optim.SGD(made.model.parameters(), lr=1.0)
    made.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(made.optimizer, factor=1.0)
    made.train()
    change: torch.Tensor = (made.model.table.detach() - before).double()
    return change


@pytest.mark.parametrize(
    ("changes", "agrees"),
    [
        pytest.param({}, True, id="preset"),
        pytest.param({"scale_rewards": "group"}, False, id="rewards scaled by their group"),
        pytest.param({"use_bias_correction_kl": False}, False, id="KL without its correction"),
    ],
)
def test_grpo_follows_the_gradient_that_is_promised_under_the_preset_alone(
    tmp_path: Path, changes: dict[str, Any], agrees: bool
) -> None:
    """At 16,384 draws the ratio's standard error is about .007."""
    case = Case.of()
    with quiet(), quiet_trl():
        expected, found = promised(case), measured(case, tmp_path, changes)
    cosine = float((found * expected).sum() / (found.norm() * expected.norm()))
    ratio = float(found.norm() / expected.norm())
    assert (cosine > 0.9995 and abs(ratio - 1) < 0.025) is agrees, (cosine, ratio)
