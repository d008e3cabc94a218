"""A training of a small random model from end to end: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from inferalign.core.errors import ContextOverflow, InputError, ModelError, RunError
from inferalign.core.shards import TRAINING_LOCK, FileLock
from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, prompts_sha256, sampling_facts
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.scored import Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.chat import ChatFormat
from inferalign.engines.weights import weights_digest
from inferalign.procedures.base import Sampling
from inferalign.theory.transforms import Identity

QUICK = CtrlSettings(
    beta=0.1,
    steps=6,
    batch_size=16,
    generations=8,
    warmup=1,
    learning_rate=1e-3,
    max_new_tokens=4,
    checkpoint_every=2,
    kl_gain=0.1,
)
PROMPTS = [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How {i}?"),)) for i in range(5)]


class Killed(Exception):
    pass


def even_share(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward that can be learned: the share of even token numbers."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def trained(model: Path, out: Path, settings: CtrlSettings = QUICK, **more: Any) -> Any:
    return train_ctrl(settings, model, PROMPTS, more.pop("reward", even_share), out, **more)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model" / "model.safetensors")
    return found


def kill_at(last: int) -> Any:
    def on_step(step: int, line: Any) -> None:
        if step == last:
            raise Killed

    return on_step


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]


def test_killed_twice_and_resumed_it_ends_at_the_same_weights(tmp_path: Path, llama_dir: Path) -> None:
    """5 prompts and 2 a step: the second epoch begins within step 3, so that one resume lies past it."""
    whole = trained(llama_dir, tmp_path / "whole")
    for last in (3, 5):
        with pytest.raises(Killed):
            trained(llama_dir, tmp_path / "killed", on_step=kill_at(last))
    steps: list[int] = []
    again = trained(llama_dir, tmp_path / "killed", on_step=lambda step, line: steps.append(step))
    assert steps == [5, 6]
    a, b = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert (whole.kl, whole.beta) == (again.kl, again.beta)
    timeless = [
        [{k: v for k, v in line.items() if k != "step_time"} for line in lines(tmp_path / n)]
        for n in ("whole", "killed")
    ]
    assert [line["kl_sequence"] for line in timeless[0]] == [line["kl_sequence"] for line in timeless[1]]
    assert [line["step"] for line in timeless[1]] == [1, 2, 3, 4, 5, 6]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")]
    with pytest.raises(RunError, match="finished model"):
        trained(llama_dir, tmp_path / "killed")


def test_responses_are_kept_to_be_read_once_each(tmp_path: Path, llama_dir: Path) -> None:
    often = replace(QUICK, check_every=2)
    trained(llama_dir, tmp_path / "whole", often)
    with pytest.raises(Killed):
        trained(llama_dir, tmp_path / "killed", often, on_step=kill_at(5))
    with (tmp_path / "killed" / "samples.jsonl").open("a") as file:
        file.write('{"step": 5, "prom')
    trained(llama_dir, tmp_path / "killed", often)
    kept = [(tmp_path / name / "samples.jsonl").read_text() for name in ("whole", "killed")]
    assert kept[0] == kept[1]
    found = [json.loads(line) for line in kept[0].splitlines()]
    assert [line["step"] for line in found] == [1] * 8 + [3] * 8 + [5] * 8
    assert {line["prompt_id"] for line in found} <= {prompt.id for prompt in PROMPTS}
    assert all(0 <= line["reward"] <= 1 for line in found)
    assert {type(line["response"]) for line in found} == {str}


def test_one_process_trains_a_run(tmp_path: Path, llama_dir: Path) -> None:
    """Another one would mix its lines and its checkpoints with them."""
    (tmp_path / "out").mkdir()
    first = FileLock(tmp_path / "out" / TRAINING_LOCK, "it")
    with pytest.raises(RunError, match=rf"out is being written by process {os.getpid()}\. Wait for it"):
        trained(llama_dir, tmp_path / "out")
    first.release()
    assert trained(llama_dir, tmp_path / "out").steps == 6


@pytest.mark.parametrize("name", ["grad_norm", "kl_sequence"])
def test_a_training_that_diverges_says_so(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    log = CtrlTrainer.log

    def odd(self: CtrlTrainer, logs: dict[str, Any], *more: Any) -> None:
        self.callback_handler.call_event(
            "on_log", self.args, self.state, self.control, logs={**logs, "beta": 0.1, name: math.nan}
        )
        log(self, logs, *more)

    monkeypatch.setattr(CtrlTrainer, "log", odd)
    with pytest.raises(RunError, match=rf"diverged at step 1: {name} is nan\. .* smaller --learning-rate"):
        trained(llama_dir, tmp_path)


def test_weights_that_no_answer_can_be_drawn_from_are_a_divergence(tmp_path: Path, llama_dir: Path) -> None:
    with pytest.raises(RunError, match=r"diverged at step 1: its logits are not finite any more\. .* --learning-rate"):
        trained(llama_dir, tmp_path, replace(QUICK, learning_rate=1e30, warmup=0))


def test_who_trains_is_told_where_it_begins(tmp_path: Path, llama_dir: Path) -> None:
    begun: list[int] = []
    with pytest.raises(Killed):
        trained(llama_dir, tmp_path, on_begin=begun.append, on_step=kill_at(5))
    trained(llama_dir, tmp_path, on_begin=begun.append)
    assert begun == [0, 4]


def test_a_log_of_other_steps_is_not_gone_on_from(tmp_path: Path, llama_dir: Path) -> None:
    with pytest.raises(Killed):
        trained(llama_dir, tmp_path, on_step=kill_at(5))
    log = tmp_path / "steps.jsonl"
    first, *rest = log.read_bytes().splitlines(keepends=True)
    damaged = first + b"\0\0\0\n" + b"".join(rest[1:])  # as a power cut leaves it
    for lines in (damaged, first + first + b"".join(rest)):
        log.write_bytes(lines)
        with pytest.raises(RunError, match="does not have one line for each of the 4 steps"):
            trained(llama_dir, tmp_path)


def test_what_is_written_loads_as_any_model_and_moved(tmp_path: Path, llama_dir: Path) -> None:
    made = trained(llama_dir, tmp_path / "out")
    assert made.steps == 6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model",
        "samples.jsonl",
        "steps.jsonl",
        "training.lock",
    ]
    assert made.model == tmp_path / "out" / "model"
    assert lines(tmp_path / "out")[0]["kl_sequence"] == pytest.approx(0, abs=1e-6)
    assert made.kl == pytest.approx(lines(tmp_path / "out")[-1]["kl_sequence"])
    AutoTokenizer.from_pretrained(made.model)
    new, old = (AutoModelForCausalLM.from_pretrained(path) for path in (made.model, llama_dir))
    assert not torch.equal(new.lm_head.weight, old.lm_head.weight)
    assert new.generation_config.eos_token_id == old.generation_config.eos_token_id


def test_a_reward_is_learned_and_an_async_one_is_the_same(tmp_path: Path, llama_dir: Path) -> None:
    async def later(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        await asyncio.sleep(0)
        return even_share(completion_ids)

    longer = replace(QUICK, steps=8, batch_size=128, generations=32, learning_rate=2e-2, beta=0.02, kl_gain=0.0)
    trained(llama_dir, tmp_path / "a", longer)
    trained(llama_dir, tmp_path / "b", longer, reward=later)
    rewards = [line["reward"] for line in lines(tmp_path / "a")]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1
    assert rewards == [line["reward"] for line in lines(tmp_path / "b")]
    assert lines(tmp_path / "a")[-1]["kl_sequence"] > 0.02


class Spread:
    """A scorer whose scores are all over [0, 1], whatever the model; it counts the tokens that it reads."""

    name = "spread"

    def describe(self) -> dict[str, object]:
        return {"scorer": self.name}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        usage.tokens_fed += sum(len(response.token_ids) for response in responses)
        return [Score(sum(response.token_ids) * 0.618034 % 1) for response in responses]


def spread_reward(model: Path, scorer: Spread) -> RewardFunction:
    tokenizer = AutoTokenizer.from_pretrained(model)
    anchors = HeldAnchors(
        tuple(p.id for p in PROMPTS), Scored.all_scored([[(i + 0.1 * at) / 40 for i in range(40)] for at in range(5)])
    )
    chat = ChatFormat(tokenizer, end_ids=[tokenizer.eos_token_id])
    return RewardFunction(scorer, CalibratedReward(anchors, Identity()), PROMPTS, chat)


def test_a_scorer_without_room_for_the_longest_answer_is_refused(tmp_path: Path, llama_dir: Path) -> None:
    class Limited(Spread):
        def room(self, prompt: Prompt) -> int:
            return QUICK.max_new_tokens - 1

    with pytest.raises(ContextOverflow, match="spread can judge answers of at most 3 tokens to prompt 'p0'"):
        trained(llama_dir, tmp_path / "run", reward=spread_reward(llama_dir, Limited()))
    assert not (tmp_path / "run").exists()


def test_what_scoring_cost_is_counted_over_a_stop(tmp_path: Path, llama_dir: Path) -> None:
    def reward() -> RewardFunction:
        return spread_reward(llama_dir, Spread())

    whole, again = reward(), reward()
    trained(llama_dir, tmp_path / "whole", reward=whole)
    with pytest.raises(Killed):
        trained(llama_dir, tmp_path / "killed", reward=reward(), on_step=kill_at(3))
    trained(llama_dir, tmp_path / "killed", reward=again)
    assert again.usage == whole.usage
    assert again.usage.tokens_fed == lines(tmp_path / "killed")[-1]["scoring"]["tokens_fed"] > 0


def test_another_training_in_the_same_place_is_refused(tmp_path: Path, llama_dir: Path) -> None:
    with pytest.raises(Killed):
        trained(llama_dir, tmp_path, on_step=kill_at(3))
    for other in (replace(QUICK, seed=1), replace(QUICK, beta=0.2), replace(QUICK, learning_rate=2e-3)):
        with pytest.raises(RunError, match="another training"):
            trained(llama_dir, tmp_path, other)
    with pytest.raises(RunError, match="another training"):
        train_ctrl(QUICK, llama_dir, PROMPTS[:-1], even_share, tmp_path)
    # how often it is kept decides nothing
    trained(llama_dir, tmp_path, replace(QUICK, checkpoint_every=3))


@pytest.mark.parametrize("micro_batch", [4, 8])
def test_micro_batches_give_the_same_training(tmp_path: Path, llama_dir: Path, micro_batch: int) -> None:
    once = replace(QUICK, kl_gain=0.0, steps=3)
    a = trained(llama_dir, tmp_path / "a", once)
    b = trained(llama_dir, tmp_path / "b", replace(once, micro_batch=micro_batch))
    assert b.kl == pytest.approx(a.kl, abs=1e-6)
    for key in ("reward", "kl_sequence"):
        found, expected = ([line[key] for line in lines(tmp_path / name)] for name in ("b", "a"))
        assert found == pytest.approx(expected, abs=1e-6)
    whole, parts = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.allclose(parts[name], tensor, rtol=0, atol=1e-6) for name, tensor in whole.items())


def anchors_of(model: Path, **other: Any) -> AnchorSet:
    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = ChatFormat(tokenizer, end_ids=[tokenizer.eos_token_id])
    card = {
        "model": "llama",
        "weights": weights_digest(str(model)),
        "engine": {},
        "chat": dict(chat.describe()),
        "sampling": sampling_facts(Sampling(temperature=1.0, max_new_tokens=4), chat),
        "scorer": {"scorer": "even"},
        "prompts_sha256": prompts_sha256(PROMPTS),
        "k": 200,
        "seed": 0,
        **other,
    }
    values = np.random.default_rng(0).normal(size=(5, 200))
    return AnchorSet.of(
        AnchorCard(**card), [p.id for p in PROMPTS], Scored.all_scored(values), np.full((5, 200), 4, dtype=np.int32)
    )


def test_beta_is_found_from_the_anchors_and_those_of_another_model_are_refused(tmp_path: Path, llama_dir: Path) -> None:
    wanted = replace(QUICK, beta=None, steps=2, transform="identity", kl_gain=0.0)
    made = trained(llama_dir, tmp_path / "a", wanted, anchors=anchors_of(llama_dir))
    assert made.beta == pytest.approx(0.2428, rel=0.05)  # the ideal one for identity at KL .5
    again = trained(llama_dir, tmp_path / "seed", replace(wanted, seed=1), anchors=anchors_of(llama_dir))
    assert again.beta == made.beta, "`compare` takes seeds of one training to have one beta"
    for other in ({"weights": "sha256:0"}, {"prompts_sha256": "0"}, {"sampling": {"temperature": 0.7}}):
        with pytest.raises(InputError, match="made otherwise"):
            trained(llama_dir, tmp_path / "b", wanted, anchors=anchors_of(llama_dir, **other))
    with pytest.raises(InputError, match="neither a beta nor anchors"):
        trained(llama_dir, tmp_path / "c", wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 64}, "fewer than the 8 that a step takes"),
        ({"processes": 2}, "1 processes are training and 2 were asked for"),
    ],
)
def test_what_cannot_mean_what_it_should_is_refused(
    tmp_path: Path, llama_dir: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, RunError), match=message):
        trained(llama_dir, tmp_path, replace(QUICK, **changes))


def test_unusable_models_and_prompts_are_refused(tmp_path: Path, llama_dir: Path, gpt2_dir: Path) -> None:
    with pytest.raises(ModelError, match="there is no model directory"):
        trained(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no chat template"):
        trained(gpt2_dir, tmp_path / "out")
    long = Prompt(id="long", messages=(Message(role="user", content="How? " * 200),))
    with pytest.raises(ContextOverflow, match="'long' has"):
        train_ctrl(QUICK, llama_dir, [*PROMPTS, long], even_share, tmp_path / "out")
    with pytest.raises(InputError, match="the same id"):
        train_ctrl(QUICK, llama_dir, [*PROMPTS, PROMPTS[0]], even_share, tmp_path / "out")


def test_dropout_in_a_config_is_refused_or_switched_off(tmp_path: Path, llama_dir: Path, gpt2_dir: Path) -> None:
    """GPT-2's dropout layers are switched off; a rate that attention passes on by itself is not, and is refused."""
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    trained(gpt2_dir, tmp_path / "gpt2", replace(QUICK, steps=2), chat_template=template)
    assert lines(tmp_path / "gpt2")[0]["kl_sequence"] == pytest.approx(0, abs=1e-6)
    model = AutoModelForCausalLM.from_pretrained(llama_dir, attention_dropout=0.1)
    model.save_pretrained(tmp_path / "drops")
    AutoTokenizer.from_pretrained(llama_dir).save_pretrained(tmp_path / "drops")
    with pytest.raises(ModelError, match=r"attention_dropout is 0\.1"):
        trained(tmp_path / "drops", tmp_path / "out")


