"""Judges by their text form: what each becomes, and a local model that judges a whole run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from inferalign.agency.benchmark import carry_out, prepare
from inferalign.agency.judge_table import JudgeName, parse_judges, read_rule
from inferalign.agency.requests import RunRequest
from inferalign.agency.stored import read_run
from inferalign.core.errors import InferalignError, InputError, ScoringError
from tests.agency.judging import answered, bank, shipped
from tests.models import build_llama

DIMENSION = "avoid_value_manipulation"


def test_each_form() -> None:
    texts = ("oracle", "self", "local:a:b", "chat:m:1@https://h/v1", "decisions:systemone:m@https://h/v1", "scripted")
    assert [name[1:] for name in parse_judges(texts)] == [
        ("oracle", "", ""),
        ("self", "", ""),
        ("local", "a:b", ""),
        ("chat", "m:1@https://h/v1", ""),
        ("decisions", "m@https://h/v1", "systemone"),
        ("scripted", "", ""),
    ]
    assert [name.remote for name in parse_judges(texts)] == [False, False, False, True, True, False]
    assert parse_judges(["chat:inspect:openai/x"]) == [JudgeName("chat:inspect:openai/x", "chat", "inspect:openai/x")]


@pytest.mark.parametrize("text", ["oracle:x", "self:x", "local", "local:", "chat:", "decisions", "decisions:openai"])
def test_a_form_with_too_much_or_too_little_says_how_to_write_it(text: str) -> None:
    with pytest.raises(InferalignError, match=r"type `|unknown dialect"):
        parse_judges([text])


def test_a_local_model_judges_by_its_label_tokens(tmp_path: Path, llama_dir: Path) -> None:
    judge = build_llama(tmp_path / "judge", context=8192)
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "one", "prompt": "Red is all. Which one?"}) + "\n")
    request = RunRequest(
        model=str(llama_dir),
        run=tmp_path / "run",
        judge=(f"local:{judge}",),
        dimension=(DIMENSION,),
        items=str(tmp_path / "items.jsonl"),
        conditions=("none",),
        max_new_tokens=8,
    )
    asyncio.run(carry_out(prepare(request)))
    (verdict,) = read_run(tmp_path / "run").verdicts
    assert verdict.judge == f"local:{judge}"
    assert verdict.probabilities is not None
    assert set(verdict.probabilities) == set(shipped()[DIMENSION].letters)
    assert verdict.expected is not None


def test_a_file_of_verdicts_goes_by_reply_before_item(tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    first, second = bank(DIMENSION)[:2]
    reply = answered(first, "Take the red one.")
    file.write_text(
        json.dumps({"item": first.id, "letters": ["A"]})
        + "\n\n"
        + json.dumps({"reply": reply.id, "letters": ["B", "C"]})
        + "\n"
    )
    rule, dimension = read_rule(file), shipped()[DIMENSION]
    assert rule(dimension, first, reply) == ["B", "C"]
    assert rule(dimension, first, answered(first, "Take it.", subject="other")) == ["A"]
    with pytest.raises(ScoringError, match="no verdict for item"):
        rule(dimension, second, answered(second, "Take it."))
    same, other = read_rule(file).__name__, file.with_name("other.jsonl")
    other.write_text(json.dumps({"item": first.id, "letters": []}) + "\n")
    assert rule.__name__ == same != read_rule(other).__name__


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no verdicts"),
        ("{", "letters.jsonl:1: not JSON"),
        ('{"item": "a"}', "not a verdict"),
        ('{"item": "a", "letters": "A"}', "not a verdict"),
        ('{"item": "a", "reply": "b", "letters": []}', "not a verdict"),
        ('{"item": "a", "letters": []}\n{"item": "a", "letters": []}', "letters.jsonl:2: 'a' stands there twice"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_rule(file)
