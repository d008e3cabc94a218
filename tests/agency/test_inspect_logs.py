"""Foreign Inspect logs: numbers on a stated scale, pairs by sample id, and what failed counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.scorer import Score, Scorer, match, mean, scorer
from inspect_ai.solver import TaskState

from inferalign.agency import inspect_logs
from inferalign.agency.inspect_logs import import_log, read_log
from inferalign.agency.table import Arm
from inferalign.agency.table_build import build_table
from inferalign.core.errors import InputError
from tests.agency.inspect_mock import mock, run

SAMPLES = [Sample(id=f"q{n}", input=f"What is {n} + {n}?", target=str(2 * n)) for n in range(1, 6)]


@scorer(metrics=[mean()], name="table")
def by_table(values: Mapping[str, Any]) -> Scorer:
    async def score(state: TaskState, target: object) -> Score:
        value = values[str(state.sample_id)]
        return Score.unscored(reason="refusal") if value is None else Score(value=value, explanation=f"it is {value}")

    return score


@scorer(metrics={"*": [mean()]}, name="keyed")
def keyed() -> Scorer:
    async def score(state: TaskState, target: object) -> Score:
        return Score(value={"tone": 0.5, "length": len(state.output.completion)})

    return score


def sums(folder: Path, *scorers: Scorer, fail: str = "", name: str = "sums", **options: Any) -> EvalLog:
    """Answers 2 + 2 and the like; wrong for 3, an error where the text holds `fail`."""

    def answer(messages: list[Any]) -> str:
        number = int(messages[-1].content.split()[2])
        if fail and fail in messages[-1].content:
            raise ValueError("the service is down")
        return str(2 * number + (number == 3))

    task = Task(dataset=SAMPLES, scorer=list(scorers), name=name)
    return run(task, folder, subject=mock("sum", answer), fail_on_error=False, **options)


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> EvalLog:
    values = {"q1": 2.0, "q2": 8, "q3": None, "q4": 5.5, "q5": 10}
    return sums(tmp_path_factory.mktemp("foreign"), match(), by_table(values), keyed(), fail="is 5 ", epochs=2)


def test_letters_of_correctness_are_numbers(graded: EvalLog) -> None:
    log = import_log(graded.location, scorer="match")
    assert [item.id for item in log.stored.items] == [f"sums/q{n}" for n in range(1, 6)]
    assert {verdict.reply[5:7]: verdict.score for verdict in log.stored.verdicts} == {
        "q1": 10.0, "q2": 10.0, "q3": 0.0, "q4": 10.0,
    }  # fmt: skip
    assert (len(log.stored.replies), log.failed, log.unscored, log.missing) == (8, 2, 0, 0)
    assert log.due == {f"sums/q{n}" for n in range(1, 6)}
    assert log.config["scale"] == [0.0, 1.0]
    assert {reply.repeat for reply in log.stored.replies} == {0, 1}
    assert log.stored.replies[0].conversation[-1].content == "2"


def test_other_numbers_need_a_scale(graded: EvalLog) -> None:
    with pytest.raises(InputError, match=r"run from 2 to 8.* say their scale"):
        import_log(graded.location, scorer="table")
    stored = read_log(graded.location, scorer="table", scale=(0, 10))
    assert {verdict.reply[5:7]: verdict.score for verdict in stored.verdicts} == {
        "q1": 2.0, "q2": 8.0, "q3": None, "q4": 5.5,
    }  # fmt: skip
    turned = read_log(graded.location, scorer="table", scale=(10, 0))
    assert {verdict.reply[5:7]: verdict.score for verdict in turned.verdicts}["q1"] == 8.0
    with pytest.raises(InputError, match="not on the scale 0 to 5"):
        import_log(graded.location, scorer="table", scale=(0, 5))


def test_unscored_and_failed_are_counted_apart(graded: EvalLog) -> None:
    log = import_log(graded.location, scorer="table", scale=(0, 10))
    assert (log.failed, log.unscored) == (2, 2)
    one, _ = [verdict for verdict in log.stored.verdicts if verdict.score is None]
    assert (one.status, one.reason, one.blame, one.letters) == ("unscored", "refusal", "response", None)
    table = build_table(*log.stored)
    arm = Arm("mockllm/sum", "default")
    scores = table.item_scores(arm, "sums", "table")
    assert (scores.counts.due, scores.counts.scored, scores.counts.no_reply) == (10, 6, 2)
    assert scores.counts.blamed_reply == 2


def test_one_of_several_values_has_a_name_of_its_own(graded: EvalLog) -> None:
    log = import_log(graded.location, scorer="keyed.tone")
    assert {verdict.score for verdict in log.stored.verdicts} == {5.0}
    assert log.config["scorer"] == "keyed.tone"
    assert log.stored.verdicts[0].judge == "keyed.tone"


def test_the_choice_among_scorers_is_the_users(graded: EvalLog) -> None:
    with pytest.raises(InputError, match=r"keyed\.length, keyed\.tone, match, table"):
        import_log(graded.location)
    with pytest.raises(InputError, match="Did you mean 'match'"):
        import_log(graded.location, scorer="mtach")


def test_groups_of_samples_make_no_difference(graded: EvalLog, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = import_log(graded.location, scorer="match")
    monkeypatch.setattr(inspect_logs, "_AT_A_TIME", 3)
    assert import_log(graded.location, scorer="match") == whole


def test_two_logs_pair_by_sample_id(graded: EvalLog, tmp_path: Path) -> None:
    other = sums(tmp_path, match())
    first, second = read_log(graded.location, scorer="match"), read_log(other.location)
    assert first.items == second.items
    assert len(second.replies) == 5


def test_words_are_no_scores(tmp_path: Path) -> None:
    log = sums(tmp_path, by_table({sample.id: "splendid" for sample in SAMPLES}))
    with pytest.raises(InputError, match="'splendid' is no number"):
        import_log(log.location)


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.eval"
    broken.write_bytes(b"not a zip archive")
    for path, words in (
        (broken, "cannot be read as a log"),
        (tmp_path / "none.eval", "no file"),
        (tmp_path / "log.json", "convert it"),
    ):
        with pytest.raises(InputError, match=words):
            import_log(path)
