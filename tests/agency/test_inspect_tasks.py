"""The Inspect tasks against mock models: our scores on the same replies, unscored kept apart, no judge by accident."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log

from inferalign.agency.analysis import OVERALL, summarise
from inferalign.agency.inspect_logs import InspectLog, import_log, read_log
from inferalign.agency.judge_chat import ChatJudge, ChatJudgeSettings
from inferalign.agency.table_build import build_table
from inferalign.agency.tasks import human_agency
from inferalign.core.errors import InputError, UnknownName
from inferalign.core.types import Message, RoleUsage
from inferalign.engines.chat_api import ChatReply, ChatRequest
from tests.agency.inspect_mock import echo, mock, output, run, verdict_by_text
from tests.agency.judging import bank, shipped
from tests.agency.scripted_chat import ScriptedChat, reply

TWO = ["encourage_learning", "correct_misinformation"]


class Done(NamedTuple):
    log: EvalLog
    imported: InspectLog


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two dimensions, twelve items each, two epochs."""
    folder = tmp_path_factory.mktemp("logs")
    seen: dict[str, int] = {}

    def subject(messages: Sequence[Message]) -> str:
        place = seen[messages[-1].content] = seen.get(messages[-1].content, 0) + 1
        return f"{echo(messages)} ({place})"

    log = run(
        human_agency(TWO, seed=3), folder, subject=mock("subject", subject), judge=mock("judge", verdict_by_text),
        limit=24, epochs=2,
    )  # fmt: skip
    assert log.status == "success", log.error
    return Done(log, import_log(log.location))


def test_a_log_opens_and_holds_the_same_items(judged: Done) -> None:
    log = read_eval_log(judged.log.location)
    assert log.samples is not None
    assert log.eval.model_roles is not None
    assert log.eval.model_roles["judge"].model == "mockllm/judge"
    stored = judged.imported.stored
    by_id = {item.id: item for name in TWO for item in bank(name)}
    assert [item for item in stored.items if item != by_id[item.id]] == []
    assert sum(item.dimension == TWO[0] for item in stored.items) == 12
    assert len(stored.replies) == 48
    sentence = stored.items[1].extra["misinformation"]
    assert {message.text.count(sentence) for sample in log.samples[2:4] for message in sample.messages} <= {0, 1}


def test_scores_and_letters_are_ours_on_the_same_replies(judged: Done) -> None:
    def answer(request: ChatRequest) -> ChatReply:
        return reply(verdict_by_text(request.messages))

    ours = ChatJudge(ScriptedChat(answer), shipped(), ChatJudgeSettings(seed=3))
    stored = judged.imported.stored
    items = {item.id: item for item in stored.items}
    theirs = {verdict.reply: verdict for verdict in stored.verdicts}
    for one in stored.replies:
        own = asyncio.run(ours.judge(items[one.item], one, repeat=0, usage=RoleUsage()))
        found = theirs[one.id]
        keys = ("letters", "score", "status", "letter_order", "assessment", "raw", "reason", "blame")
        assert [getattr(found, key) for key in keys] == [getattr(own, key) for key in keys]
    assert {verdict.status for verdict in stored.verdicts} == {"ok", "repaired", "unscored"}


def test_unscored_verdicts_are_never_a_number(judged: Done) -> None:
    unscored = [verdict for verdict in judged.imported.stored.verdicts if verdict.score is None]
    assert judged.imported.unscored == len(unscored) > 0
    samples = {(sample.id, sample.epoch): sample for sample in judged.log.samples or ()}
    for verdict in unscored:
        item, epoch = verdict.reply.split("/")[0], int(verdict.reply[-1]) + 1
        score = samples[item, epoch].scores["issue_letters"]
        assert math.isnan(score.value)
        assert score.reason == "grader_failed"
        assert "cannot be read" in score.explanation


def test_a_log_that_was_scored_again_has_both_judges(judged: Done, tmp_path: Path) -> None:
    log = read_eval_log(judged.log.location)
    assert log.samples is not None
    for sample in log.samples:
        again = sample.scores["issue_letters"].model_copy(deep=True)
        for verdict in again.metadata["verdicts"]:
            verdict["judge"] = "inspect:mockllm/second"
        sample.scores["issue_letters1"] = again
    write_eval_log(log, tmp_path / "again.eval")
    stored = read_log(tmp_path / "again.eval")
    assert stored.replies == judged.imported.stored.replies
    assert build_table(*stored).judges == ["inspect:mockllm/judge", "inspect:mockllm/second"]


def test_metrics_are_those_of_the_report(judged: Done) -> None:
    assert judged.log.results is not None
    metrics = {name: metric.value for name, metric in judged.log.results.scores[0].metrics.items()}
    rows = summarise(build_table(*judged.imported.stored), "inspect:mockllm/judge")
    assert {row.dimension for row in rows} == {*TWO, OVERALL}
    for row in rows:
        assert metrics[row.dimension] == pytest.approx(row.score.mean, abs=1e-12)
        assert metrics[f"{row.dimension}_stderr"] == pytest.approx(row.error, abs=1e-12)


def test_a_dimension_without_a_score_leaves_no_mean(tmp_path: Path) -> None:
    def judge(messages: Sequence[Message]) -> str:
        return (
            "?"
            if "planted" in messages[0].content or "misinformation" in messages[0].content
            else '{"assessment": "", "issues": []}'
        )

    log = run(human_agency(TWO), tmp_path, judge=mock("judge", judge), limit=4)
    assert log.results is not None
    metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    assert metrics[TWO[0]] == 10.0
    assert math.isnan(metrics[TWO[1]])
    assert math.isnan(metrics[OVERALL])
    assert (log.results.scores[0].scored_samples, log.results.scores[0].unscored_samples) == (2, 2)


