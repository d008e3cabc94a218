"""Draws from another law than the policy's: their weights, and that these give the policy's own gradient."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import RLOOConfig

from inferalign.core.errors import InputError, RunError
from inferalign.core.types import Message, Prompt
from inferalign.ctrl.checks import gradient_agreement
from inferalign.ctrl.rloo import rloo_arguments
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.tabular import END
from inferalign.ctrl.trainer import KL_METRIC, CtrlTrainer
from inferalign.ctrl.vllm_draws import (
    EFFECTIVE_METRIC,
    LARGEST_WEIGHT,
    VllmDraws,
    check_effective,
    effective,
    truncated_weights,
    vllm_arguments,
)
from tests.models import build_llama

COLDER = 0.85
"""The temperature that the stand-in for vLLM draws at."""
SAMPLES = 16384
LOGGED: list[float] = []
"""The KL of each step that `Elsewhere` took."""


class Colder:
    """What TRL's vLLM is to a trainer of a table policy: draws, and the log-probabilities that they had."""

    logprobs: int | None = None
    max_completion_length = 2

    def __init__(self, trainer: CtrlTrainer) -> None:
        self._trainer, self.synced = trainer, 0

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(self, prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:
        assert self.synced
        assert self.logprobs == 0
        laws = (self._trainer.model.table.detach() / COLDER).log_softmax(dim=-1)
        first = laws[END].exp().multinomial(len(prompts), replacement=True)
        second = laws[first].exp().multinomial(1)[:, 0]
        drawn = [[a] if a == END else [a, b] for a, b in zip(first.tolist(), second.tolist(), strict=True)]
        held = [[[float(laws[c, t])] for c, t in zip([END, *ids], ids, strict=False)] for ids in drawn]
        return prompts, drawn, held, None


class Elsewhere(CtrlTrainer):
    """A trainer whose responses come from `Colder`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.use_vllm, self._last_loaded_step = True, -1
        self.vllm_generation = VllmDraws(Colder(self))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        LOGGED.append(self._metrics["train"][KL_METRIC][-1])
        return output


class Unweighed(Elsewhere):
    def _weights(self, log_pi: Tensor) -> Tensor:
        super()._weights(log_pi)
        return torch.ones_like(log_pi)


def test_weights_give_the_gradient_of_the_policy_that_did_not_draw() -> None:
    """Exact gradients by enumeration; without the weights it is another law's."""
    weighed = gradient_agreement(samples=SAMPLES, trainer=Elsewhere)
    assert weighed.cosine > 0.9995
    assert weighed.ratio == pytest.approx(1, abs=0.03)
    assert LOGGED[-1] == pytest.approx(weighed.kl, rel=0.03)
    bare = gradient_agreement(samples=SAMPLES, trainer=Unweighed)
    assert abs(bare.ratio - 1) > 0.1
    assert LOGGED[-1] != pytest.approx(bare.kl, rel=0.08)


def test_weights_by_hand() -> None:
    ratios = torch.tensor([0.0, math.log(0.5), math.log(1.9), math.log(2.1), 50.0])
    assert truncated_weights(ratios).tolist() == pytest.approx([1, 0.5, 1.9, LARGEST_WEIGHT, LARGEST_WEIGHT])


def test_the_share_of_draws_that_is_left() -> None:
    """Weights 1 and 3 count for (1 + 3)^2 / (2 (1 + 9)) = .8; normal log-ratios with sd s for e^(-s^2)."""
    assert effective(torch.tensor([0.0, math.log(3.0)])) == pytest.approx(0.8)
    assert effective(torch.full((7,), -800.0)) == pytest.approx(1)
    assert effective(torch.tensor([0.0, 900.0, -900.0])) == pytest.approx(1 / 3)
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert effective(0.5 * normal) == pytest.approx(math.exp(-0.25), rel=0.01)


def test_a_law_too_far_away_stops_the_training() -> None:
    check_effective(0.51, torch.tensor([0.2, -0.2]))
    with pytest.raises(RunError, match=r"0\.90 nats a response from the policy, and count for 49%"):
        check_effective(0.49, torch.tensor([0.8, -1.0]))


def test_what_vllm_did_not_say_is_an_error() -> None:
    def silent(held: Any) -> VllmDraws:
        return VllmDraws(SimpleNamespace(generate=lambda **_: ([[1]], [[2]], held, None)))

    for held in (None, []):
        with pytest.raises(RunError, match="gave no log-probabilities"):
            silent(held).generate()
    with pytest.raises(RunError, match="overflowed"):
        silent([[[-1.0], [None]]]).generate()
    draws = silent([[[-1.0], [-0.5]]])
    draws.generate()
    assert draws.log_q == [-1.5]


def test_arguments_for_trl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def asked(**keys: Any) -> dict[str, Any]:
        return vllm_arguments(CtrlSettings(max_new_tokens=16, **keys), longest_prompt=40, end_ids={7, 3})

    assert asked() == {}
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"'vllm' is not installed. Type: pip install 'inferalign\[vllm\]'"):
        asked(vllm="colocate")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=None))
    here, there = asked(vllm="colocate", vllm_memory=0.4), asked(vllm="http://127.0.0.1:8000")
    settings = CtrlSettings(max_new_tokens=16)
    for given in (here, there):
        config = RLOOConfig(**rloo_arguments(settings, tmp_path, steps=1, beta=0.1) | given)
        assert config.use_vllm
        assert config.generation_kwargs == {"stop_token_ids": [3, 7]}
        assert (config.temperature, config.top_p, config.top_k, config.min_p) == (1.0, 1.0, 0, None)
    assert (here["vllm_mode"], here["vllm_max_model_length"], here["vllm_gpu_memory_utilization"]) == (
        "colocate",
        56,
        0.4,
    )
    assert (there["vllm_mode"], there["vllm_server_base_url"]) == ("server", "http://127.0.0.1:8000")


def test_settings_that_name_no_server_are_refused() -> None:
    with pytest.raises(InputError, match="vllm is localhost:8000: expected colocate, or the address"):
        CtrlSettings(vllm="localhost:8000")
    with pytest.raises(InputError, match="vllm_memory is 1"):
        CtrlSettings(vllm="colocate", vllm_memory=1)


@pytest.mark.gpu
def test_a_training_with_a_colocated_vllm(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = build_llama(tmp_path / "llama", hidden=256)
    settings = CtrlSettings(
        beta=0.1, steps=3, batch_size=64, generations=8, warmup=0, learning_rate=1e-3, max_new_tokens=8, vllm="colocate"
    )
    prompts = [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How {i}?"),)) for i in range(8)]
    train_ctrl(settings, model, prompts, lambda completion_ids, **_: [len(i) / 8 for i in completion_ids], tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert all(line[EFFECTIVE_METRIC] > 0.9 for line in lines)
