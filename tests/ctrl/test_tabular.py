"""The enumerable policy: its law, written down and drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inferalign.ctrl.tabular import END, SYMBOLS, log_probabilities, responses, write_table


def table(seed: int = 3) -> torch.Tensor:
    return torch.randn(SYMBOLS, SYMBOLS, generator=torch.Generator().manual_seed(seed))


def test_responses_by_hand() -> None:
    assert responses(3) == [(0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    logits = torch.tensor([[0.0, 0.0, float("-inf")], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    expected = [1 / 2, 1 / 6, 1 / 6, 1 / 6, 0.0, 0.0, 0.0]
    assert log_probabilities(logits).exp().tolist() == pytest.approx(expected)


def test_the_law_is_one_and_is_that_of_the_model(tmp_path: Path) -> None:
    logits = table()
    logs = log_probabilities(logits)
    assert float(logs.exp().sum()) == pytest.approx(1)
    model = AutoModelForCausalLM.from_pretrained(write_table(tmp_path, logits))
    for index in (0, 9, 40):
        ids = torch.tensor([[END, *responses()[index]]])
        steps = model(ids).logits.detach().log_softmax(dim=-1)[0, :-1]
        assert float(steps.gather(1, ids[0, 1:, None]).sum()) == pytest.approx(float(logs[index].detach()), abs=1e-5)


def test_draws_follow_the_law(tmp_path: Path) -> None:
    logits = table()
    model = AutoModelForCausalLM.from_pretrained(write_table(tmp_path, logits))
    torch.manual_seed(0)
    start = torch.full((20_000, 1), END)
    drawn = model.generate(start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, max_new_tokens=2)
    rows = (tuple(row[: row.index(END) + 1] if END in row else row) for row in drawn[:, 1:].tolist())
    counts = Counter(rows)
    assert counts.keys() <= set(responses())
    for response, log in zip(responses(), log_probabilities(logits).tolist(), strict=True):
        p = torch.tensor(log).exp().item()
        assert counts[response] / 20_000 == pytest.approx(p, abs=4.5 * (p * (1 - p) / 20_000) ** 0.5 + 1e-4)


def test_the_tokenizer_writes_token_numbers(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_table(tmp_path, table()))
    assert tokenizer("0")["input_ids"] == [END]
    assert tokenizer.batch_decode([[3, 5]]) == ["3 5"]
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == END
