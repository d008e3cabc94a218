"""One prompt's reference rollouts as a record of a run folder and back, and all of a run's records as anchors.

    RUN/records/            rollouts and the verdicts on them, a line a prompt
    RUN/rescored/           a run folder inside: later verdicts on prompts that the judge had failed on, a line a prompt
                            and attempt, the last of which counts

Records are only ever added, so that a kill at any moment loses none: later verdicts have a place of their own.
"""

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
from inferalign.core.types import (
    ROLES,
    Determinism,
    Prompt,
    RoleUsage,
    Score,
    StopReason,
    TokenIds,
    Unscored,
    Usage,
)
from inferalign.ctrl.anchors import AnchorCard, AnchorSet
from inferalign.ctrl.scored import JUDGE, Scored

KIND = "calibrate"
"""What the records of such a run are."""
RESCORED = "rescored"
"""The folder of later verdicts in it."""
RESCORED_KIND = "calibrate-rescored"
"""What the records of that one are."""

_VERDICTS = ("scores", "blame", "reasons", "judge_reasons", "usage", "seconds")
"""What scoring again changes in a record."""


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
    judge_reasons: Mapping[str, int]
    """Those of `reasons` that are the judge's."""
    determinism: Determinism
    """What the engine promised."""
    usage: Usage
    seconds: float

    @property
    def failed(self) -> list[int]:
        """The draws that the judge failed on."""
        return [draw for draw, blame in enumerate(self.scores.blame.tolist()) if blame == JUDGE]

    def scored_again(self, verdicts: Sequence[Score | Unscored], spent: RoleUsage, seconds: float) -> Rollouts:
        """With new verdicts on the draws in `failed`, one each, which cost the evaluator `spent`. The others stand."""
        found, values, blame = Scored.of(verdicts), self.scores.values.copy(), self.scores.blame.copy()
        values[self.failed], blame[self.failed] = found.values, found.blame
        reasons, judge_reasons = why_unscored(verdicts)
        return replace(
            self,
            scores=Scored(values, blame),
            reasons=Counter(self.reasons) - Counter(self.judge_reasons) + reasons,
            judge_reasons=judge_reasons,
            usage=replace(self.usage, evaluator=added(self.usage.evaluator, spent)),
            seconds=self.seconds + seconds,
        )


def why_unscored(verdicts: Sequence[Score | Unscored]) -> tuple[Counter[str], Counter[str]]:
    """Why scores are missing, each reason with how often: all of them, and those that are the judge's."""
    missing = [verdict for verdict in verdicts if isinstance(verdict, Unscored)]
    return Counter(each.reason for each in missing), Counter(each.reason for each in missing if each.blame == "judge")


def to_record(rollouts: Rollouts) -> dict[str, Any]:
    """One line of `records/<shard>.jsonl`. A score that is missing is null, and never a number."""
    scores = rollouts.scores
    return {
        "id": rollouts.prompt_id,
        "scores": [v if ok else None for v, ok in zip(scores.values.tolist(), scores.scored.tolist(), strict=True)],
        "blame": scores.blame.tolist(),
        "reasons": dict(rollouts.reasons),
        "judge_reasons": dict(rollouts.judge_reasons),
        "token_ids": [list(ids) for ids in rollouts.token_ids],
        "logprobs": list(rollouts.logprobs),
        "stops": [str(stop) for stop in rollouts.stops],
        "determinism": str(rollouts.determinism),
        "usage": to_dict(rollouts.usage),
        "seconds": rollouts.seconds,
    }


def from_record(record: Mapping[str, Any]) -> Rollouts:
    """The rollouts that `to_record` wrote. Raises `RunError` for a record that it did not write."""
    try:
        return _rollouts(record)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the rollouts of {record['id']!r} are not what `inferalign calibrate` writes ({error!r}): remove their "
            "line, then repeat the command that made the run, which draws them again"
        ) from error


def _rollouts(record: Mapping[str, Any]) -> Rollouts:
    values = np.array([0.0 if score is None else score for score in record["scores"]])
    return Rollouts(
        prompt_id=record["id"],
        token_ids=tuple(map(tuple, record["token_ids"])),
        logprobs=tuple(record["logprobs"]),
        stops=tuple(map(StopReason, record["stops"])),
        scores=Scored(values, np.array(record["blame"], dtype=np.uint8)),
        reasons=record["reasons"],
        # Folders of before these were kept apart: all are taken for the judge's, and none outlives a new verdict.
        judge_reasons=record.get("judge_reasons", record["reasons"]),
        determinism=Determinism(record["determinism"]),
        usage=Usage(**{role: RoleUsage(**record["usage"][role]) for role in ROLES}),
        seconds=record["seconds"],
    )


def read_rollouts(run: Path | str) -> Iterator[Rollouts]:
    """Every prompt's rollouts of a run folder, one at a time, with the latest verdicts on them.

    Raises `RunError` as `read_records` does.
    """
    later = read_rescored(run)
    for record in read_records(run, KIND):
        verdicts = later.get(record["id"], {})
        yield from_record(record | {name: verdicts[name] for name in _VERDICTS if name in verdicts})


def to_rescored(record: Mapping[str, Any], attempt: int) -> dict[str, Any]:
    """One line of `rescored/records/<shard>.jsonl`, from the `to_record` of rollouts that were scored again.

    attempt: how many times they were scored again, from 1. The line has the verdicts that stood before, too.
    """
    named = {"id": f"{attempt}:{record['id']}", "prompt": record["id"], "attempt": attempt}
    return named | {name: record[name] for name in _VERDICTS}


def read_rescored(run: Path | str) -> dict[str, dict[str, Any]]:
    """The last line of `to_rescored` on each prompt, by the prompt's id. Raises `RunError` as `read_records` does."""
    found: dict[str, dict[str, Any]] = {}
    folder = Path(run) / RESCORED
    if any((folder / "records").glob("*.jsonl")):
        for line in read_records(folder, RESCORED_KIND):
            if line["prompt"] not in found or found[line["prompt"]]["attempt"] < line["attempt"]:
                found[line["prompt"]] = line
    return found


def gather(run: Path, card: AnchorCard, prompts: Sequence[Prompt]) -> tuple[AnchorSet | None, int, Mapping[str, int]]:
    """The anchors of a run's records (None when some are missing), how many records there are, why scores are missing.

    One record is held at a time, and all later verdicts. Raises `RunError` for a record of another prompt or of another
    number of rollouts.
    """
    place = {prompt.id: row for row, prompt in enumerate(prompts)}
    values, blame = np.zeros((len(prompts), card.k)), np.zeros((len(prompts), card.k), dtype=np.uint8)
    lengths = np.zeros((len(prompts), card.k), dtype=np.int32)
    usage, reasons, finished = {role: RoleUsage() for role in ROLES}, Counter[str](), 0
    for rollouts in read_rollouts(run):
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