def test_follow_up_turns_are_sent_whatever_was_said(tmp_path: Path) -> None:
    log = run(human_agency(TWO[0], condition="none+followups"), tmp_path, judge=mock("judge", verdict_by_text), limit=1)
    (one,) = import_log(log.location).stored.replies
    assert [turn.role for turn in one.conversation] == ["user", "assistant"] * 3
    assert tuple(turn.content for turn in one.conversation[2::2]) == shipped()[TWO[0]].followups
    assert (one.system_prompt, one.condition, one.tokens["requests"]) == (None, "none+followups", 3)


def test_a_reply_without_a_word_is_unscored_by_its_own_fault(tmp_path: Path) -> None:
    asked = []
    judge = mock("judge", lambda messages: asked.append(messages) or verdict_by_text(messages))
    task = human_agency(TWO[0], condition="default+followups")
    log = run(task, tmp_path, subject=mock("silent", lambda _: " "), judge=judge, limit=1)
    assert log.samples is not None
    assert log.samples[0].scores["issue_letters"].reason == "no_response"
    stored = import_log(log.location).stored
    assert [turn.role for turn in stored.replies[0].conversation] == ["user", "assistant"]
    assert (stored.verdicts[0].reason, stored.verdicts[0].blame) == ("the reply is empty (finish: stop)", "response")
    assert asked == []


def test_a_conversation_that_a_limit_cut_short_is_not_judged(tmp_path: Path) -> None:
    asked = []
    judge = mock("judge", lambda messages: asked.append(messages) or verdict_by_text(messages))
    log = run(human_agency(TWO[0], condition="default+followups"), tmp_path, judge=judge, limit=1, message_limit=4)
    assert log.samples is not None
    assert log.samples[0].scores["issue_letters"].reason == "no_response"
    imported = import_log(log.location)
    assert (asked, imported.stored.replies, imported.failed) == ([], [], 1)


def test_a_judge_whose_call_fails_is_an_error_and_no_score(tmp_path: Path) -> None:
    def judge(messages: Sequence[Message]) -> str:
        raise ValueError("the service is down")

    log = run(human_agency(TWO[0]), tmp_path, judge=mock("judge", judge), limit=1, fail_on_error=False)
    assert log.samples is not None
    assert not log.samples[0].scores
    assert "the service is down" in log.samples[0].error.message
    imported = import_log(log.location)
    assert (len(imported.stored.replies), imported.stored.verdicts, imported.unscored) == (1, [], 1)


def test_a_subject_never_judges_by_accident(tmp_path: Path) -> None:
    asked = []
    subject = mock("subject", lambda messages: asked.append(messages) or echo(messages))
    nobody = run(human_agency(TWO[0]), tmp_path, subject=subject, limit=1)
    itself = run(human_agency(TWO[0]), tmp_path, subject=subject, judge=mock("subject", verdict_by_text), limit=1)
    assert (nobody.status, itself.status, asked) == ("error", "error", [])
    assert "--model-role judge=" in nobody.error.message
    assert "would judge its own replies" in itself.error.message
    allowed = run(
        human_agency(TWO[0], allow_self_judging=True), tmp_path, subject=subject,
        judge=mock("subject", verdict_by_text), limit=1,
    )  # fmt: skip
    assert allowed.status == "success"


def test_several_models_in_the_role_make_a_panel(tmp_path: Path) -> None:
    def always(letters: str) -> str:
        return f'{{"assessment": "", "issues": {letters}}}'

    models = [
        mock(f"judge-{n}", lambda _, letters=letters: always(letters))
        for n, letters in enumerate(['["A"]', '["A"]', "[]"])
    ]
    log = run(human_agency(TWO[0], shuffle=False), tmp_path, judge=models, limit=1)  # type: ignore[arg-type]
    assert log.samples is not None
    score = log.samples[0].scores["issue_letters"]
    assert (score.value, score.answer) == (pytest.approx((3 + 3 + 10) / 3), "A")
    assert len(import_log(log.location).stored.verdicts) == 3


def test_what_the_role_sets_wins_over_the_judges_settings(tmp_path: Path) -> None:
    from inspect_ai.model import GenerateConfig, get_model

    seen = []

    def judge(messages: object, tools: object, choice: object, config: GenerateConfig) -> object:
        seen.append((config.temperature, config.max_tokens, config.response_schema is not None))
        return output('{"assessment": "", "issues": []}')

    own = get_model("mockllm/judge", config=GenerateConfig(temperature=1.0), custom_outputs=judge)
    run(human_agency(TWO[0]), tmp_path, judge=own, limit=1)
    assert seen == [(1.0, 8192, True)]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dimension": "encourage_lerning"}, UnknownName, "Did you mean 'encourage_learning'"),
        ({"dimension": [TWO[0], TWO[0]]}, InputError, "named twice"),
        ({"dimension": TWO, "items": "x.jsonl"}, InputError, "of one dimension"),
        ({"dimension": TWO[0], "condition": "calm"}, UnknownName, "unknown condition"),
        ({"dimension": TWO[0], "items": "no.jsonl"}, InputError, "no file"),
    ],
)
def test_what_cannot_be_used_is_said(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        human_agency(**arguments)


def test_all_six_take_turns(tmp_path: Path) -> None:
    dataset = human_agency().dataset
    assert len(dataset) == 240
    assert len({sample.metadata["dimension"] for sample in dataset[:6]}) == 6
