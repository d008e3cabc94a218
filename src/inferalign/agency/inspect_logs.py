"""Anyone's Inspect log (`.eval`) as items, replies and verdicts: two logs can be compared in pairs, and reported.

A log of our own task gives back exactly what was judged. A foreign one gives the numbers of one of its scorers:

    item      task and sample id; samples without clusters stand alone
    reply     model and epoch, with the conversation's text; a sample that failed has none
    verdict   the score on a stated scale, mapped to 0..10, without letters; Inspect's unscored value is unscored

Samples are read in small groups and without their events, so that a log larger than the memory can be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inferalign.agency.inspect_log_scores import Column, find_column
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.stored import Stored, to_item, to_verdict
from inferalign.core.errors import InferalignError, InputError
from inferalign.core.types import Message
from inferalign.scorers.verdicts import TOP

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary
    from inspect_ai.model import ChatMessage

KIND = "inferalign-agency"
"""In the metadata of our own task's logs."""
SUFFIX = ".eval"
_AT_A_TIME = 64
_LEFT_OUT = {"events", "events_data", "attachments", "timelines", "store"}
_BLAMED_ON_RESPONSE = ("invalid_response_format", "refusal", "no_response")
_FINISH = {"max_tokens": "length", "model_length": "length", "content_filter": "refused", "stop": "stop"}


@dataclass(frozen=True, kw_only=True)
class InspectLog:
    """A log that was read."""

    stored: Stored
    config: Mapping[str, Any]
    """What a report must say of it: task, model, scorer, scale, status, and what a run's `config.json` has of it."""
    failed: int
    """Samples that ended in an error: due, and without a reply."""
    unscored: int
    """Samples with a reply that has no score."""
    missing: int
    """Samples that the log should have and has not: it was interrupted."""
    due: frozenset[str]
    """The ids of the items of all samples that the log should have; nothing is known of an item that none is there of.
    """


@dataclass
class _Records:
    items: dict[str, Item] = field(default_factory=dict)
    replies: list[Reply] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    failed: int = 0


def read_log(path: Path | str, *, scorer: str | None = None, scale: tuple[float, float] | None = None) -> Stored:
    """As `import_log`, the records alone."""
    return import_log(path, scorer=scorer, scale=scale).stored


def import_log(path: Path | str, *, scorer: str | None = None, scale: tuple[float, float] | None = None) -> InspectLog:
    """Read a log.

    Args:
        scorer: whose scores to take, where there are several: `NAME`, or `NAME.KEY` for a scorer of several values.
        scale: the worst and the best score; None is right for our own logs, and for scores that all lie in 0..1.

    Raises `InputError` for a file that is no log, for a choice among scorers that is not made, for scores that are no
    numbers and for a scale that is needed and not given.
    """
    header, summaries = _open(Path(path))
    own = (header.eval.metadata or {}).get("kind") == KIND
    column = None if own else find_column(summaries, scorer, scale, where=str(path))
    records = _Records()
    for sample in _samples(Path(path), summaries):
        if own:
            _add_own(records, sample, header)
        else:
            assert column is not None
            _add_foreign(records, sample, header, column)
    stored = Stored(list(records.items.values()), records.replies, records.verdicts)
    scored = {verdict.reply for verdict in records.verdicts if verdict.score is not None}
    due = header.eval.dataset.sample_ids or ()
    task = _task(header)
    return InspectLog(
        stored=stored,
        config=_config(header, column, Path(path)),
        failed=records.failed,
        unscored=sum(reply.id not in scored for reply in records.replies),
        missing=max(len(due) * (header.eval.config.epochs or 1) - len(summaries), 0),
        due=frozenset({str(name) if own else f"{task}/{name}" for name in due} | records.items.keys()),
    )


def _open(path: Path) -> tuple[EvalLog, Sequence[EvalSampleSummary]]:
    """Header and summaries; neither holds a conversation."""
    if path.suffix != SUFFIX:
        raise InputError(f"{path} is no {SUFFIX} log of Inspect: convert it with inspect log convert --to eval")
    if not path.is_file():
        raise InputError(f"no file {path}: expected a log of Inspect. Check the path.")
    try:
        from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} needs inspect-ai, which is not installed. Type: pip install 'inferalign[agency]'"
        ) from error
    try:
        header, summaries = read_eval_log(path, header_only=True), read_eval_log_sample_summaries(path)
    except Exception as error:  # zip, JSON and schema each fail in their own way
        raise _unreadable(path, error) from error
    # They come in the order in which they ended, which is another one in each log.
    place = {name: number for number, name in enumerate(header.eval.dataset.sample_ids or ())}
    return header, sorted(summaries, key=lambda one: (place.get(one.id, len(place)), one.epoch))


