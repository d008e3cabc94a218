"""Sequence log-probabilities against plain transformers, and the KL that they give against enumeration."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inferalign.core.errors import InputError, RunError
from inferalign.core.types import Completion, RoleUsage, StopReason, TokenIds
from inferalign.engines.scripted import ScriptedEngine
from inferalign.engines.table import LoadedModel
from inferalign.winrate.pools import read_answers
from inferalign.winrate.rescore import log_ratios, sequence_logprob
from tests.winrate.models import PROMPTS, draw_pool, opened, perturbed


@pytest.fixture(scope="module")
def base(llama_dir: Path) -> LoadedModel:
    return opened(llama_dir)


@pytest.fixture(scope="module")
def policy_dir(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return perturbed(llama_dir, tmp_path_factory.mktemp("policy"), 0.5)


def plain_logprob(folder: Path, prefix: TokenIds, answer: Completion, ends: Sequence[int]) -> float:
    """One forward of transformers over prompt and answer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*prefix, *answer.token_ids]])).logits[0].double()
    rows = torch.log_softmax(logits[len(prefix) - 1 :], dim=-1)
    total = sum(rows[i, token].item() for i, token in enumerate(answer.token_ids))
    if answer.stop is StopReason.END:
        total += math.log(sum(rows[len(answer.token_ids), end].exp().item() for end in ends))
    return total


@pytest.mark.parametrize("stop", [StopReason.END, StopReason.LENGTH])
@pytest.mark.parametrize("tokens", [(), (7,), (5, 9, 7, 7, 11)])
def test_a_log_probability_is_that_of_plain_transformers(
    base: LoadedModel, llama_dir: Path, tokens: TokenIds, stop: StopReason
) -> None:
    answer = Completion(token_ids=tokens, text="", stop=stop)
    prefix = base.chat.prompt_ids(PROMPTS[0])
    for ends in ({1}, {1, 7, 30}):
        found = asyncio.run(sequence_logprob(base.engine, prefix, answer, frozenset(ends), RoleUsage()))
        assert found == pytest.approx(plain_logprob(llama_dir, prefix, answer, sorted(ends)), abs=1e-4)


def test_a_worked_example() -> None:
    """P(a) = 1/2 and P(end) = 1/4 at each step: a a end has 1/16; cut before its end it has 1/4."""
    engine = ScriptedEngine(labels=lambda prefix, labels: [math.log({1: 0.5, 9: 0.25}[label]) for label in labels])
    answer = Completion(token_ids=(1, 1), text="aa", stop=StopReason.END)
    cut = replace(answer, stop=StopReason.LENGTH)
    found = [asyncio.run(sequence_logprob(engine, (5,), each, frozenset({9}), RoleUsage())) for each in (answer, cut)]
    assert found == pytest.approx([math.log(1 / 16), math.log(1 / 4)])


def test_ratios_of_a_pool_are_kept_and_read_again(
    base: LoadedModel, policy_dir: Path, llama_dir: Path, tmp_path: Path
) -> None:
    policy = opened(policy_dir)
    pool = draw_pool(policy, tmp_path / "pool", 5, seed=1)
    found = asyncio.run(log_ratios(pool, tmp_path / "lp", policy, base))
    for each in read_answers(pool):
        prefix, ends = base.chat.prompt_ids(each.prompt), sorted(base.chat.end_ids)
        for ratio, answer in zip(found[each.id], each.completions, strict=True):
            ours, theirs = (plain_logprob(folder, prefix, answer, ends) for folder in (policy_dir, llama_dir))
            assert ratio == pytest.approx(ours - theirs, abs=1e-4)
    kept = (tmp_path / "lp" / "records" / "main.jsonl").read_bytes()
    again = asyncio.run(log_ratios(pool, tmp_path / "lp", policy, base))
    assert (tmp_path / "lp" / "records" / "main.jsonl").read_bytes() == kept
    assert all(np.array_equal(again[name], found[name]) for name in found)


def test_the_mean_ratio_is_the_kl(base: LoadedModel, policy_dir: Path, tmp_path: Path) -> None:
    """Answers of one token: the sequence KL is that of the two next-token laws, end tokens merged into one event."""
    policy = opened(policy_dir)
    pool = draw_pool(policy, tmp_path / "pool", 400, seed=2, tokens=1)
    found = asyncio.run(log_ratios(pool, tmp_path / "lp", policy, base))
    for prompt in PROMPTS[:2]:
        laws = []
        for model in (policy, base):
            (row,) = asyncio.run(model.engine.label_logprobs([model.chat.prompt_ids(prompt)], range(400), RoleUsage()))
            p = np.exp(row.logprobs)
            ends = sorted(model.chat.end_ids)
            laws.append(np.append(np.delete(p, ends), p[ends].sum()))
        exact = float(np.sum(laws[0] * np.log(laws[0] / laws[1])))
        ratios = found[prompt.id]
        assert exact > 0.05
        assert abs(ratios.mean() - exact) < 4 * ratios.std() / math.sqrt(ratios.size)


def test_what_has_no_kl(base: LoadedModel, policy_dir: Path, gpt2_dir: Path, tmp_path: Path) -> None:
    policy, gpt2 = opened(policy_dir), opened(gpt2_dir)
    pool = draw_pool(policy, tmp_path / "pool", 2, seed=1)
    with pytest.raises(InputError, match=r"no chat template.*--chat-template FILE"):
        asyncio.run(log_ratios(pool, tmp_path / "lp", gpt2, gpt2))
    with pytest.raises(InputError, match="drawn from another model"):
        asyncio.run(log_ratios(pool, tmp_path / "lp", base, base))
    config = pool / "config.json"
    config.write_text(config.read_text().replace('"temperature": 1.0', '"temperature": 0.7'))
    with pytest.raises(InputError, match=r"temperature 0\.7.*--temperature 1"):
        asyncio.run(log_ratios(pool, tmp_path / "lp", policy, base))


def test_log_probabilities_of_other_answers_are_refused(base: LoadedModel, policy_dir: Path, tmp_path: Path) -> None:
    policy = opened(policy_dir)
    pool = draw_pool(policy, tmp_path / "pool", 2, seed=1)
    asyncio.run(log_ratios(pool, tmp_path / "lp", policy, base))
    other = draw_pool(policy, tmp_path / "other", 2, seed=3)
    (other / "config.json").write_bytes((pool / "config.json").read_bytes())
    with pytest.raises(RunError, match="drawn again"):
        asyncio.run(log_ratios(other, tmp_path / "lp", policy, base))