def test_logged_kl_is_that_of_an_independent_rescore(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Responses of a step, scored again by plain forward passes of the policy of that step and of the start."""
    kept: list[tuple[dict[str, torch.Tensor], Any, list[list[int]], list[list[int]]]] = []
    current: list[CtrlTrainer] = []
    original = CtrlTrainer._generate_and_score_completions

    def spied(self: CtrlTrainer, inputs: Any) -> Any:
        current[:] = [self]
        return original(self, inputs)

    def spy(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
        state = {name: p.detach().clone() for name, p in current[0].model.named_parameters()}
        kept.append((state, None, prompts, completion_ids))
        return even_share(completion_ids)

    monkeypatch.setattr(CtrlTrainer, "_generate_and_score_completions", spied)
    strong = replace(QUICK, learning_rate=1e-2, steps=4, beta=0.02, kl_gain=0.0)
    trained(llama_dir, tmp_path, strong, reward=spy)
    logged = [line["kl_sequence"] for line in lines(tmp_path)]
    base, policy = (AutoModelForCausalLM.from_pretrained(llama_dir).eval() for _ in range(2))
    for (state, _, prompts, completions), kl in zip(kept, logged, strict=True):
        policy.load_state_dict(state, strict=False)
        found = [
            log_probability(policy, list(x), list(y)) - log_probability(base, list(x), list(y))
            for x, y in zip(prompts, completions, strict=True)
        ]
        assert kl == pytest.approx(math.fsum(found) / len(found), abs=1e-4)
    assert logged[-1] > 0.01


def log_probability(model: Any, prompt: list[int], response: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double().log_softmax(dim=-1)
    return sum(float(logits[len(prompt) + at - 1, token]) for at, token in enumerate(response))


def test_the_models_own_generation_settings_do_not_bend_the_draws(tmp_path: Path, llama_dir: Path) -> None:
    """A generation config that suppresses tokens would otherwise be obeyed in training; it is kept for the user."""
    model = AutoModelForCausalLM.from_pretrained(llama_dir)
    model.generation_config.suppress_tokens = list(range(100, 400))
    model.save_pretrained(tmp_path / "bent")
    AutoTokenizer.from_pretrained(llama_dir).save_pretrained(tmp_path / "bent")
    seen: list[int] = []

    def spy(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        seen.extend(token for ids in completion_ids for token in ids)
        return even_share(completion_ids)

    made = trained(tmp_path / "bent", tmp_path / "out", replace(QUICK, steps=2), reward=spy)
    assert max(seen) >= 100
    assert AutoModelForCausalLM.from_pretrained(made.model).generation_config.suppress_tokens is not None


def test_steps_that_were_not_taken_are_an_error(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL takes none, and only warns, for too few prompts; whatever stops it, there is no model."""
    monkeypatch.setattr(CtrlTrainer, "train", lambda self: None)
    with pytest.raises(RunError, match="0 of 6 steps were taken: TRL stopped early"):
        trained(llama_dir, tmp_path)
    assert not (tmp_path / "model").exists()
