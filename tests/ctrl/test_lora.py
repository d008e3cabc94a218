"""A LoRA training: its reference, its gradient, its resume, and what it leaves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from inferalign.core.errors import InputError, ModelError
from inferalign.core.types import Message, Prompt
from inferalign.ctrl.rloo import quiet_trl
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.weights import check_folder

LORA = CtrlSettings(
    beta=0.1,
    steps=4,
    batch_size=16,
    generations=8,
    warmup=0,
    learning_rate=3e-2,
    max_new_tokens=4,
    checkpoint_every=2,
    lora_rank=4,
)
PROMPTS = [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How {i}?"),)) for i in range(5)]


class Killed(Exception):
    pass


class Step(dict[str, Any]):
    """One step as the reward saw it: responses, and the trained weights at that moment."""


def even_share(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def log_probabilities(model: Any, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    """Of each response, by a plain forward pass of it alone."""
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        laws = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(dim=-1)
        found.append(laws[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None]).sum())
    return torch.stack(found)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path) -> tuple[Path, list[Step], Any]:
    """A run folder, the steps of its training, and the base model inside its adapter."""
    pytest.importorskip("peft")
    out, seen, held = tmp_path_factory.mktemp("lora") / "run", [], []
    whole = CtrlTrainer._generate_and_score_completions

    def spied(self: CtrlTrainer, inputs: Any) -> Any:
        held[:] = [self]
        output = whole(self, inputs)
        seen[-1]["advantages"] = output["advantages"]
        seen[-1]["kl"] = self._metrics["train"]["kl_sequence"][-1]
        return output

    def spy(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
        state = {name: p.detach().clone() for name, p in held[0].model.named_parameters() if p.requires_grad}
        seen.append(Step(prompts=prompts, responses=completion_ids, state=state))
        return even_share(completion_ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CtrlTrainer, "_generate_and_score_completions", spied)
        train_ctrl(LORA, llama_dir, PROMPTS, spy, out)
    return out, seen, held[0].model


def test_the_reference_is_the_base_model_and_advantages_are_by_hand(
    steps: tuple[Path, list[Step], Any], llama_dir: Path
) -> None:
    """KL 0 before the first step, then that to the base model; each advantage is the reward less beta times the
    log-ratio, less the mean of its seven siblings."""
    _, seen, adapted = steps
    base = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32).eval()
    final = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    assert seen[0]["kl"] == 0
    assert seen[-1]["kl"] > 1e-3
    with torch.no_grad():
        for step in seen:
            adapted.load_state_dict(step["state"], strict=False)
            ours, theirs = (log_probabilities(m, step["prompts"], step["responses"]) for m in (adapted, base))
            assert step["kl"] == pytest.approx(float((ours - theirs).mean()), abs=1e-4)
            total = (torch.tensor(even_share(step["responses"])) - LORA.beta * (ours - theirs)).view(-1, 8)
            by_hand = total - (total.sum(dim=1, keepdim=True) - total) / 7
            torch.testing.assert_close(step["advantages"], by_hand.flatten(), atol=1e-4, rtol=0)
        adapted.load_state_dict(final, strict=False)


def test_only_the_adapter_moves_and_by_the_gradient_of_its_own_objective(
    steps: tuple[Path, list[Step], Any],
) -> None:
    """AdamW's first step is the learning rate times the sign of the gradient, which is taken here by hand."""
    _, seen, adapted = steps
    first, second = seen[0]["state"], seen[1]["state"]
    assert all("lora_" in name for name in first)
    assert not any("lm_head" in name for name in first)
    final = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    adapted.load_state_dict(first, strict=False)
    adapted.zero_grad()
    logs = log_probabilities(adapted, seen[0]["prompts"], seen[0]["responses"])
    (-(seen[0]["advantages"] * logs).mean()).backward()
    checked = 0
    for name, p in adapted.named_parameters():
        if p.requires_grad and p.grad is not None:
            clear = p.grad.abs() > 1e-5  # where rounding does not decide the sign
            moved = second[name] - first[name]
            torch.testing.assert_close(moved[clear], -LORA.learning_rate * p.grad.sign()[clear], atol=1e-3, rtol=0)
            checked += int(clear.sum())
    assert checked > 500
    adapted.zero_grad()
    adapted.load_state_dict(final, strict=False)


def test_what_it_leaves_loads_merged_and_as_an_adapter(steps: tuple[Path, list[Step], Any], llama_dir: Path) -> None:
    out, _, adapted = steps
    peft = pytest.importorskip("peft")
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter",
        "model",
        "samples.jsonl",
        "steps.jsonl",
        "training.lock",
    ]
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        trained = adapted(ids).logits
        whole = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)(ids).logits
        with quiet_trl():
            alone = peft.AutoPeftModelForCausalLM.from_pretrained(out / "adapter", dtype=torch.float32)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(llama_dir, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(whole, trained, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone, trained, atol=1e-4, rtol=1e-4)
    assert float((whole - base).abs().max()) > 0.1
    assert {path.name for path in (out / "model").iterdir()} >= {"inferalign.json", "tokenizer.json", "config.json"}
    check_folder(str(out / "model"))
    with pytest.raises(ModelError, match="is a LoRA adapter and no whole model"):
        check_folder(str(out / "adapter"))


def test_killed_and_resumed_it_ends_at_the_same_adapter(
    steps: tuple[Path, list[Step], Any], tmp_path: Path, llama_dir: Path
) -> None:
    def stop(step: int, line: Any) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        train_ctrl(LORA, llama_dir, PROMPTS, even_share, tmp_path, on_step=stop)
    size = (tmp_path / "checkpoint" / "state.safetensors").stat().st_size
    assert size < (llama_dir / "model.safetensors").stat().st_size, "the base is not in the checkpoint"
    train_ctrl(LORA, llama_dir, PROMPTS, even_share, tmp_path)
    for file in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        a, b = load_file(steps[0] / file), load_file(tmp_path / file)
        assert a.keys() == b.keys()
        assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_without_peft_it_says_what_to_install(tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"'peft' is not installed. Type: pip install 'inferalign\[train\]'"):
        train_ctrl(replace(LORA, lora_rank=2), llama_dir, PROMPTS, even_share, tmp_path)
