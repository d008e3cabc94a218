"""A result written as a record and read back is the same result, and a missing score never becomes a number."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from inferalign.core.errors import RunError
from inferalign.core.results import from_record, metrics, to_record
from inferalign.core.types import (
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


def completion(text: str, logprob: float | None = -1.5) -> Completion:
    return Completion(token_ids=(1, 2), text=text, stop=StopReason.END, logprob=logprob)


RESULT = Result(
    prompt=Prompt(
        id="p", messages=(Message(role="system", content="s"), Message(role="user", content="u")), meta={"k": 1}
    ),
    candidates=(
        Candidate(completion=completion("a", None), score=Unscored("too long", blame="judge")),
        Candidate(completion=completion("b"), score=Score(0.0)),
        Candidate(completion=completion("c")),
    ),
    chosen=1,
    usage=Usage(generator=RoleUsage(tokens_fed=7, tokens_reused=2, new_tokens=3, forward_calls=1.5)),
    seconds=0.25,
    trace={"iterations": 4},
)


def test_round_trip_through_json() -> None:
    assert from_record(json.loads(json.dumps(to_record(RESULT, Determinism.EXACT)))) == RESULT


def test_scores_on_disk_tell_zero_from_missing_from_not_asked() -> None:
    scores = [c["score"] for c in to_record(RESULT, Determinism.SEEDED)["candidates"]]
    assert scores == [{"unscored": "too long", "blame": "judge"}, {"value": 0.0}, None]


def test_metrics_add_up_by_role_and_by_blame() -> None:
    summed = metrics([RESULT, RESULT])
    assert summed["prompts"] == 2
    assert summed["candidates"] == 6
    assert summed["unscored"] == {"response": 0, "judge": 2}
    assert summed["usage"]["generator"] == {"tokens_fed": 14, "tokens_reused": 4, "new_tokens": 6, "forward_calls": 3.0}


def test_latency_is_a_mean_and_never_the_mean_of_nothing() -> None:
    assert metrics([RESULT, replace(RESULT, seconds=0.75)])["mean_latency_seconds"] == 0.5
    assert metrics([])["mean_latency_seconds"] is None


@pytest.mark.parametrize(
    "damage",
    [
        {"usage": None},
        {"messages": [{"rolle": "user"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": None}]},
        {"candidates": [{}]},
        {"chosen": 5},
        {"chosen": None},
        {"seconds": None},
        {"seconds": 10**400},
        {"trace": None},
        {"meta": None},
    ],
)
def test_a_record_that_was_not_written_here_is_named(damage: dict[str, object]) -> None:
    record = to_record(RESULT, Determinism.EXACT)
    with pytest.raises(RunError, match=r"record of .p. is not what `inferalign generate` writes .*: remove its"):
        from_record(record | damage)
    del record["messages"]
    with pytest.raises(RunError, match="KeyError"):
        from_record(record)
