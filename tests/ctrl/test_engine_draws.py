"""Responses by the engine: the policy's own law, keyed, and the model left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from inferalign.core.errors import ContextOverflow
from inferalign.ctrl import engine_draws

PROMPTS = [(5, 6, 7, 8)] * 3 + [(9, 10)] * 2
SEEDS = [11, 12, 13, 14, 15]


def opened(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def draw(model: Any, tokenizer: Any, prompts: Any = PROMPTS, seeds: Any = SEEDS, **changed: Any) -> list[list[int]]:
    return engine_draws.draw(model, tokenizer, prompts, seeds, **{"ends": [3], "max_new_tokens": 6, **changed})


@pytest.mark.parametrize("kind", ["llama_dir", "gpt2_dir", "qwen_dir"])
def test_a_response_depends_on_its_prompt_and_its_seed_alone(kind: str, request: pytest.FixtureRequest) -> None:
    model, tokenizer = opened(request.getfixturevalue(kind))
    assert engine_draws.suits(model)
    together = draw(model, tokenizer)
    alone = [draw(model, tokenizer, [p], [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert together == alone
    assert together == draw(model, tokenizer, PROMPTS[::-1], SEEDS[::-1])[::-1]
    assert len({tuple(row) for row in together}) == 5


def test_draws_follow_the_models_own_probabilities(llama_dir: Path) -> None:
    model, tokenizer = opened(llama_dir)
    n = 20_000
    drawn = draw(model, tokenizer, [PROMPTS[0]] * n, range(n), max_new_tokens=1)
    seen = torch.bincount(torch.tensor([row[0] for row in drawn]), minlength=model.config.vocab_size) / n
    with torch.no_grad():
        law = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(dim=-1)
    # the mean distance of n true draws is at most sum sqrt(p (1 - p) / n) / 2
    expected = float((law * (1 - law) / n).sqrt().sum()) / 2
    assert float((seen - law).abs().sum()) / 2 < expected
    turned = law.flip(0)
    assert float((seen - turned).abs().sum()) / 2 > 2 * expected


def test_an_end_token_is_kept_and_ends_the_response(llama_dir: Path) -> None:
    model, tokenizer = opened(llama_dir)
    free = draw(model, tokenizer, ends=[])
    assert {len(row) for row in free} == {6}
    end = free[0][2]
    ended = draw(model, tokenizer, ends=[end])
    assert ended[0] == free[0][: free[0].index(end) + 1]
    for row, longer in zip(ended, free, strict=True):
        assert row == longer[: longer.index(end) + 1 if end in longer else 6]


def test_after_a_step_the_new_weights_draw_and_the_model_stays_as_it_was(llama_dir: Path) -> None:
    model, tokenizer = opened(llama_dir)
    model.train()
    attention, before = model.config._attn_implementation, draw(model, tokenizer)
    assert draw(model, tokenizer) == before
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    assert draw(model, tokenizer) != before
    assert model.training
    assert model.config._attn_implementation == attention
    model(torch.tensor([PROMPTS[0]])).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_draws_as_the_model_that_it_is_merged_into(llama_dir: Path) -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer = opened(llama_dir)
    plain = draw(model, tokenizer)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(len(name)))
    assert engine_draws.suits(adapted.get_base_model())
    found = draw(adapted.get_base_model(), tokenizer)
    assert found != plain
    with adapted.disable_adapter():
        assert draw(adapted.get_base_model(), tokenizer) == plain
    assert draw(adapted.merge_and_unload(), tokenizer) == found


def test_what_the_engine_cannot_draw_from_is_said_beforehand(llama_dir: Path) -> None:
    model, _ = opened(llama_dir)
    assert not engine_draws.suits(model.to(torch.bfloat16))
    config = MistralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        sliding_window=8,
    )
    assert not engine_draws.suits(MistralForCausalLM(config))


def test_a_prompt_without_room_is_refused(llama_dir: Path) -> None:
    model, tokenizer = opened(llama_dir)
    with pytest.raises(ContextOverflow):
        draw(model, tokenizer, [(5,) * model.config.max_position_embeddings], [1])
