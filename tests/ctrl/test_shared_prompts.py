"""A prompt read once for several responses: numbers and gradients as response by response, for fewer tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from inferalign.ctrl.shared_prompts import NO_LABEL, Packed, by_prompt, pack, responses_a_row, suits

PROMPT, RESPONSE = 9, 12
SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(1)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=1)).eval()
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)).eval()


def batch(prompts: int, responses: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Siblings in turn (so that none stand side by side), padded on both sides; lengths are random, at least 1."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (prompts, PROMPT + RESPONSE), generator=draw).repeat(responses, 1)
    ids[:, PROMPT:] = torch.randint(3, 50, (prompts * responses, RESPONSE), generator=draw)
    before = torch.randint(1, PROMPT + 1, (prompts, 1), generator=draw).repeat(responses, 1)
    after = torch.randint(1, RESPONSE + 1, (prompts * responses, 1), generator=draw)
    at = torch.arange(PROMPT + RESPONSE)
    return ids, ((at >= PROMPT - before) & (at < PROMPT + after)).long()


class Work:
    """Log-probabilities and entropies by a plain forward pass; it keeps the shapes that it was given."""

    def __init__(self, of: torch.nn.Module) -> None:
        self.of = of
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, rows: Packed) -> tuple[Tensor, Tensor]:
        self.shapes.append(tuple(rows.ids.shape))
        logits = self.of(input_ids=rows.ids, attention_mask=rows.sees, position_ids=rows.positions).logits
        logs = logits.log_softmax(dim=-1)
        taken = logs.gather(2, rows.labels.clamp(min=0)[..., None])[..., 0]
        return taken, -(logs.exp() * logs).sum(dim=-1)


def one_by_one(of: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """The reference: each row by itself, without padding. [B, C], 0 where there is no token."""
    rows = []
    for tokens, held in zip(ids, mask.bool(), strict=True):
        logs = of(tokens[held][None]).logits[0].log_softmax(dim=-1)
        count = int(held[PROMPT:].sum())
        of_response = logs[-count - 1 : -1].gather(1, tokens[held][-count:, None])[:, 0]
        rows.append(torch.nn.functional.pad(of_response, (0, RESPONSE - count)))
    return torch.stack(rows)


def gradient(of: torch.nn.Module, logs: Tensor) -> Tensor:
    of.zero_grad()
    weights = torch.randn(len(logs), generator=torch.Generator().manual_seed(2))
    (logs.sum(dim=1) @ weights).backward()
    return torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize(("together", "at_once"), [(2, None), (4, None), (7, None), (4, 6), (4, 3), (1, None)])
def test_values_and_gradients_are_those_of_each_response_alone(kind: str, together: int, at_once: int | None) -> None:
    of, (ids, mask) = model(kind), batch(5, 6)
    expected = one_by_one(of, ids, mask)
    its_gradient = gradient(of, expected)
    work = Work(of)
    logs, entropies = by_prompt(work, ids, mask, RESPONSE, together, at_once)
    their_gradient = gradient(of, logs)
    assert torch.allclose(logs, expected, atol=1e-5)
    assert float((their_gradient - its_gradient).norm() / its_gradient.norm()) < 1e-5
    assert entropies is not None
    assert bool((entropies[mask[:, PROMPT:] == 1] > 0).all())
    assert bool((entropies[mask[:, PROMPT:] == 0] == 0).all())
    if at_once is not None:
        assert max(rows * min(together, at_once) for rows, _ in work.shapes) <= at_once


def test_empty_responses_are_no_error() -> None:
    ids, mask = batch(3, 2)
    mask[:, PROMPT:] = 0
    logs, _ = by_prompt(Work(model("llama")), ids, mask, RESPONSE, 2)
    assert torch.equal(logs, torch.zeros(6, RESPONSE))


def test_a_worked_row() -> None:
    """Prompt 5 6 and responses 7 and 8 9: the token before each response stands before each of them."""
    rows = pack([(5, 6)], [((7,), (8, 9))], torch.device("cpu"))
    assert rows.ids.tolist() == [[5, 6, 7, 6, 8, 9]]
    assert rows.positions.tolist() == [[0, 1, 2, 1, 2, 3]]
    assert rows.labels.tolist() == [[NO_LABEL, 7, NO_LABEL, 8, 9, NO_LABEL]]
    sees = ["100000", "110000", "111000", "100100", "100110", "100111"]
    assert rows.sees[0, 0].int().tolist() == [[int(each) for each in line] for line in sees]


def test_fewer_tokens_are_read() -> None:
    of, (ids, mask) = model("llama"), batch(4, 8)
    work = Work(of)
    by_prompt(work, ids, mask, RESPONSE, 8)
    assert sum(rows * length for rows, length in work.shapes) < 0.8 * int(mask.sum())


@pytest.mark.parametrize(
    ("prompt", "response", "width"), [(38, 27, 192), (300, 100, 1536), (500, 60, 4096), (20, 500, 1536)]
)
def test_so_many_responses_a_row_cost_least(prompt: int, response: int, width: int) -> None:
    def cost(together: int) -> float:
        length = prompt + together * response
        return (length / together) * (12 * width**2 + 2 * width * length)

    best = min(range(1, 200), key=cost)
    assert abs(responses_a_row(prompt, response, width) - best) <= 1


def test_rows_do_not_grow_without_bound() -> None:
    assert responses_a_row(1000, 100, 4096) == 30
    assert responses_a_row(5000, 10, 4096) == 1


def test_models_that_cannot_share_are_found_out() -> None:
    assert all(suits(model(kind)) for kind in ("llama", "gpt2", "qwen2"))
    assert not suits(MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8)))
    eager = LlamaForCausalLM._from_config(LlamaConfig(**SMALL), attn_implementation="eager")
    assert not suits(eager)


def test_a_model_that_ignores_the_mask_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    of = model("llama")
    plain = of.forward

    def deaf(*args: object, attention_mask: object = None, **more: object) -> object:
        return plain(*args, **more)

    monkeypatch.setattr(of, "forward", deaf)
    assert not suits(of)
