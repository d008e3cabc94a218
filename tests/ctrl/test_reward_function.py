"""The reward function on token ids: what it builds, what it asks, what it returns, and how TRL takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback
from trl import RLOOConfig, RLOOTrainer
from trl.trainer.utils import is_async_callable

from inferalign.core.errors import ContextOverflow, InputError, ScoringError
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, StopReason, Unscored
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_function import RewardFunction, completion_of
from inferalign.ctrl.scored import Scored
from inferalign.engines.chat import ChatFormat
from inferalign.theory.transforms import Identity
from tests.toy import a_prompt

ANCHORS = HeldAnchors(("p", "q"), Scored.all_scored([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]]))


class Lengths:
    """A scorer that counts tokens, cannot judge an empty answer, and fails on an answer of nine tokens.

    It waits until `expected` prompts are being judged, so that a run ends only if they are judged at once.
    """

    name = "lengths"

    def __init__(self, expected: int) -> None:
        self.asked: list[tuple[str, int]] = []
        self.everyone = asyncio.Event()
        self.expected = expected

    def describe(self) -> dict[str, object]:
        return {"scorer": self.name}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        self.asked.append((prompt.id, len(responses)))
        if len(self.asked) == self.expected:
            self.everyone.set()
        await asyncio.wait_for(self.everyone.wait(), timeout=5)
        usage.tokens_fed += sum(len(response.token_ids) for response in responses)
        return [self.verdict(response) for response in responses]

    def verdict(self, response: Completion) -> Score | Unscored:
        n = len(response.token_ids)
        return {0: Unscored("empty", "response"), 9: Unscored("busy", "judge")}.get(n, Score(float(n)))


@pytest.fixture(scope="module")
def chat(llama_dir: Path) -> ChatFormat:
    return ChatFormat(AutoTokenizer.from_pretrained(llama_dir))


def prompts() -> list[Prompt]:
    return [Prompt(id=name, messages=a_prompt("Hi?").messages) for name in ("p", "q")]


def function(chat: ChatFormat, expected: int = 2) -> tuple[RewardFunction, Lengths]:
    scorer = Lengths(expected)
    return RewardFunction(scorer, CalibratedReward(ANCHORS, Identity()), prompts(), chat), scorer


def call(reward: RewardFunction, ids: list[list[int]], prompt_id: list[str], **more: Any) -> list[float | None]:
    return asyncio.run(
        reward(prompts=["?"] * len(ids), completions=["!"] * len(ids), completion_ids=ids, prompt_id=prompt_id, **more)
    )


def test_answers_come_from_ids_and_end_where_the_model_ended_them(chat: ChatFormat) -> None:
    (end,) = chat.end_ids
    ids = tuple(chat.encode("How do I water a fern"))
    ended = completion_of([*ids, end], chat)
    assert (ended.token_ids, ended.stop, ended.text) == (ids, StopReason.END, chat.decode(ids))
    assert completion_of(ids, chat).stop == StopReason.LENGTH
    assert completion_of([end], chat).token_ids == ()
    # what a batch of fixed length leaves behind the end is not part of the answer
    assert completion_of([*ids, end, end, 7], chat) == ended


def test_each_response_gets_its_own_prompts_reward_in_order(chat: ChatFormat) -> None:
    reward, scorer = function(chat)
    logged: dict[str, float] = {}
    lengths, names = [2, 2, 0, 9, 4, 5], ["p", "q", "p", "q", "q", "p"]
    found = call(reward, [[20] * n for n in lengths], names, log_metric=logged.__setitem__, other_column=[1] * 6)
    # p: 2 of 1 2 3 4 is 3/8, an empty one is 0, 5 is 1; q: 2 of 2 4 6 8 is 1/8, nine tokens have no verdict, 4 is 3/8
    assert found == [pytest.approx(x - 0.5) if x is not None else None for x in (3 / 8, 1 / 8, 0, None, 3 / 8, 1)]
    assert scorer.asked == [("p", 3), ("q", 3)]
    assert reward.usage.tokens_fed == sum(lengths)
    assert logged["calibrated/mean"] == pytest.approx((3 / 8 + 1 / 8 + 0 + 3 / 8 + 1) / 5)
    assert logged["unscored/response"] == pytest.approx(1 / 5)
    assert logged["unscored/judge"] == pytest.approx(1 / 6)
    assert logged["calibrated/above_best_anchor"] == pytest.approx(1 / 5)


def test_other_orders_give_the_same_rewards(chat: ChatFormat) -> None:
    lengths, names = [2, 3, 4, 5, 1, 7], ["p", "q", "q", "p", "p", "q"]
    forward = call(function(chat)[0], [[20] * n for n in lengths], names)
    backward = call(function(chat)[0], [[20] * n for n in lengths[::-1]], names[::-1])
    assert forward == backward[::-1]


def test_a_prompt_that_the_reward_does_not_know_is_refused(chat: ChatFormat) -> None:
    with pytest.raises(InputError, match="'z' of the dataset"):
        call(function(chat, expected=1)[0], [[20]], ["z"])


def test_a_policy_that_hides_ends_the_training(chat: ChatFormat) -> None:
    with pytest.raises(ScoringError, match="could not be judged"):
        call(function(chat)[0], [[] for _ in range(80)], ["p", "q"] * 40)


def test_trl_sees_that_it_is_asynchronous(chat: ChatFormat) -> None:
    assert is_async_callable(function(chat)[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_trains_on_it(tmp_path: Path, llama_dir: Path, chat: ChatFormat) -> None:
    """Two steps of TRL's own trainer: its columns arrive, its metrics carry ours, and failures stay apart."""
    reward, scorer = function(chat)
    scorer.everyone.set()
    turns = [{"role": "user", "content": "Hi?"}]
    trainer = RLOOTrainer(
        model=str(llama_dir),
        reward_funcs=reward,
        args=RLOOConfig(
            str(tmp_path),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            per_device_train_batch_size=16,
            num_generations=8,
            max_completion_length=10,
            max_steps=2,
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"prompt": turns, "prompt_id": name} for name in ("p", "q")]),
        callbacks=[],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "calibrated/mean" in entry]
    assert len(steps) == 2
    assert sum(n for _, n in scorer.asked) == 32
    assert reward.usage.tokens_fed > 0
    for entry in steps:
        seen = {"calibrated/above_best_anchor", "calibrated/tied", "unscored/response", "unscored/judge"}
        assert seen <= entry.keys()
        assert 0 <= entry["calibrated/mean"] <= 1


def test_a_scorer_that_loses_count_is_an_error_and_no_other_prompts_reward(chat: ChatFormat) -> None:
    class Careless(Lengths):
        async def score(
            self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage
        ) -> list[Score | Unscored]:
            return [*await super().score(prompt, responses, usage), *[Score(1.0)] * (prompt.id == "p")]

    reward = RewardFunction(Careless(2), CalibratedReward(ANCHORS, Identity()), prompts(), chat)
    with pytest.raises(ScoringError, match="gave 3 verdicts for 2 responses to prompt 'p'"):
        call(reward, [[5, 6], [5], [5, 6, 7]], ["p", "p", "q"])


def test_a_scorer_that_could_not_judge_the_longest_answers_is_refused(chat: ChatFormat) -> None:
    class Limited(Lengths):
        def room(self, prompt: Prompt) -> int:
            return 8 if prompt.id == "q" else 100

    reward = RewardFunction(Limited(2), CalibratedReward(ANCHORS, Identity()), prompts(), chat)
    reward.require_room(8)
    with pytest.raises(ContextOverflow, match="at most 8 tokens to prompt 'q', and they may have 9"):
        reward.require_room(9)
