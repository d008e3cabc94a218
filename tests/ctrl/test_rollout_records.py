"""Rollouts as records and back: what is missing stays missing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from inferalign.core.errors import RunError
from inferalign.core.types import RoleUsage, Score, StopReason, Unscored
from inferalign.ctrl.anchors import prompts_sha256
from inferalign.ctrl.rollout_records import from_record, gather, to_record
from inferalign.ctrl.scored import JUDGE
from tests.ctrl.test_anchors import a_card
from tests.ctrl.test_rollouts import K, a_roller, made, prompts
from tests.toy import a_prompt


def test_records_come_back() -> None:
    found = asyncio.run(a_roller()(a_prompt()))
    again = from_record(json.loads(json.dumps(to_record(found))))
    assert to_record(again) == to_record(found)
    assert again.scores.values.tolist() == found.scores.values.tolist()
    assert again.stops[0] in StopReason


def test_a_missing_score_is_null_in_a_record() -> None:
    found = to_record(asyncio.run(a_roller(lambda *_: Unscored("no", blame="judge"))(a_prompt())))
    assert found["scores"] == [None] * K
    assert found["blame"] == [JUDGE] * K
    assert found["reasons"] == found["judge_reasons"] == {"no": K}


def test_records_of_before_reasons_were_kept_apart_are_read() -> None:
    record = to_record(asyncio.run(a_roller(lambda *_: Unscored("no", blame="judge"))(a_prompt())))
    del record["judge_reasons"]
    again = from_record(record).scored_again([Score(1.0)] * K, RoleUsage(), 0.0)
    assert (again.failed, again.reasons) == ([], {})


def test_records_of_another_k_are_refused(tmp_path: Path) -> None:
    made(tmp_path, prompts(2))
    with pytest.raises(RunError, match=r"holds 5 rollouts of id 'p[01]'"):
        gather(tmp_path, a_card(k=4, prompts_sha256=prompts_sha256(prompts(2))), prompts(2))


@pytest.mark.parametrize("damage", [{"stops": ["much"]}, {"usage": {}}, {"token_ids": [1]}, {"scores": [["x"]]}])
def test_a_record_that_was_not_written_here_is_named(damage: dict[str, object]) -> None:
    record = to_record(asyncio.run(a_roller()(a_prompt())))
    with pytest.raises(RunError, match=r"the rollouts of 'p1' are not what `inferalign calibrate` writes"):
        from_record(record | damage)
