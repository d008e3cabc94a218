"""The two trainers that `ctrl_step` lays side by side, with everything that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
)
from trl import RLOOConfig, RLOOTrainer

from benchmarks.speed_model import build_tokenizer, words
from inferalign.core.seeds import derive
from inferalign.core.types import Message, Prompt, RoleUsage, Score
from inferalign.ctrl.data import dataset, render
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_function import RewardFunction, completion_of
from inferalign.ctrl.rloo import own_law, rloo_arguments
from inferalign.ctrl.scored import Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.table import SANDBOX, LoadedModel, ModelOptions, load, shipped_model
from inferalign.engines.weights import quiet
from inferalign.sandbox.world import prompts as sandbox_prompts
from inferalign.scorers.reward_model import RewardModel, load_reward
from inferalign.theory.transforms import Exponential

RESPONSES, GENERATIONS, TOKENS, ANCHORS = 64, 16, 24, 128
EACH = RESPONSES // GENERATIONS
"""Prompts a step."""
SEED = 0
SKIPPED = 1
"""Steps that count as taken before: the very first one checks what anchors that are made up cannot hold."""


def build(folder: Path) -> None:
    """A random model of the sandbox's shape, 2.7M parameters; its answers end by length alone."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = build_tokenizer(2048)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)


def build_reward(model: str, folder: Path) -> None:
    """The policy's body under a random head."""
    torch.manual_seed(SEED)
    with quiet():
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=1).save_pretrained(folder)
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)


class BareReward:
    """The reward model as a user of TRL would give it: scores as they are, a prompt's responses in one call."""

    __name__ = "reward"

    def __init__(self, scorer: RewardModel, prompts: Sequence[Prompt], model: LoadedModel) -> None:
        self._scorer, self._chat = scorer, model.chat
        self._prompts = {prompt.id: prompt for prompt in prompts}

    async def __call__(
        self, *, completion_ids: Sequence[Sequence[int]], prompt_id: Sequence[str], **_: Any
    ) -> list[float | None]:
        found: list[float | None] = []
        for first in range(0, len(completion_ids), GENERATIONS):
            replies = [completion_of(ids, self._chat) for ids in completion_ids[first : first + GENERATIONS]]
            verdicts = await self._scorer.score(self._prompts[prompt_id[first]], replies, RoleUsage())
            found += [verdict.value if isinstance(verdict, Score) else None for verdict in verdicts]
        return found


class Responses:
    """What the first of the trainers drew in a step; the other is given it in the place of its own."""

    def __init__(self) -> None:
        self._of: dict[int, Any] = {}

    def agreed(self, step: int, drawn: Any) -> Any:
        return self._of.setdefault(step, drawn)


class Bare(RLOOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """TRL's trainer as it is, but for telling nobody that it ran, and for the responses that it goes on with."""

    def __init__(self, *args: Any, responses: Responses, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        self.drawn: list[Any] = []
        self._responses = responses

    def _send_telemetry(self) -> None:
        """As in `CtrlTrainer`."""

    def _generate_single_turn(self, *args: Any) -> Any:
        step = self.state.global_step + SKIPPED
        torch.manual_seed(derive(SEED, "draws", step, 0))
        self.drawn.append(self._responses.agreed(step, super()._generate_single_turn(*args)))
        return self.drawn[-1]


class Timed(CtrlTrainer):
    """CTRL's trainer with a clock at each of its parts, which costs nothing beside them."""

    def __init__(self, *args: Any, responses: Responses, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: dict[str, list[float]] = {}
        self.drawn: list[Any] = []
        self._responses = responses

    def _clocked(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = work()
        self.parts.setdefault(name, []).append(time.process_time() - began)
        return found

    def _generate_single_turn(self, *args: Any) -> Any:
        drawn = self._clocked("draws", lambda: super(Timed, self)._generate_single_turn(*args))
        self.drawn.append(self._responses.agreed(self.step, drawn))
        return self.drawn[-1]

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        trains = torch.is_grad_enabled()
        name = "forward" if trains else "reference" if model is self.ref_model else "old log-probabilities"
        work = super()._get_per_token_logps_and_entropies
        return self._clocked(name, lambda: work(model, *args, **kwargs))

    def _calculate_rewards(self, *args: Any) -> Any:
        return self._clocked("rewards", lambda: super(Timed, self)._calculate_rewards(*args))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._clocked("training step", lambda: super(Timed, self).training_step(*args, **kwargs))


class Setting:
    """What both trainers share: model, prompts, reward model, arguments."""

    def __init__(self, model: str | None, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.name = str(shipped_model()) if model == SANDBOX else model or str(folder / "model")
        if model is None:
            build(folder / "model")
        self.loaded = load(self.name, ModelOptions(device="cpu"))  # says what is wrong with a name better than below
        build_reward(self.name, folder / "reward")
        self.reward = load_reward(folder / "reward", policy=self.loaded.chat)
        count = EACH * (steps + SKIPPED)
        self.prompts = made_up(count) if model is None else sandbox_prompts("harmful", count, SEED, "train")
        self.settings = CtrlSettings(
            seed=SEED,
            steps=steps + SKIPPED,
            warmup=0,
            batch_size=RESPONSES,
            generations=GENERATIONS,
            max_new_tokens=TOKENS if model is None else 96,
            learning_rate=1e-30,  # the weights stay: no float is moved by it
        )
        self.rendered = render(self.prompts, self.loaded.chat, room=512)
        self.responses = Responses()

    def bare(self) -> Any:
        """TRL alone: it is given texts, and the raw reward."""
        reward = BareReward(self.reward, self.prompts, self.loaded)
        model, tokenizer, config = self._parts("bare", self.steps)
        rows = self.rendered[EACH * SKIPPED :]
        texts = [tokenizer.decode(row.token_ids, skip_special_tokens=False) for row in rows]
        data = Dataset.from_dict({"prompt": texts, "prompt_id": [row.prompt_id for row in rows]})
        with quiet():
            return Bare(model, reward, config, data, processing_class=tokenizer, responses=self.responses)

    def ctrl(self) -> Timed:
        """Calibrated against made-up anchors: what they say costs the same whatever it is."""
        draw = np.random.default_rng(SEED)
        ids = tuple(prompt.id for prompt in self.prompts)
        held = HeldAnchors(ids, Scored.all_scored(draw.normal(size=(len(ids), ANCHORS))))
        calibrated = CalibratedReward(held, Exponential(10.0))
        reward = RewardFunction(self.reward, calibrated, self.prompts, self.loaded.chat)
        model, tokenizer, config = self._parts("ctrl", self.steps + SKIPPED)
        with quiet():
            rows = dataset(self.rendered, range(len(self.rendered)))
            made = Timed(model, reward, config, rows, tokenizer, seed=SEED, responses=self.responses)
        made.skip(SKIPPED)
        return made

    def _parts(self, name: str, steps: int) -> tuple[Any, Any, RLOOConfig]:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(self.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(self.name)
        own_law(model)
        return model, tokenizer, RLOOConfig(**rloo_arguments(self.settings, self.folder / name, steps=steps, beta=0.1))


def made_up(count: int) -> list[Prompt]:
    """Prompts of as many tokens as the sandbox's, 15."""
    texts = [words(10 + 7 * i, 15) for i in range(count)]
    return [Prompt(id=f"p{i}", messages=(Message(role="user", content=text),)) for i, text in enumerate(texts)]
