"""Reference rollouts: K draws a prompt from the model that training starts from, scored, recorded as they come.

What the judge failed on is scored again when the command is repeated, from the tokens that were kept. The verdicts that
stand are not asked for twice. So a run whose judge failed for a while ends as one whose judge never did: in the same
rollouts, and in the same scores up to the rounding of a smaller call.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from inferalign.core.environment import environment
from inferalign.core.jobs import QUIET, Progress, check_concurrency, run_jobs
from inferalign.core.records import RunFolder
from inferalign.core.types import Prompt
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, prompts_sha256
from inferalign.ctrl.roller import Roller, Stored
from inferalign.ctrl.rollout_records import (
    KIND,
    RESCORED,
    RESCORED_KIND,
    gather,
    read_rescored,
    read_rollouts,
    to_record,
    to_rescored,
)


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


def save_latest(made: Outcome, run: Path | str, prompts: Sequence[Prompt]) -> Outcome:
    """Save a run's anchors, and again while another shard has added verdicts since they were gathered.

    Returns the outcome with the anchors that were saved in the end, and the reasons of what they lack.
    """
    while made.anchors is not None:
        made.anchors.save(run)
        latest, _, reasons = gather(Path(run), made.anchors.card, prompts)
        if latest is None or latest.card.digest == made.anchors.card.digest:
            break
        made = replace(made, anchors=latest, reasons=reasons)
    return made


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
