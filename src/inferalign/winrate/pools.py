"""Pools: M answers a prompt and policy, with what a selector and a judge say of each, as files and as arrays.

A pool is the run folder of an ordinary `inferalign generate --procedure random-of-n:M`: its candidates are plain draws.
`score_pool` leaves a scorer's verdicts in a run folder beside it, resumably, one record a prompt:

    {"id": "p1", "answers": "9f0c...", "values": [0.3, null, 1.2], "unscored": [[1, "timeout", "judge"]]}

`answers` is a fingerprint of the token ids, so that verdicts are never read beside other answers than they are about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferalign.core.config import to_dict
from inferalign.core.environment import environment
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json
from inferalign.core.jobs import QUIET, Progress, run_jobs
from inferalign.core.records import RunFolder, read_records
from inferalign.core.results import from_record
from inferalign.core.seeds import fingerprint
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored
from inferalign.scorers.base import Scorer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

KIND = "scores"


@dataclass(frozen=True)
class Answers:
    """The draws of one policy for one prompt."""

    prompt: Prompt
    completions: tuple[Completion, ...]

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def fingerprint(self) -> str:
        """A name for these answers: their token ids, each with its length."""
        parts = ((len(c.token_ids), *c.token_ids) for c in self.completions)
        return fingerprint(tuple(chain.from_iterable(parts)))


@dataclass(frozen=True, eq=False)
class Verdicts:
    """One scorer's verdicts on M answers of one prompt; arrays have shape [M]."""

    keys: Floats
    """Order keys: scores, and minus infinity where the answer is to blame for having none. Not to be averaged."""
    judged: Bools
    """False where the scorer is to blame for having none: such an answer is left out, and its key means nothing."""

    @classmethod
    def of(cls, verdicts: Sequence[Score | Unscored]) -> Verdicts:
        keys = [verdict.value if isinstance(verdict, Score) else -np.inf for verdict in verdicts]
        judged = [isinstance(verdict, Score) or verdict.blame == "response" for verdict in verdicts]
        return cls(np.array(keys, dtype=np.float64), np.array(judged, dtype=np.bool_))

    @property
    def unscored(self) -> tuple[int, int]:
        """How many have no score: by the answer's fault, and by the scorer's."""
        return int((self.judged & np.isneginf(self.keys)).sum()), int((~self.judged).sum())


@dataclass(frozen=True, eq=False)
class Pool:
    """What win rates and KL of one policy are computed from, by prompt id."""

    selector: Mapping[str, Verdicts]
    judge: Mapping[str, Verdicts]
    log_ratios: Mapping[str, Floats]
    """log pi(y) / p(y) of every answer, p the base model, in nats; [M]. All 0 for the base model itself."""

    def __post_init__(self) -> None:
        if not self.selector.keys() == self.judge.keys() == self.log_ratios.keys() or not self.judge:
            raise InputError("a pool needs a selector's and a judge's verdicts and log ratios on the same prompts")

    def usable(self, prompt_id: str) -> tuple[Floats, Floats]:
        """Order keys of selector and judge over the answers that both judged."""
        selector, judge = self.selector[prompt_id], self.judge[prompt_id]
        kept = selector.judged & judge.judged
        return selector.keys[kept], judge.keys[kept]

    @property
    def unscored(self) -> dict[str, dict[str, int]]:
        """Verdicts that could not be made, by part and by blame."""
        parts = {"selector": self.selector, "judge": self.judge}
        counts = {name: [v.unscored for v in verdicts.values()] for name, verdicts in parts.items()}
        return {
            name: {"response": sum(r for r, _ in found), "judge": sum(j for _, j in found)}
            for name, found in counts.items()
        }


