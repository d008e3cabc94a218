"""The recipe resumes to the same weights, refuses another recipe's checkpoint, and exports a plain model directory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from inferalign.core.errors import RunError
from inferalign.sandbox import curriculum, recipe

TINY = recipe.Recipe(
    steps=12,
    batch_size=2,
    hidden=16,
    layers=1,
    heads=2,
    mlp=16,
    vocabulary=400,
    tokenizer_dialogues=200,
    checkpoint_every=5,
)


class Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def kill_at_8(step: int, facts: dict[str, float]) -> None:
        if step == 8:
            raise Killed

    whole = load_file(recipe.train(tmp_path / "whole", TINY) / "model.safetensors")
    with pytest.raises(Killed):
        recipe.train(tmp_path / "killed", TINY, on_step=kill_at_8)
    steps: list[int] = []
    resumed = recipe.train(tmp_path / "killed", TINY, on_step=lambda step, facts: steps.append(step))
    assert steps == list(range(6, 13))
    again = load_file(resumed / "model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    with pytest.raises(RunError, match="finished model"):
        recipe.train(tmp_path / "killed", TINY)
    (tmp_path / "killed" / recipe.CARD).unlink()
    with pytest.raises(RunError, match="another recipe"):
        recipe.train(tmp_path / "killed", replace(TINY, seed=1))


def test_the_export_loads_as_any_transformers_model_and_encodes_any_text(tmp_path: Path) -> None:
    folder = recipe.train(tmp_path, replace(TINY, steps=1))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    text = "Grüße, 世界! \N{PARTY POPPER}"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == f"{curriculum.USER}Hi.{curriculum.ASSISTANT}"


def test_the_schedule_warms_up_peaks_and_decays() -> None:
    values = [recipe.schedule(step, 1000) for step in range(1000)]
    assert values[0] == pytest.approx(0.05)
    assert max(values) == pytest.approx(1.0)
    assert values[20:] == sorted(values[20:], reverse=True)
    assert values[-1] == pytest.approx(0.05, abs=1e-3)
