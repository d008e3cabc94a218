"""Reference rollouts: K draws a prompt from the model that training starts from, scored, recorded as they come.

One prompt's K draws are one unit of work. They share the computation of their prompt (`engines.local`) and are scored
in one call, so that a unit gives the same tokens and scores wherever, whenever and beside whatever it is done. Draw k
of a prompt depends on the seed, the prompt's id and k alone (`procedures.sample`), under a name of its own: the same
seed given to `generate` draws other answers, so that no anchor is met again as a sample.

What the judge failed on is scored again when the command is repeated, from the tokens that were kept. The verdicts that
stand are not asked for twice. So a run whose judge failed for a while ends as one whose judge never did: in the same
rollouts, and in the same scores up to the rounding of a smaller call.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from inferalign.core.environment import environment
from inferalign.core.errors import ContextOverflow, InputError
from inferalign.core.jobs import QUIET, Progress, check_concurrency, run_jobs
from inferalign.core.records import RunFolder
from inferalign.core.seeds import derive
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored, Usage
from inferalign.ctrl.anchor_quality import check_count
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, facts, prompts_sha256
from inferalign.ctrl.rollout_records import (
    KIND,
    RESCORED,
    RESCORED_KIND,
    Rollouts,
    gather,
    read_rescored,
    read_rollouts,
    to_record,
    to_rescored,
    why_unscored,
)
from inferalign.ctrl.scored import Scored
from inferalign.engines.base import Engine
from inferalign.engines.chat import ChatFormat
from inferalign.engines.table import ModelOptions, is_sandbox, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.sample import draw
from inferalign.scorers.base import TRUTHS, Scorer
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

    def check_room(self, prompts: Iterable[Prompt]) -> None:
        """Raises `ContextOverflow` for a prompt beside which the context has no room for the longest answer.

        Its answers would end at the context, although the card says at `max_new_tokens`, and training refuses it
        (`ctrl.data.render`). Raises `InputError` for one that the chat template refuses.
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


class Source(Protocol):
    """Where rollouts come from: this process (`Local`), or a Ray cluster (`ray_rollouts.OnRay`)."""

    def facts(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """As `Roller.facts`, for prompts that have room. Raises as it does, and as `Roller.check_room` does."""
        ...

    def make(self, prompts: Sequence[Prompt], keep: Callable[[Mapping[str, Any]], None], progress: Progress) -> None:
        """Give the record of each prompt's rollouts to `keep`, as they come. Raises `RunError` when some failed."""
        ...

    def score_again(
        self, stored: Iterable[Stored], keep: Callable[[Mapping[str, Any]], None], progress: Progress
    ) -> None:
        """As `make`, of rollouts that were drawn before, with `Roller.score_again`'s verdicts."""
        ...


class Local:
    """Rollouts made in this process, `concurrency` prompts in flight."""

    def __init__(self, roller: Roller, concurrency: int) -> None:
        check_concurrency(concurrency)
        self.roller = roller
        self.concurrency = concurrency

    def facts(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        self.roller.check_room(prompts)
        return self.roller.facts()

    def make(self, prompts: Sequence[Prompt], keep: Callable[[Mapping[str, Any]], None], progress: Progress) -> None:
        asyncio.run(
            run_jobs(
                prompts,
                self.roller,
                on_result=lambda _, rollouts: keep(to_record(rollouts)),
                concurrency=self.concurrency,
                progress=progress,
            )
        )

    def score_again(
        self, stored: Iterable[Stored], keep: Callable[[Mapping[str, Any]], None], progress: Progress
    ) -> None:
        asyncio.run(
            run_jobs(
                stored,
                self.roller.score_again,
                on_result=lambda _, rollouts: keep(to_record(rollouts)),
                concurrency=self.concurrency,
                progress=progress,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run folder holds when its command ends."""

    anchors: AnchorSet | None
    """None while other shards still have prompts to do."""
    finished: int
    """Prompts recorded, in all shards."""
    reasons: Mapping[str, int]
    """Why scores are missing, the most frequent first."""
    tokens_per_second: float | None
    """Of the tokens drawn by this command, scoring included; None when nothing was left to draw."""
    scored_again: int
    """Rollouts of earlier commands that the judge had failed on, and that it was asked about again by this one."""


def calibrate(
    source: Source,
    prompts: Sequence[Prompt],
    run: Path | str,
    *,
    k: int,
    seed: int,
    shard: str | None = None,
    progress: Progress = QUIET,
) -> Outcome:
    """Make the rollouts that the run folder lacks, and the anchors once all are there.

    Rollouts of an earlier command that the judge failed on are scored again; one that it fails on now waits for the
    next time.

    `k` and `seed` are those of `source`. Raises `RunError` when the folder was made by another configuration (naming
    what differs), when it is being written, or when prompts failed (the others are kept); before anything is drawn,
    `ContextOverflow` for a prompt without room for an answer of `max_new_tokens`.
    """
    card = AnchorCard(**source.facts(prompts), prompts_sha256=prompts_sha256(prompts), k=k, seed=seed)
    drawn, rate = Counter[str](), None
    began = time.monotonic()
    with RunFolder.open(Path(run), card.decisive(), environment(), shard, KIND) as folder:
        mine = [prompt for prompt in prompts if folder.shard.takes(prompt.id)]
        todo = [prompt for prompt in mine if folder.wants(prompt.id)]
        counts = {each.prompt_id: len(each.failed) for each in read_rollouts(run)}
        failed = [prompt for prompt in mine if counts.get(prompt.id)]
        progress.advance(len(mine) - len(todo) - len(failed))

        def keep(record: Mapping[str, Any]) -> None:
            folder.append(record)
            drawn["tokens"] += record["usage"]["generator"]["new_tokens"]

        if todo:
            source.make(todo, keep, progress)
            rate = drawn["tokens"] / (time.monotonic() - began)
        if failed:
            with RunFolder.open(Path(run) / RESCORED, card.decisive(), environment(), shard, RESCORED_KIND) as later:
                _score_again(source, failed, folder.path, later, progress)
    anchors, finished, reasons = gather(Path(run), card, prompts)
    return Outcome(
        anchors=anchors,
        finished=finished,
        reasons=reasons,
        tokens_per_second=rate,
        scored_again=sum(counts[prompt.id] for prompt in failed),
    )


def _score_again(source: Source, failed: Sequence[Prompt], run: Path, later: RunFolder, progress: Progress) -> None:
    """Ask the judge again about what it failed on, and keep each prompt's verdicts in `later` as they come."""
    asked = {prompt.id: prompt for prompt in failed}
    attempts = {name: line["attempt"] for name, line in read_rescored(run).items()}
    # Read as they are asked for: a judge that was away for long leaves more rollouts than memory may hold.
    stored = (Stored(asked[each.prompt_id], each) for each in read_rollouts(run) if each.prompt_id in asked)
    source.score_again(
        stored,
        lambda record: later.append(to_rescored(record, attempts.get(record["id"], 0) + 1)),
        progress,
    )
