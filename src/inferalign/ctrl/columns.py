"""Calibrated rewards for those who keep their own trainer: a dataset column of reference scores, and what reads it.

The column `ref_rewards` holds the scores of a prompt's anchors, ascending: numbers, and null for a reference rollout
that could not be judged, which ranks below every number. What the judge failed on is not in it. With the column beside
a prompt, a reward needs nothing else:

    def reward(prompts, completions, ref_rewards, **columns):      # TRL: a reward function of GRPOTrainer
        return or_none(column_rewards(Scored.of(my_verdicts(prompts, completions)), ref_rewards, Exponential(10)))

    compute_score = verl_reward(my_verdict, Exponential(10))       # verl: custom_reward_function.name=compute_score

Any trainer must leave the reward as it is: no scaling by a group's deviation, a KL to the starting model, and draws at
temperature 1. `grpo_settings` says that to TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError, ScoringError
from inferalign.core.files import dump_json, parse_json, write_bytes_atomic
from inferalign.core.types import Score, Unscored
from inferalign.ctrl.reward import FEWEST, UNJUDGEABLE, AnchorScores
from inferalign.ctrl.reward_kinds import transformed
from inferalign.ctrl.scored import JUDGE, RESPONSE, Scored
from inferalign.theory.calibration import Anchors, Ranks, ranks
from inferalign.theory.transforms import Transform

COLUMN = "ref_rewards"
EXTRA = "extra_info"
"""The column whose values verl hands to a reward function."""
Verdict = Callable[[str, Any, Mapping[str, Any]], Score | Unscored]
"""Judges one response: its text, the row's ground truth, and its `extra_info`."""


def ref_rewards(scores: Scored) -> list[float | None]:
    """The column's entry for one prompt, from its anchors [K]; shorter by what the judge failed on."""
    numbers: list[float] = np.sort(scores.values[scores.scored]).tolist()
    return [None] * scores.counts.response + numbers


def with_ref_rewards(
    rows: Iterable[Mapping[str, Any]], anchors: AnchorScores, *, id_key: str = "id"
) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, each with the anchors' scores of the prompt that its `id_key` names.

    They go to the column `ref_rewards`; in a row with an object `extra_info`, as verl's datasets have, into that.
    Raises `InputError` for a row without an id, a prompt without anchors, and one with fewer than 2 that count.
    """
    place = {name: row for row, name in enumerate(anchors.prompt_ids)}
    for number, row in enumerate(rows, start=1):
        if id_key not in row:
            raise InputError(f"row {number} has no {id_key!r}: name the key that holds the ids of the anchors' prompts")
        name = str(row[id_key])
        if name not in place:
            raise InputError(f"row {number}: prompt {name!r} has no anchors: draw them with `inferalign calibrate`")
        column = ref_rewards(anchors.scores.row(place[name]))
        if len(column) < FEWEST:
            raise InputError(f"row {number}: prompt {name!r} has {len(column)} anchors that count: leave it out")
        if isinstance(row.get(EXTRA), Mapping):
            yield {**row, EXTRA: {**row[EXTRA], COLUMN: column}}
        else:
            yield {**row, COLUMN: column}


def write_ref_rewards(source: Path | str, target: Path | str, anchors: AnchorScores, *, id_key: str = "id") -> int:
    """A JSONL file with the column added, whole or absent; the number of its rows.

    Raises `InputError` as `with_ref_rewards` does, and for a file that is not JSONL.
    """
    rows = [dump_json(row) + b"\n" for row in with_ref_rewards(_read(Path(source)), anchors, id_key=id_key)]
    write_bytes_atomic(Path(target), b"".join(rows))
    return len(rows)


def column_rewards(
    scored: Scored, columns: Sequence[Sequence[float | None]], transform: Transform
) -> NDArray[np.float64]:
    """R of one response a row [B], each against its own row of the column; NaN where the judge is to blame.

    beta is in the units of `Transform.normalised`. Raises `InputError` for a column that cannot be used.
    """
    if scored.values.ndim != 1 or len(columns) != len(scored.values):
        raise InputError(f"{len(columns)} rows of {COLUMN} for scores of shape {scored.shape}: give one a response")
    values = np.where(scored.blame == RESPONSE, UNJUDGEABLE, scored.values)
    found = [_against(value, column) for value, column in zip(values, columns, strict=True)]
    below, equal, counts = np.array(found, dtype=np.int64).reshape(-1, 3).T
    rewards = transformed(transform, Ranks(below=below, equal=equal), counts)
    return np.where(scored.blame == JUDGE, np.nan, rewards)


class ComputeScore(Protocol):
    """verl's signature of a reward function."""

    def __call__(
        self, data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None
    ) -> float: ...


def verl_reward(verdict: Verdict, transform: Transform) -> ComputeScore:
    """The `compute_score` that a file given to verl as `custom_reward_function.path` has to define.

    It finds the reference scores in `extra_info["ref_rewards"]`, where `with_ref_rewards` writes them. verl reads no
    None and leaves no response out, so a judge's failure raises `ScoringError`: repeat failed calls within `verdict`.
    """

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None
    ) -> float:
        if extra_info is None or COLUMN not in extra_info:
            raise InputError(f"a row of {data_source!r} has no extra_info[{COLUMN!r}]: add it with `with_ref_rewards`")
        judged = verdict(solution_str, ground_truth, extra_info)
        if isinstance(judged, Unscored) and judged.blame == "judge":
            raise ScoringError(
                f"the judge failed ({judged.reason}), and verl can leave no response out: repeat the call"
            )
        return float(column_rewards(Scored.of([judged]), [extra_info[COLUMN]], transform)[0])

    return compute_score


def grpo_settings(beta: float, *, num_generations: int = 8) -> dict[str, Any]:
    """Settings under which trl.GRPOTrainer maximises E[R] - beta KL, to give as `GRPOConfig(**settings, ...)`.

    GRPO's own scale rewards by their group's deviation, which undoes the transform, and have no KL. Its advantage has
    the response's own reward in the mean, which shrinks it by (G - 1) / G; beta is shrunk alike. Its KL acts on each
    token by itself: exact for the next token given what precedes it, blind to where a token leads, so that for long
    answers RLOO, whose KL is of whole answers, keeps closer to what beta promises.

    Raises `InputError` for a beta that is not positive, and for fewer than 8 answers a group.
    """
    if not 0 < beta < np.inf:
        raise InputError(f"beta {beta:g} cannot be used: give a positive number; `inferalign plan` finds it for a KL")
    if num_generations < 8:
        raise InputError(f"{num_generations} answers a group are too few: give 8 or more")
    return {
        "beta": beta * (num_generations - 1) / num_generations,
        "num_generations": num_generations,
        "scale_rewards": "none",
        "loss_type": "dr_grpo",
        "importance_sampling_level": "token",
        "use_bias_correction_kl": True,
        "num_iterations": 1,
        "mask_truncated_completions": False,
        "disable_dropout": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "remove_unused_columns": False,
    }


def _against(value: float, column: Sequence[float | None]) -> tuple[int, int, int]:
    """Anchors of a column below the value, equal to it, and in all."""
    # tables of other libraries turn null into NaN
    row = np.array([np.nan if entry is None else entry for entry in column], dtype=np.float64)
    anchors = Anchors.of([np.where(np.isnan(row), UNJUDGEABLE, row)])
    below, equal = ranks(np.array([[value]]), anchors)
    return int(below[0, 0]), int(equal[0, 0]), row.size


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give a JSONL file of prompts") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected an object with an id")
        yield row
