"""One prompt's reference rollouts as a record of a run folder and back, and all of a run's records as anchors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inferalign.core.config import to_dict
from inferalign.core.errors import RunError
from inferalign.core.records import read_records
from inferalign.core.results import added
from inferalign.core.types import ROLES, Determinism, Prompt, RoleUsage, StopReason, TokenIds, Usage
from inferalign.ctrl.anchors import AnchorCard, AnchorSet
from inferalign.ctrl.scored import Scored

KIND = "calibrate"
"""What the records of such a run are."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """One prompt's K reference rollouts, in the order of their draws; each sequence [K]."""

    prompt_id: str
    token_ids: tuple[TokenIds, ...]
    """Without the token that ended the answer."""
    logprobs: tuple[float | None, ...]
    """Of `token_ids`, natural log, under the distribution that they were drawn from."""
    stops: tuple[StopReason, ...]
    scores: Scored
    reasons: Mapping[str, int]
    """Why scores are missing, each with how often."""
    determinism: Determinism
    """What the engine promised."""
    usage: Usage
    seconds: float


def to_record(rollouts: Rollouts) -> dict[str, Any]:
    """One line of `records/<shard>.jsonl`. A score that is missing is null, and never a number."""
    scores = rollouts.scores
    return {
        "id": rollouts.prompt_id,
        "scores": [v if ok else None for v, ok in zip(scores.values.tolist(), scores.scored.tolist(), strict=True)],
        "blame": scores.blame.tolist(),
        "reasons": dict(rollouts.reasons),
        "token_ids": [list(ids) for ids in rollouts.token_ids],
        "logprobs": list(rollouts.logprobs),
        "stops": [str(stop) for stop in rollouts.stops],
        "determinism": str(rollouts.determinism),
        "usage": to_dict(rollouts.usage),
        "seconds": rollouts.seconds,
    }


def from_record(record: Mapping[str, Any]) -> Rollouts:
    """The rollouts that `to_record` wrote."""
    values = np.array([0.0 if score is None else score for score in record["scores"]])
    return Rollouts(
        prompt_id=record["id"],
        token_ids=tuple(map(tuple, record["token_ids"])),
        logprobs=tuple(record["logprobs"]),
        stops=tuple(map(StopReason, record["stops"])),
        scores=Scored(values, np.array(record["blame"], dtype=np.uint8)),
        reasons=record["reasons"],
        determinism=Determinism(record["determinism"]),
        usage=Usage(**{role: RoleUsage(**record["usage"][role]) for role in ROLES}),
        seconds=record["seconds"],
    )


def read_rollouts(run: Path | str) -> Iterator[Rollouts]:
    """Every prompt's rollouts of a run folder, one at a time. Raises `RunError` as `read_records` does."""
    return (from_record(record) for record in read_records(run, KIND))


def gather(run: Path, card: AnchorCard, prompts: Sequence[Prompt]) -> tuple[AnchorSet | None, int, Mapping[str, int]]:
    """The anchors of a run's records (None when some are missing), how many records there are, why scores are missing.

    One record is held at a time. Raises `RunError` for a record of another prompt or of another number of rollouts.
    """
    place = {prompt.id: row for row, prompt in enumerate(prompts)}
    values, blame = np.zeros((len(prompts), card.k)), np.zeros((len(prompts), card.k), dtype=np.uint8)
    lengths = np.zeros((len(prompts), card.k), dtype=np.int32)
    usage, reasons, finished = {role: RoleUsage() for role in ROLES}, Counter[str](), 0
    for record in read_records(run, KIND):
        rollouts = from_record(record)
        row = place.get(rollouts.prompt_id)
        if row is None or rollouts.scores.shape != (card.k,):
            raise RunError(
                f"{run} holds {rollouts.scores.shape[0]} rollouts of id {rollouts.prompt_id!r}, which is not what "
                "this command makes: remove the line, or name another --run"
            )
        values[row], blame[row] = rollouts.scores.values, rollouts.scores.blame
        lengths[row] = [len(ids) for ids in rollouts.token_ids]
        usage = {role: added(spent, getattr(rollouts.usage, role)) for role, spent in usage.items()}
        reasons.update(rollouts.reasons)
        finished += 1
    found = dict(reasons.most_common())
    if finished < len(prompts):
        return None, finished, found
    spent = {str(role): asdict(each) for role, each in usage.items()}
    return AnchorSet.of(replace(card, usage=spent), place, Scored(values, blame), lengths), finished, found