def read_answers(pool: Path, only: Collection[str] | None = None) -> list[Answers]:
    """The answers in a pool's run folder, in the order of prompt ids; `only` to these prompts, if it is given.

    Raises `RunError` for what is no run folder, and `InputError` unless every prompt has the same number of answers,
    two at least, each a plain draw.
    """
    name = str(read_json(pool / "config.json").get("procedure", {}).get("procedure"))
    if name.partition(":")[0] not in ("random-of-n", "best-of-n", "worst-of-n"):
        raise InputError(
            f"{pool} holds answers of {name}, and a pool needs several plain draws a prompt: make one with "
            "`inferalign generate --procedure random-of-n:16`"
        )
    records = (record for record in read_records(pool, "generate") if only is None or record["id"] in only)
    results = [from_record(record) for record in records]
    found = [Answers(r.prompt, tuple(candidate.completion for candidate in r.candidates)) for r in results]
    sizes = sorted({len(each.completions) for each in found})
    if len(sizes) != 1 or sizes[0] < 2:
        raise InputError(f"{pool} has {sizes or 'no'} answers a prompt: a pool needs one number of them, 2 or more")
    return sorted(found, key=lambda each: each.id)


async def score_pool(
    pool: Path,
    folder: Path,
    scorer: Scorer,
    *,
    only: Collection[str] | None = None,
    concurrency: int = 16,
    progress: Progress = QUIET,
) -> dict[str, Verdicts]:
    """Have the answers of a pool (`only` those to these prompts) judged into `folder`, or read there what was, by id.

    Raises `RunError` when `folder` was made from another pool or by another scorer.
    """
    answers = read_answers(pool, only)

    async def judged(each: Answers) -> Mapping[str, Any]:
        usage = RoleUsage()
        verdicts = await scorer.score(each.prompt, each.completions, usage)
        return {
            "values": [verdict.value if isinstance(verdict, Score) else None for verdict in verdicts],
            "unscored": [[i, v.reason, v.blame] for i, v in enumerate(verdicts) if isinstance(v, Unscored)],
            "usage": to_dict(usage),
        }

    decides = {"scorer": to_dict(scorer.describe())}
    records = await beside(
        pool, folder, answers, judged, decides, kind=KIND, concurrency=concurrency, progress=progress
    )
    return {name: _verdicts(record) for name, record in records.items()}


def _verdicts(record: Mapping[str, Any]) -> Verdicts:
    made: list[Score | Unscored | None] = [None if v is None else Score(v) for v in record["values"]]
    for place, reason, blame in record["unscored"]:
        made[place] = Unscored(reason, blame=blame)
    if None in made:
        raise RunError(f"the scores of prompt {record['id']!r} lack one: remove their folder to have them made again")
    return Verdicts.of([verdict for verdict in made if verdict is not None])


async def beside(
    pool: Path,
    folder: Path,
    answers: Sequence[Answers],
    work: Callable[[Answers], Awaitable[Mapping[str, Any]]],
    decides: Mapping[str, Any],
    *,
    kind: str,
    concurrency: int,
    progress: Progress,
) -> dict[str, Mapping[str, Any]]:
    """Do `work` on the answers to every prompt of a pool, one record each in the run folder `folder`, resumably.

    decides: what the results depend on beside the pool, for `config.json`. Returns the records by prompt id. Raises
    `RunError` when the folder was made with other settings or from other answers.
    """
    config = {"pool": read_json(pool / "config.json"), **decides}
    with RunFolder.open(folder, config, environment(), kind=kind) as run:
        todo = [each for each in answers if run.wants(each.id)]
        progress.advance(len(answers) - len(todo))
        await run_jobs(
            todo,
            work,
            on_result=lambda each, found: run.append({"id": each.id, "answers": each.fingerprint, **found}),
            concurrency=concurrency,
            progress=progress,
        )
    records = {record["id"]: record for record in read_records(folder, kind)}
    for each in answers:
        if records[each.id]["answers"] != each.fingerprint:
            raise RunError(
                f"{folder} is about other answers to prompt {each.id!r} than {pool} holds: the pool was drawn again. "
                f"Remove {folder}, then repeat the command"
            )
    return {each.id: records[each.id] for each in answers}
