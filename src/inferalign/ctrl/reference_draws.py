"""Fresh draws of the reference, before the first step and now and then: do the anchors still belong to it?

The calibrated reward of a reference draw has mean 1/2, whatever the scorer. Anchors of other weights are refused by
their hash; this finds what no hash sees: a scorer that judges otherwise than it did, an arithmetic or a decoding that
is another in training than where the anchors were drawn. It takes no time from a step's own clock, and its draws have
seeds of their own, so that it changes no training.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import GenerationConfig, TrainerCallback

from inferalign.core.errors import RunError, ScoringError
from inferalign.core.seeds import derive
from inferalign.core.types import TokenIds
from inferalign.ctrl.data import Rendered
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.reward_statistics import STOP_JUDGE, Seen, clearly_above
from inferalign.ctrl.rloo import own_law
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer

DRAWS = 2000
"""Over all prompts and processes, as far as `MOST` allows."""
PROMPTS = 200
MOST = 50
"""Draws of one prompt: they share its anchors, so that more would say little."""
CLOSE = 0.02
"""How far from 1/2 the mean may be where that is more than `CLEAR` standard errors."""
CLEAR = 4.0
PREFIX = "reference/"
"""Of the names in a step's line."""


class ReferenceDraws(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Draws, scores and checks before every `check_every`-th step, and adds what it saw to that step's line."""

    def __init__(
        self, trainer: CtrlTrainer, reward: RewardFunction, rendered: Sequence[Rendered], settings: CtrlSettings
    ) -> None:
        self._trainer, self._reward, self._rendered, self._settings = trainer, reward, rendered, settings
        if trainer.ref_model is not None:
            own_law(trainer.ref_model)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Raises `RunError` when the mean is not 1/2, `ScoringError` when the judge failed on most."""
        step = self._trainer.step
        if step % self._settings.check_every:
            return
        chosen = choose(self._rendered, self._settings.seed, step)
        seen, judged = self._seen(chosen, step)
        for name, value in seen.metrics().items():
            self._trainer.log_before_step(PREFIX + name, value)
        check_judge(seen, step)
        check_half(seen, self._reward.calibration.standard_error(judged), step)

    def _seen(self, chosen: Sequence[Rendered], step: int) -> tuple[Seen, list[str]]:
        """The counts, and the prompt of each draw that has a calibrated reward.

        Every process draws for its share, and all know of all.
        """
        parallel = self._trainer.accelerator
        torch.manual_seed(derive(self._settings.seed, "reference", step, parallel.process_index))
        mine = chosen[parallel.process_index :: parallel.num_processes]
        seen, judged = Seen(), list[str]()
        with reference_of(self._trainer) as model:
            for first in range(0, len(mine), self._settings.at_once):
                part = mine[first : first + self._settings.at_once]
                drawn = self._draw(model, [prompt.token_ids for prompt in part], f"reference draws from {first}")
                asked = [prompt.prompt_id for prompt in part]
                scoring = self._reward.calibrated(asked, drawn)
                found = asyncio.run_coroutine_threadsafe(scoring, self._trainer.async_loop).result()
                seen += found.seen
                judged += [name for name, rank in zip(asked, found.ranks, strict=True) if not np.isnan(rank)]
        names = [each.name for each in fields(Seen)]
        counts = torch.tensor([getattr(seen, name) for name in names], dtype=torch.float64, device=parallel.device)
        return Seen(**dict(zip(names, parallel.reduce(counts, "sum").tolist(), strict=True))), gather_object(judged)

    def _draw(self, model: Any, prompts: Sequence[TokenIds], what: str) -> list[TokenIds]:
        trainer, most = self._trainer, self._settings.max_new_tokens
        if trainer.draws_by_engine:
            return [tuple(row) for row in trainer.draw(model, prompts, what, most)]
        return draw(model, prompts, trainer, most)


def choose(rendered: Sequence[Rendered], seed: int, step: int) -> list[Rendered]:
    """Each of up to `PROMPTS` prompts as often as it is drawn for, in the same order on every process."""
    prompts = random.Random(derive(seed, "reference prompts", step)).sample(rendered, min(len(rendered), PROMPTS))
    return [prompt for prompt in prompts for _ in range(min(MOST, -(-DRAWS // len(prompts))))]


def check_judge(seen: Seen, step: int) -> None:
    """Raises `ScoringError` when the judge failed on most of these draws: what is left says little of the anchors."""
    texts = seen.calibrated + seen.judge
    if seen.judge == texts or clearly_above(seen.judge, texts, STOP_JUDGE):
        raise ScoringError(
            f"before step {step + 1} the judge failed on {seen.judge:.0f} of {texts:.0f} fresh draws of the starting "
            "model: check the judge, then repeat the command"
        )


def check_half(seen: Seen, standard_error: float, step: int) -> None:
    """Raises `RunError` when the mean calibrated reward of reference draws is not 1/2.

    standard_error: of the mean over those of them that were judged.
    """
    allowed = max(CLOSE, CLEAR * standard_error)
    if abs(seen.mean_rank - 0.5) > allowed:
        raise RunError(
            f"before step {step + 1} the mean calibrated reward of {seen.calibrated:.0f} fresh draws of the starting "
            f"model is {seen.mean_rank:.3f}, and it is 0.5 (within {allowed:.3f}) where the anchors are its own: they "
            "are stale, or the scorer no longer judges as it did; draw them again with `inferalign calibrate`"
        )


@contextmanager
def reference_of(trainer: CtrlTrainer) -> Iterator[Any]:
    """The model that KL is measured to: TRL's second copy, or the trained one without its adapter."""
    apart = trainer.ref_model is not None
    model = trainer.accelerator.unwrap_model(trainer.ref_model if apart else trainer.model)
    training = model.training
    with nullcontext() if apart else model.disable_adapter(), torch.no_grad():
        model.eval()
        try:
            yield model
        finally:
            model.train(training)


def draw(model: Any, prompts: Sequence[TokenIds], trainer: CtrlTrainer, max_new_tokens: int) -> list[TokenIds]:
    """One answer to each prompt, as training draws them: temperature 1, all tokens; an end token, if any, included."""
    ends, pad = trainer.eos_token_ids, trainer.processing_class.pad_token_id
    law = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=ends,
        pad_token_id=pad,
        bos_token_id=None,
        disable_compile=True,
    )
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    device = trainer.accelerator.device
    drawn = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=law)
    return [up_to_end(row, ends) for row in drawn[:, width:].tolist()]


def up_to_end(row: Sequence[int], ends: Sequence[int]) -> TokenIds:
    """A row without what fills it up after its first end token."""
    ended = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:ended])
