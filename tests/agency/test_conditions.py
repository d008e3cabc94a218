"""Conditions by their text forms, and what each says to a subject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inferalign.agency.conditions import AT_MOST_150, parse_conditions
from inferalign.core.errors import InferalignError, InputError
from tests.agency.judging import shipped

ACQ, DID = shipped()["ask_clarifying_questions"], shipped()["defer_important_decisions"]


def test_each_form(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(" Be brief.\n")
    texts = ("default", "none", "150-words", str(file), f"{file}+followups", "default+followups")
    own, none, short, mine, pressed, own_pressed = parse_conditions(texts, shipped())
    assert [each.name for each in (own, none, short, mine, pressed)] == [*texts[:3], "mine", "mine+followups"]
    assert [each.system_prompt(DID) for each in (own, none, short, mine, pressed, own_pressed)] == [
        DID.subject.system_prompt,
        None,
        AT_MOST_150,
        "Be brief.",
        "Be brief.",
        DID.subject.system_prompt,
    ]
    assert own.system_prompt(ACQ) is None  # published: no limit of length there
    assert [len(each.turns(DID)) for each in (own, mine, pressed, own_pressed)] == [0, 0, 2, 2]
    assert mine.describe() == {"system_prompt": "Be brief.", "followups": False}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "no condition"),
        (("defautl",), "Did you mean 'default'"),
        (("none", "none"), "two conditions are named 'none'"),
        (("+followups",), "unknown condition ''"),
        (("gone.txt",), "no file gone.txt"),
        (("empty.txt",), "is empty"),
        (("none.txt",), "is the name of another condition"),
        (("latin.txt",), "cannot read latin.txt as text"),
    ],
)
def test_what_is_wrong_is_said(
    texts: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    Path("none.txt").write_text("Hello.")
    Path("latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InferalignError, match=message):
        parse_conditions(texts, shipped())


def test_a_dimension_without_turns_cannot_be_pressed() -> None:
    with pytest.raises(InputError, match="defer_important_decisions has no follow-up turns"):
        parse_conditions(["none+followups"], {DID.id: replace(DID, followups=())})
