"""Reference rollouts: K draws a prompt from the model that training starts from, scored, recorded as they come.

One prompt's K draws are one unit of work. They share the computation of their prompt (`engines.local`) and are scored
in one call, so that a unit gives the same tokens and scores wherever, whenever and beside whatever it is done. Draw k
of a prompt depends on the seed, the prompt's id and k alone (`procedures.sample`), under a name of its own: the same
seed given to `generate` draws other answers, so that no anchor is met again as a sample.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from inferalign.core.environment import environment
from inferalign.core.errors import InputError
from inferalign.core.jobs import QUIET, Progress, check_concurrency, run_jobs
from inferalign.core.records import RunFolder
from inferalign.core.seeds import derive
from inferalign.core.types import Prompt, Unscored, Usage
from inferalign.ctrl.anchor_quality import check_count
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, facts, prompts_sha256
from inferalign.ctrl.rollout_records import KIND, Rollouts, gather, to_record
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

    async def __call__(self, prompt: Prompt) -> Rollouts:
        """Raises `ContextOverflow` for a prompt that fills the context, `InputError` for a score that is not finite."""
        started, usage = perf_counter(), Usage()
        root = derive(self.seed, "anchors")
        drawn = await draw(
            self.engine, self.chat, prompt, self.k, seed=root, sampling=self.sampling, usage=usage.generator
        )
        verdicts = await self.scorer.score(prompt, drawn, usage.evaluator)
        if len(verdicts) != len(drawn):
            raise InputError(f"the scorer {self.scorer.name!r} gave {len(verdicts)} verdicts on {len(drawn)} responses")
        self.engine.forget(self.chat.prompt_ids(prompt))
        return Rollouts(
            prompt_id=prompt.id,
            token_ids=tuple(completion.token_ids for completion in drawn),
            logprobs=tuple(completion.logprob for completion in drawn),
            stops=tuple(completion.stop for completion in drawn),
            scores=Scored.of(verdicts),
            reasons=Counter(verdict.reason for verdict in verdicts if isinstance(verdict, Unscored)),
            determinism=self.engine.determinism,
            usage=usage,
            seconds=perf_counter() - started,
        )


def _check(k: int, sampling: Sampling) -> None:
    check_count(k)
    if sampling.temperature == 0:
        raise InputError(f"temperature is 0, and {k} rollouts would be one answer {k} times: give --temperature 1")


class Source(Protocol):
    """Where rollouts come from: this process (`Local`), or a Ray cluster (`ray_rollouts.OnRay`)."""

    def facts(self) -> dict[str, Any]:
        """As `Roller.facts`."""
        ...

    def make(self, prompts: Sequence[Prompt], keep: Callable[[Mapping[str, Any]], None], progress: Progress) -> None:
        """Give the record of each prompt's rollouts to `keep`, as they come. Raises `RunError` when some failed."""
        ...


class Local:
    """Rollouts made in this process, `concurrency` prompts in flight."""

    def __init__(self, roller: Roller, concurrency: int) -> None:
        check_concurrency(concurrency)
        self.roller = roller
        self.concurrency = concurrency

    def facts(self) -> dict[str, Any]:
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

    `k` and `seed` are those of `source`. Raises `RunError` when the folder was made by another configuration (naming
    what differs), when it is being written, or when prompts failed (the others are kept).
    """
    card = AnchorCard(**source.facts(), prompts_sha256=prompts_sha256(prompts), k=k, seed=seed)
    drawn = Counter[str]()
    began = time.monotonic()
    with RunFolder.open(Path(run), card.decisive(), environment(), shard, KIND) as folder:
        mine = [prompt for prompt in prompts if folder.shard.takes(prompt.id)]
        todo = [prompt for prompt in mine if folder.wants(prompt.id)]
        progress.advance(len(mine) - len(todo))

        def keep(record: Mapping[str, Any]) -> None:
            folder.append(record)
            drawn["tokens"] += record["usage"]["generator"]["new_tokens"]

        if todo:
            source.make(todo, keep, progress)
    rate = drawn["tokens"] / (time.monotonic() - began) if todo else None
    anchors, finished, reasons = gather(Path(run), card, prompts)
    return Outcome(anchors=anchors, finished=finished, reasons=reasons, tokens_per_second=rate)
