"""The run: every reply that is due, and every verdict on it, one unit at a time, resumable at any moment.

Replies and verdicts are one stream of jobs, verdicts first: a verdict is asked for as soon as its reply is recorded,
so a subject and a judge at two endpoints work at the same time, and `concurrency` bounds the calls of both together.
What an endpoint could not deliver is repeated (`ATTEMPTS` times in all, with back-off); what still fails is reported
at the end, is in no record, and is done when the command is repeated. Errors are never judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inferalign.agency.judge import Judge, judged
from inferalign.agency.models import run_wide
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.respond import ReplyJob, respond
from inferalign.agency.run_folder import AgencyFolder
from inferalign.agency.stored import to_record
from inferalign.agency.subject import Subject
from inferalign.core.group_sync import GroupSync
from inferalign.core.jobs import QUIET, Progress, run_jobs
from inferalign.core.types import RoleUsage

ATTEMPTS = 12
BASE_DELAY = 0.5
"""Seconds before the second attempt, about; it doubles."""


@dataclass(frozen=True, kw_only=True)
class VerdictJob:
    item: Item
    reply: Reply
    judge: Judge
    repeat: int

    @property
    def id(self) -> str:
        """That of the verdict."""
        return f"{self.reply.id}/{self.judge.name}/{self.repeat}"


Job = ReplyJob | VerdictJob


class Stages(NamedTuple):
    """Where the progress of each stage goes."""

    replies: Progress
    verdicts: Progress


UNWATCHED = Stages(QUIET, QUIET)


class _Work:
    """What is to be done next: a verdict that can be asked for, else a reply that is due.

    It may be empty now and not later: `run_jobs` asks again while a reply is in flight, which brings its verdicts.
    """

    def __init__(self, due: Iterator[ReplyJob], ready: deque[VerdictJob]) -> None:
        self._due = due
        self.ready = ready

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        return self.ready.popleft() if self.ready else next(self._due)


class _Notes:
    """The free text of `run_jobs` goes to the screen; finished units are counted by stage elsewhere."""

    def __init__(self, to: Progress) -> None:
        self.note = to.note

    def advance(self, n: int = 1) -> None:
        pass


async def run(
    due: Sequence[ReplyJob],
    subject: Subject,
    judges: Sequence[Judge],
    folder: AgencyFolder,
    recorded: Mapping[str, Reply],
    *,
    judge_repeats: int,
    concurrency: int,
    base_delay: float = BASE_DELAY,
    stages: Stages = UNWATCHED,
) -> None:
    """Make what the folder lacks of the replies `due` and of the judges' verdicts on them.

    Args:
        recorded: `folder.recorded()`, the replies that are not due any more.

    Raises `RunError` when some failed, after the others are recorded, and when a budget has no more room.
    """
    usage = RoleUsage()

    def verdicts_of(item: Item, reply: Reply) -> list[VerdictJob]:
        jobs = [
            VerdictJob(item=item, reply=reply, judge=judge, repeat=repeat)
            for judge in judges
            for repeat in range(judge_repeats)
        ]
        return [job for job in jobs if folder.verdicts[job.judge.name].wants(job.id)]

    work = _Work(
        due=(job for job in due if job.id not in recorded),
        ready=deque(each for job in due if job.id in recorded for each in verdicts_of(job.item, recorded[job.id])),
    )
    for progress, done in (
        (stages.replies, len(recorded)),
        (stages.verdicts, sum(len(stage.done) for stage in folder.verdicts.values())),
    ):
        if done:
            progress.advance(done)

    async def do(job: Job) -> Reply | Verdict:
        if isinstance(job, ReplyJob):
            return await respond(job, subject)
        return await judged(job.judge, job.item, job.reply, repeat=job.repeat, usage=usage)

    with GroupSync([folder.replies, *folder.verdicts.values()]) as records:

        def keep(job: Job, made: Reply | Verdict) -> None:
            if isinstance(job, ReplyJob) and isinstance(made, Reply):
                records.append(folder.replies, to_record(made))
                work.ready.extend(verdicts_of(job.item, made))
                stages.replies.advance()
            elif isinstance(made, Verdict):
                records.append(folder.verdicts[made.judge], to_record(made))
                stages.verdicts.advance()

        await run_jobs(
            work,
            run_wide(do),
            on_result=keep,
            concurrency=concurrency,
            retries=ATTEMPTS - 1,
            base_delay=base_delay,
            progress=_Notes(stages.replies),
            what="replies and verdicts",
        )
