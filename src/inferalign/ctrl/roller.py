"""One prompt's K reference rollouts: drawn, scored, and scored again where the judge failed.

K draws of a prompt are one unit of work. They share the computation of their prompt (`engines.local`) and are scored in
one call, so that a unit gives the same tokens and scores wherever, whenever and beside whatever it is done. Draw k of a
prompt depends on the seed, the prompt's id and k alone (`procedures.sample`), under a name of its own: the same seed
given to `generate` draws other answers, so that no anchor is met again as a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

from inferalign.core.errors import ContextOverflow, InputError
from inferalign.core.seeds import derive
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored, Usage
from inferalign.ctrl.anchor_quality import check_count
from inferalign.ctrl.anchors import facts
from inferalign.ctrl.rollout_records import Rollouts, why_unscored
from inferalign.ctrl.scored import Scored
from inferalign.engines.base import Engine
from inferalign.engines.chat import ChatFormat
from inferalign.engines.table import ModelOptions, is_sandbox, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.sample import draw
from inferalign.scorers.base import TRUTHS, Scorer, require_room
from inferalign.scorers.table import build_scorer


@dataclass(frozen=True, kw_only=True)
class Job:
    """What draws and scores, before anything is loaded: plain values, so that another process can load it."""

    model: str
    scorer: str
    k: int
    seed: int
    sampling: Sampling
    options: ModelOptions = field(default_factory=ModelOptions)
    allow_oracle_guide: bool = False

    def __post_init__(self) -> None:
        """Raises `InputError` for what can be seen to be wrong before anything is loaded."""
        _check(self.k, self.sampling)
        if self.scorer in TRUTHS and not self.allow_oracle_guide:
            raise InputError(
                "the oracle knows the truth that training is measured by, so that training on it measures nothing: "
                "give --scorer reward, or --allow-oracle-guide for the best that any reward could do"
            )

    def load(self) -> Roller:
        """Model and reward, ready to draw and score. Raises `ModelError` and `InputError` as their loaders do."""
        loaded = load(self.model, self.options)
        scorer = build_scorer(
            self.scorer,
            engine=loaded.engine,
            chat=loaded.chat,
            sandbox=is_sandbox(loaded.engine.name),
            options=self.options,
        )
        return Roller(loaded.engine, loaded.chat, scorer, k=self.k, seed=self.seed, sampling=self.sampling)


class Stored(NamedTuple):
    """Rollouts that were drawn, of a prompt on which the judge failed."""

    prompt: Prompt
    rollouts: Rollouts

    @property
    def id(self) -> str:
        return self.prompt.id


class Roller:
    """Draws and scores the K rollouts of one prompt after the other, or of several at once."""

    def __init__(
        self, engine: Engine, chat: ChatFormat, scorer: Scorer, *, k: int, seed: int, sampling: Sampling
    ) -> None:
        """Raises `InputError` for fewer than 2 rollouts, and for temperature 0."""
        _check(k, sampling)
        self.engine = engine
        self.chat = chat
        self.scorer = scorer
        self.k = k
        self.seed = seed
        self.sampling = sampling

    def facts(self) -> dict[str, Any]:
        """What the card says of model, template, sampling and scorer. Raises `InputError`, see `anchors.facts`."""
        return facts(self.engine, self.chat, self.scorer, self.sampling)

    def check_room(self, prompts: Sequence[Prompt]) -> None:
        """Raises `ContextOverflow` for a prompt beside which the context has no room for the longest answer.

        Its answers would end at the context, although the card says at `max_new_tokens`, and training refuses it
        (`ctrl.data.render`). So too where the scorer's context has none (`scorers.base.require_room`). Raises
        `InputError` for one that the chat template refuses.
        """
        context, longest = self.engine.context_length, self.sampling.max_new_tokens
        taken = dict[str, int]()
        for prompt in prompts:
            try:
                taken[prompt.id] = len(self.chat.prompt_ids(prompt))
            except InputError as error:
                raise InputError(f"prompt {prompt.id!r}: {error}") from error
        if long := [name for name, tokens in taken.items() if tokens + longest > context]:
            more = f" ({len(long)} prompts are too long)" if len(long) > 1 else ""
            raise ContextOverflow(
                f"prompt {long[0]!r} has {taken[long[0]]} tokens, and the model's context of {context} has no room for "
                f"{longest} more{more}: shorten it, leave it out, or give a smaller --max-new-tokens"
            )
        require_room(self.scorer, prompts, longest)

    async def __call__(self, prompt: Prompt) -> Rollouts:
        """Raises `ContextOverflow` for a prompt that fills the context, `InputError` for a score that is not finite."""
        started, usage = perf_counter(), Usage()
        root = derive(self.seed, "anchors")
        drawn = await draw(
            self.engine, self.chat, prompt, self.k, seed=root, sampling=self.sampling, usage=usage.generator
        )
        verdicts = await self._verdicts(prompt, drawn, usage.evaluator)
        reasons, judge_reasons = why_unscored(verdicts)
        return Rollouts(
            prompt_id=prompt.id,
            token_ids=tuple(completion.token_ids for completion in drawn),
            logprobs=tuple(completion.logprob for completion in drawn),
            stops=tuple(completion.stop for completion in drawn),
            scores=Scored.of(verdicts),
            reasons=reasons,
            judge_reasons=judge_reasons,
            determinism=self.engine.determinism,
            usage=usage,
            seconds=perf_counter() - started,
        )

    async def score_again(self, stored: Stored) -> Rollouts:
        """The same rollouts with new verdicts where the judge failed. Nothing is drawn. Raises as a call does."""
        started, spent = perf_counter(), RoleUsage()
        prompt, rollouts = stored
        answers = [
            Completion(
                token_ids=rollouts.token_ids[draw],
                text=self.chat.decode(rollouts.token_ids[draw]),
                stop=rollouts.stops[draw],
                logprob=rollouts.logprobs[draw],
            )
            for draw in rollouts.failed
        ]
        verdicts = await self._verdicts(prompt, answers, spent)
        return rollouts.scored_again(verdicts, spent, perf_counter() - started)

    async def _verdicts(
        self, prompt: Prompt, answers: Sequence[Completion], spent: RoleUsage
    ) -> list[Score | Unscored]:
        verdicts = await self.scorer.score(prompt, answers, spent)
        if len(verdicts) != len(answers):
            raise InputError(
                f"the scorer {self.scorer.name!r} gave {len(verdicts)} verdicts on {len(answers)} responses"
            )
        self.engine.forget(self.chat.prompt_ids(prompt))
        return verdicts


def _check(k: int, sampling: Sampling) -> None:
    check_count(k)
    if sampling.temperature == 0:
        raise InputError(f"temperature is 0, and {k} rollouts would be one answer {k} times: give --temperature 1")
