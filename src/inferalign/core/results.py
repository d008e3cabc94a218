"""Results as records and back: the one description of a `generate` record's fields.

A record holds JSON values only. `Score` becomes `{"value": v}`, `Unscored` becomes `{"unscored": reason, "blame": who}`
and "not scored at all" stays null, so that no reader can take a missing judgement for a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from inferalign.core.errors import RunError
from inferalign.core.types import (
    ROLES,
    Candidate,
    Completion,
    Determinism,
    Message,
    Prompt,
    Result,
    RoleUsage,
    Score,
    StopReason,
    Unscored,
    Usage,
)

Record = Mapping[str, Any]


def to_record(result: Result, determinism: Determinism) -> dict[str, Any]:
    """One line of `records/<shard>.jsonl`."""
    response = result.response
    return {
        "id": result.prompt.id,
        "response": response.text,
        "token_ids": list(response.token_ids),
        "stop": str(response.stop),
        "chosen": result.chosen,
        "candidates": [_candidate_record(candidate) for candidate in result.candidates],
        "determinism": str(determinism),
        "usage": asdict(result.usage),
        "seconds": result.seconds,
        "trace": dict(result.trace),
        "messages": [asdict(message) for message in result.prompt.messages],
        "meta": dict(result.prompt.meta),
    }


def from_record(record: Record) -> Result:
    """The result that `to_record` wrote. Raises `RunError` for a record that it did not write."""
    try:
        return _result(record)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(record, error) from error


def damaged(record: Record, error: Exception) -> RunError:
    """What to say of a record that lacks what was looked for."""
    return RunError(
        f"the record of {record['id']!r} is not what `inferalign generate` writes ({error!r}): remove its line, then "
        "repeat the command that made the run, which answers it again"
    )


def _result(record: Record) -> Result:
    usage, candidates = record["usage"], [_candidate(candidate) for candidate in record["candidates"]]
    texts = [*(c.completion.text for c in candidates), *(message["content"] for message in record["messages"])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is none")
    if not record["messages"]:
        raise ValueError("no message")
    if not 0 <= record["chosen"] < len(candidates):
        raise ValueError(f"chosen is {record['chosen']}, of {len(candidates)} candidates")
    return Result(
        prompt=Prompt(
            id=record["id"],
            messages=tuple(Message(**message) for message in record["messages"]),
            meta=dict(record["meta"]),
        ),
        candidates=tuple(candidates),
        chosen=record["chosen"],
        usage=Usage(**{role: RoleUsage(**usage[role]) for role in ROLES}),
        seconds=float(record["seconds"]),
        trace=dict(record["trace"]),
    )


def metrics(results: Iterable[Result]) -> dict[str, Any]:
    """Counts and costs of a set of results: what `metrics.json` holds.

    `mean_latency_seconds` is the mean over prompts of the wall time from a prompt's start to its answer (None without
    prompts). Prompts in flight together wait for each other, and processes run side by side: it is no share of the time
    that the run took, which a folder that may have been stopped and taken up again does not know.
    `unscored` counts judgements that failed, by blame: of candidates, and of partial answers inside a search (`trace`).
    """
    done, stops, unscored = 0, Counter[str](), Counter[str]({"response": 0, "judge": 0})
    candidates, latency = 0, 0.0
    usage = {role: RoleUsage() for role in ROLES}
    for result in results:
        done += 1
        latency += result.seconds
        stops[str(result.response.stop)] += 1
        candidates += len(result.candidates)
        unscored.update(c.score.blame for c in result.candidates if isinstance(c.score, Unscored))
        unscored.update(result.trace.get("unscored", {}))
        for role in ROLES:
            usage[role] = added(usage[role], getattr(result.usage, role))
    return {
        "prompts": done,
        "candidates": candidates,
        "unscored": dict(unscored),
        "stops": dict(stops),
        "usage": {role: asdict(spent) for role, spent in usage.items()},
        "mean_latency_seconds": round(latency / done, 3) if done else None,
    }


def added(a: RoleUsage, b: RoleUsage) -> RoleUsage:
    return RoleUsage(
        tokens_fed=a.tokens_fed + b.tokens_fed,
        tokens_reused=a.tokens_reused + b.tokens_reused,
        new_tokens=a.new_tokens + b.new_tokens,
        forward_calls=a.forward_calls + b.forward_calls,
    )


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    completion = candidate.completion
    return {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "stop": str(completion.stop),
        "logprob": completion.logprob,
        "score": _score_record(candidate.score),
    }


def _score_record(score: Score | Unscored | None) -> dict[str, Any] | None:
    match score:
        case Score(value=value):
            return {"value": value}
        case Unscored(reason=reason, blame=blame):
            return {"unscored": reason, "blame": blame}
        case None:
            return None


def _candidate(record: Record) -> Candidate:
    return Candidate(
        completion=Completion(
            token_ids=tuple(record["token_ids"]),
            text=record["text"],
            stop=StopReason(record["stop"]),
            logprob=record["logprob"],
        ),
        score=_score(record["score"]),
    )


def _score(record: Record | None) -> Score | Unscored | None:
    if record is None:
        return None
    return Score(record["value"]) if "value" in record else Unscored(record["unscored"], blame=record["blame"])
