"""A calibrated reward as a reward function of TRL: asynchronous, on token ids, with every failure told apart.

TRL (1.16) awaits `f(prompts=, completions=, completion_ids=, **columns)` with the columns of the dataset as lists, one
entry a response. `None` in what it returns excludes the response from its group's baseline and gives it advantage 0,
and with it no KL term: right for a judge's failure, and a place to hide for a response that cannot be judged, which
therefore gets the worst reward instead (`ctrl.reward`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError, ScoringError
from inferalign.core.types import Completion, Prompt, RoleUsage, StopReason
from inferalign.ctrl.reward import Calibrated, CalibratedReward
from inferalign.ctrl.reward_statistics import Watch
from inferalign.ctrl.scored import Scored
from inferalign.engines.chat import ChatFormat
from inferalign.scorers.base import Scorer, require_room


class RewardFunction:
    """What to give TRL as `reward_funcs`. The dataset must have a column `prompt_id`."""

    def __init__(self, scorer: Scorer, reward: CalibratedReward, prompts: Iterable[Prompt], chat: ChatFormat) -> None:
        """prompts: those of the dataset. chat: of the model that is trained, to read its tokens.

        Raises `InputError` for a prompt that the reward has no usable anchors of.
        """
        self._scorer, self._reward, self._chat = scorer, reward, chat
        self._prompts = {prompt.id: prompt for prompt in prompts}
        reward.require(self._prompts)
        self.usage = RoleUsage()
        """What scoring has cost so far, in this process and those that it goes on from."""
        self.watch = Watch(reward.anchors_of)
        """What was seen of late; it raises the alarms."""

    @property
    def name(self) -> str:
        """The scorer's."""
        return self._scorer.name

    def require_room(self, longest: int) -> None:
        """Raises `ContextOverflow` where the scorer could not judge answers of so many tokens."""
        require_room(self._scorer, self._prompts.values(), longest)

    @property
    def calibration(self) -> CalibratedReward:
        return self._reward

    async def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        prompt_id: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_columns: Any,
    ) -> list[float | None]:
        """One reward a response, in order; None where the judge failed.

        The answers are built from `completion_ids`, because text lacks special tokens and may encode to others. Each
        prompt's answers are scored together, and all prompts at once. Raises `InputError` for an unknown prompt id,
        `ScoringError` when the watch has seen enough, and what the scorer raises.
        """
        found = await self.calibrated(prompt_id, completion_ids)
        self.watch.add(found.seen, prompt_id)
        if log_metric is not None:
            for name, value in found.seen.metrics().items():
                log_metric(name, value)
        return or_none(found.rewards)

    async def calibrated(self, prompt_id: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> Calibrated:
        """What `__call__` finds of responses to these prompts, without the watch's taking note of them."""
        completions = [completion_of(ids, self._chat) for ids in completion_ids]
        return self._reward.calibrated(prompt_id, await self._scored(prompt_id, completions))

    async def _scored(self, prompt_ids: Sequence[str], completions: Sequence[Completion]) -> Scored:
        places = _places(prompt_ids)
        parts = await asyncio.gather(
            *(self._verdicts(name, [completions[i] for i in at]) for name, at in places.items())
        )
        order = np.argsort([i for at in places.values() for i in at])
        together = Scored.concatenate(parts)
        return Scored(together.values[order], together.blame[order])

    async def _verdicts(self, prompt_id: str, completions: Sequence[Completion]) -> Scored:
        if prompt_id not in self._prompts:
            raise InputError(f"prompt {prompt_id!r} of the dataset is not among the prompts that the reward was given")
        verdicts = await self._scorer.score(self._prompts[prompt_id], completions, self.usage)
        if len(verdicts) != len(completions):
            raise ScoringError(
                f"the scorer gave {len(verdicts)} verdicts for {len(completions)} responses to prompt {prompt_id!r}: "
                "it has to give one for each, in order"
            )
        return Scored.of(verdicts)


def completion_of(token_ids: Sequence[int], chat: ChatFormat) -> Completion:
    """An answer as a trainer drew it: up to its first end-of-text token, or cut off without one."""
    ended = next((at for at, token in enumerate(token_ids) if token in chat.end_ids), None)
    ids = tuple(int(token) for token in token_ids[:ended])
    stop = StopReason.LENGTH if ended is None else StopReason.END
    return Completion(token_ids=ids, text=chat.decode(ids), stop=stop)


def or_none(rewards: NDArray[np.float64]) -> list[float | None]:
    """Rewards as TRL takes them: None where there is none (NaN)."""
    return [None if np.isnan(reward) else float(reward) for reward in rewards]


def _places(prompt_ids: Sequence[str]) -> Mapping[str, list[int]]:
    """Where each prompt's responses stand."""
    places: dict[str, list[int]] = {}
    for at, name in enumerate(prompt_ids):
        places.setdefault(name, []).append(at)
    return places
