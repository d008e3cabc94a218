"""The replies of a run with the oracle's quality as their grade: what preference pairs are made of."""

from __future__ import annotations

from pathlib import Path

from inferalign.core.errors import InputError
from inferalign.core.records import read_records
from inferalign.core.results import from_record
from inferalign.core.types import Candidate, Completion, Prompt, Score, StopReason
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.pairs import GradedReplies

UNREAD = Score(0.0)
"""The grade of a reply that cannot be parsed, or that a length limit cut off; what is parsed is worth more."""


def graded_candidates(run: Path) -> list[GradedReplies]:
    """Every prompt of a run folder with all candidates of its procedure, graded from 0 to 11, by prompt id.

    No reply is worse than one that is `UNREAD`: a reward model that never met such text would have no reason to think
    little of it. Raises `InputError` for prompts that the sandbox did not write.
    """
    records = sorted(read_records(run, "generate"), key=lambda record: str(record["id"]))
    return [_graded(result.prompt, result.candidates) for result in map(from_record, records)]


def _graded(prompt: Prompt, candidates: tuple[Candidate, ...]) -> GradedReplies:
    return prompt, [Candidate(completion=c.completion, score=_grade(prompt, c.completion)) for c in candidates]


def _grade(prompt: Prompt, reply: Completion) -> Score:
    verdict = grade(prompt.text, reply.text)
    if verdict.situation is None:
        raise InputError(
            f"prompt {prompt.id!r} is not a request of the sandbox, so the oracle cannot grade its replies; make pairs "
            "from runs over prompts made by `inferalign sandbox sample`"
        )
    whole = reply.stop is StopReason.END
    return Score(verdict.quality) if whole and verdict.quality is not None else UNREAD
