"""The column of reference scores: written, refused, read back by TRL's and by verl's rewards; and GRPO's settings."""

from __future__ import annotations

import inspect
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trl import GRPOConfig

from inferalign.core.errors import InputError, ScoringError
from inferalign.core.types import Score, Unscored
from inferalign.ctrl.columns import (
    column_rewards,
    grpo_settings,
    ref_rewards,
    verl_reward,
    with_ref_rewards,
    write_ref_rewards,
)
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.scored import Scored
from inferalign.theory.transforms import Exponential, Identity, Log

BLANK, LATE = Unscored("blank", "response"), Unscored("late", "judge")
ANCHORS = HeldAnchors(
    ("a", "7"),
    Scored.of([Score(3.0), BLANK, Score(-1.0), LATE, Score(5.0), Score(6.0), Score(8.0), Score(7.0)]).reshape(2, 4),
)
ROWS = [{"id": "a", "prompt": "Hi?", "topic": "x"}, {"id": 7, "prompt": "Ho?"}, {"id": "a", "prompt": "Hi?"}]


def test_the_column_holds_what_counts_ascending() -> None:
    assert ref_rewards(ANCHORS.scores.row(0)) == [None, -1.0, 3.0]
    assert list(with_ref_rewards(ROWS, ANCHORS)) == [
        {**ROWS[0], "ref_rewards": [None, -1.0, 3.0]},
        {**ROWS[1], "ref_rewards": [5.0, 6.0, 7.0, 8.0]},
        {**ROWS[2], "ref_rewards": [None, -1.0, 3.0]},
    ]


def test_a_file_keeps_its_rows_and_order(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    assert write_ref_rewards(source, target, ANCHORS) == 3
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert written == list(with_ref_rewards(ROWS, ANCHORS))
    verl = {"uid": "a", "extra_info": {"index": 3}}
    (row,) = with_ref_rewards([verl], ANCHORS, id_key="uid")
    assert row == {"uid": "a", "extra_info": {"index": 3, "ref_rewards": [None, -1.0, 3.0]}}
    assert verl == {"uid": "a", "extra_info": {"index": 3}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": "b"}\n', "row 1: prompt 'b' has no anchors"),
        ('{"prompt": "b"}\n', "row 1 has no 'id'"),
        ("no\n", r"in.jsonl:1: not JSON"),
        ("[1]\n", r"in.jsonl:1: expected an object"),
    ],
)
def test_a_row_that_cannot_be_served_writes_nothing(tmp_path: Path, text: str, words: str) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    with pytest.raises(InputError, match=words):
        write_ref_rewards(source, target, ANCHORS)
    assert not target.exists()


def test_a_missing_file_and_a_prompt_with_too_few_anchors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        write_ref_rewards(tmp_path / "none.jsonl", tmp_path / "out.jsonl", ANCHORS)
    few = HeldAnchors(("a",), Scored.of([Score(1.0), LATE]).reshape(1, 2))
    with pytest.raises(InputError, match="1 anchors that count"):
        list(with_ref_rewards(ROWS, few))


@pytest.mark.parametrize("transform", [Identity(), Log(), Exponential(10.0), Exponential(-10.0)])
def test_the_column_gives_the_rewards_of_the_anchors(transform: Any) -> None:
    seen = Scored.of([Score(3.0), Score(5.0), BLANK, LATE, Score(-9.0)])
    names = ["a", "7", "a", "7", "7"]
    columns = [row["ref_rewards"] for row in with_ref_rewards([{"id": name} for name in names], ANCHORS)]
    expected = CalibratedReward(ANCHORS, transform).rewards(names, seen)
    assert column_rewards(seen, columns, transform) == pytest.approx(expected, nan_ok=True)
    # a data frame makes NaN of null, and an order of its own
    frame = [np.array([np.nan if x is None else x for x in reversed(column)]) for column in columns]
    assert column_rewards(seen, frame, transform) == pytest.approx(expected, nan_ok=True)  # type: ignore[arg-type]


def test_a_column_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="give one a response"):
        column_rewards(Scored.of([Score(1.0)]), [], Identity())
    with pytest.raises(InputError, match="too few reference scores"):
        column_rewards(Scored.of([Score(1.0)]), [[1.0]], Identity())
    assert column_rewards(Scored.of([]), [], Identity()).shape == (0,)


def judged(text: str, ground_truth: Any, extra_info: Any) -> Score | Unscored:
    assert ground_truth == "truth"
    return {"": BLANK, "slow": LATE}.get(text, Score(float(len(text))))


def test_verl_calls_it_by_these_names() -> None:
    compute_score = verl_reward(judged, Identity())
    assert list(inspect.signature(compute_score).parameters) == [
        "data_source",
        "solution_str",
        "ground_truth",
        "extra_info",
    ]
    extra = {"index": 0, "num_turns": None, "ref_rewards": [None, 2.0, 3.0, 4.0]}

    def score(text: str) -> float:
        return compute_score(data_source="d", solution_str=text, ground_truth="truth", extra_info=extra)

    assert score("abc") == pytest.approx(2.5 / 4 - 0.5)
    assert score("") == pytest.approx(0.5 / 4 - 0.5)
    with pytest.raises(ScoringError, match="late"):
        score("slow")
    with pytest.raises(InputError, match="with_ref_rewards"):
        compute_score("d", "abc", "truth", {"index": 0})


def test_grpo_settings_are_settings_of_the_installed_trl(tmp_path: Path) -> None:
    settings = grpo_settings(0.2, num_generations=16)
    machine = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "per_device_train_batch_size": 16}
    config = GRPOConfig(str(tmp_path), **machine, **settings)
    assert config.beta == pytest.approx(0.2 * 15 / 16)
    assert config.scale_rewards == "none"
    assert config.use_bias_correction_kl is True
    assert {name: getattr(config, name) for name in settings} == settings


def test_what_grpo_takes_off_its_advantage_is_taken_off_beta() -> None:
    """Exactly, over all groups of 4 from 3 answers: its mean has the response's own reward in it."""
    p, r, group = np.array([0.2, 0.5, 0.3]), np.array([1.0, -0.5, 0.25]), 4
    exact = p * (r - p @ r)
    expected = np.zeros(3)
    for ids in product(range(3), repeat=group):
        rewards = r[list(ids)]
        steps = (rewards - rewards.mean())[:, None] * (np.eye(3)[list(ids)] - p)
        expected += p[list(ids)].prod() * steps.mean(axis=0)
    assert expected == pytest.approx((group - 1) / group * exact)
    assert grpo_settings(0.3)["beta"] == pytest.approx(0.3 * 7 / 8)


@pytest.mark.parametrize(("beta", "group"), [(0.0, 8), (-1.0, 8), (np.inf, 8), (0.1, 4)])
def test_settings_that_undo_the_objective_are_refused(beta: float, group: int) -> None:
    with pytest.raises(InputError, match="give"):
        grpo_settings(beta, num_generations=group)