def _samples(path: Path, summaries: Sequence[EvalSampleSummary]) -> Iterator[EvalSample]:
    from inspect_ai.log import read_eval_log_samples_by_id

    places = iter([(summary.id, summary.epoch) for summary in summaries])
    while group := list(islice(places, _AT_A_TIME)):
        try:
            samples = read_eval_log_samples_by_id(path, group, exclude_fields=_LEFT_OUT)
        except Exception as error:  # as above, for what lies further in the file
            raise _unreadable(path, error) from error
        yield from samples


def _unreadable(path: Path, error: Exception) -> InferalignError:
    if isinstance(error, InferalignError):
        return error
    words = " ".join(str(error).split())[:200]
    return InputError(f"{path} cannot be read as a log of Inspect ({type(error).__name__}: {words}).")


def _add_own(records: _Records, sample: EvalSample, header: EvalLog) -> None:
    about = header.eval.metadata or {}
    item = to_item({**sample.metadata["item"], "prompt": sample.input})
    records.items.setdefault(item.id, item)
    if not ended(sample.messages, about["turns"][item.dimension]):
        records.failed += 1
        return
    # A log that was scored again has a score of each scorer, named after it; each has its own judge's verdicts.
    judged = [score.metadata for score in (sample.scores or {}).values() if "verdicts" in (score.metadata or {})]
    facts = judged[0]["reply"] if judged else {}
    reply = Reply(
        item=item.id,
        subject=header.eval.model,
        condition=about["condition"]["name"],
        repeat=sample.epoch - 1,
        conversation=_conversation(sample),
        **{"system_prompt": None, "finish": "other", **facts},
    )
    records.replies.append(reply)
    verdicts = [to_verdict(verdict) for metadata in judged for verdict in metadata["verdicts"]]
    records.verdicts.extend({verdict.id: verdict for verdict in verdicts}.values())


def ended(messages: Sequence[ChatMessage], turns: int) -> bool:
    """Whether a conversation came to its end: all answers are there, or the last one said nothing."""
    answers = [message.text for message in messages if message.role == "assistant"]
    return len(answers) >= turns or (bool(answers) and messages[-1].role == "assistant" and not answers[-1].strip())


def _add_foreign(records: _Records, sample: EvalSample, header: EvalLog, column: Column) -> None:
    task = _task(header)
    item = Item(id=f"{task}/{sample.id}", dimension=task, prompt=_input(sample))
    records.items.setdefault(item.id, item)
    if sample.error is not None:
        records.failed += 1
        return
    system = [message.text for message in sample.messages if message.role == "system"]
    reply = Reply(
        item=item.id,
        subject=header.eval.model,
        condition=header.eval.solver or "default",
        repeat=sample.epoch - 1,
        conversation=_conversation(sample),
        system_prompt="\n\n".join(system) or None,
        finish=_FINISH.get(sample.output.stop_reason, "other") if sample.output.choices else "other",
        seconds=sample.total_time or 0.0,
    )
    records.replies.append(reply)
    score = (sample.scores or {}).get(column.scorer)
    if score is None:
        return
    value = column.value(score.value)
    scored = value is not None and not math.isnan(value)
    blame: Literal["response", "judge"] = "response" if score.reason in _BLAMED_ON_RESPONSE else "judge"
    records.verdicts.append(
        Verdict(
            reply=reply.id,
            judge=column.name,
            judge_repeat=0,
            status="ok" if scored else "unscored",
            letters=None,
            score=column.on_our_scale(value) if value is not None and scored else None,
            assessment=score.explanation or "",
            raw=str(score.value),
            reason="" if scored else str(score.reason or "the log has no score for it"),
            blame="" if scored else blame,
        )
    )


def _task(header: EvalLog) -> str:
    """The task's name without its package."""
    name: str = header.eval.task.rpartition("/")[2]
    return name


def _conversation(sample: EvalSample) -> tuple[Message, ...]:
    """The user's and the assistant's words; what tools said is left out."""
    turns = [message for message in sample.messages if message.role in ("user", "assistant")]
    return tuple(Message(role=turn.role, content=turn.text) for turn in turns)


def _input(sample: EvalSample) -> str:
    if isinstance(sample.input, str):
        return sample.input
    return "\n\n".join(message.text for message in sample.input if message.text)


def _config(header: EvalLog, column: Column | None, path: Path) -> dict[str, Any]:
    said: dict[str, Any] = {
        "kind": "inspect-log",
        "log": path.name,
        "status": header.status,
        "created": str(header.eval.created),
        "task": header.eval.task,
        "task_version": header.eval.task_version,
        "model": header.eval.model,
        "packages": dict(header.eval.packages),
    }
    if column is None:
        return said | {key: value for key, value in (header.eval.metadata or {}).items() if key != "kind"}
    return said | {"scorer": column.name, "scale": [column.low, column.high], "mapped_to": [0, TOP]}
