"""Procedures by name."""

from __future__ import annotations

from typing import Any

import pytest

from inferalign.core.errors import InputError, UnknownName
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_settings import DEFAULT, PAPER
from inferalign.procedures.table import build, parse, rain_settings
from inferalign.scorers.base import TRUTHS
from inferalign.scorers.scripted import ScriptedScorer
from inferalign.scorers.table import build_scorer
from tests.toy import CharChat, PlainEngine, ngram_forward

CHAT: Any = CharChat()
ENGINE = PlainEngine(ngram_forward, CHAT.decode)


def made(text: str, scorer: Any = None, **more: Any) -> Any:
    arguments = {"sampling": Sampling(), **more}
    return build(text, engine=ENGINE, chat=CHAT, scorer=scorer or ScriptedScorer([]), seed=0, **arguments)


@pytest.mark.parametrize("text", ["sample", "best-of-n:4", "worst-of-n:16", "random-of-n:2", "rain", "rain:paper"])
def test_a_name_makes_itself_again(text: str) -> None:
    procedure = made(text)
    assert procedure.name == text
    assert procedure.describe()["procedure"] == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("best-of-m:4", "unknown procedure 'best-of-m:4'. Did you mean 'best-of-n'.* Give one of: sample, best-of-n:4"),
        ("rain:papr", "Did you mean 'paper'"),
        ("best-of-n", "give for example `best-of-n:4`"),
        ("best-of-n:0", "at least 1"),
        ("best-of-n:-3", "at least 1"),
        ("best-of-n:four", "expected a number"),
        ("sample:2", "nothing after a colon"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(text)


def test_unknown_names_are_their_own_error() -> None:
    with pytest.raises(UnknownName):
        parse("rian")


def test_named_settings_reach_the_search_and_flags_change_them() -> None:
    assert made("rain").settings == DEFAULT
    assert made("rain:paper").settings == PAPER
    assert rain_settings("rain:paper", {"max_iterations": 7, "stop_value": None}).max_iterations == 7
    assert rain_settings("rain:paper", {"stop_value": None}) == PAPER
    with pytest.raises(InputError, match="no search budget"):
        rain_settings("best-of-n:4", {"max_iterations": 7})


def test_the_setting_decides_how_the_judge_is_read() -> None:
    judge = build_scorer("self", engine=ENGINE, chat=CHAT, sandbox=False)
    for text, form in (("rain", "margin"), ("rain:paper", "vote")):
        rain = made(text, judge)
        assert isinstance(rain, Rain)
        assert rain.guide.describe()["form"] == form


@pytest.mark.parametrize("name", ["reward", "oracle-quality"])
def test_a_scorer_of_another_scale_guides_no_search(name: str) -> None:
    """It chooses among whole answers."""
    grade = ScriptedScorer([])
    grade.name = name
    for text in ("rain", "rain:paper"):
        with pytest.raises(InputError, match=f"values from -1 to 1, and those of '{name}' are on another scale"):
            made(text, grade, allow_oracle_guide=True)
    made("best-of-n:4", grade, allow_oracle_guide=True)


@pytest.mark.parametrize("name", TRUTHS)
def test_the_oracle_guides_only_when_asked_for(name: str) -> None:
    oracle = build_scorer(name, engine=ENGINE, chat=CHAT, sandbox=True)
    for text in ("best-of-n:4", "rain") if name == "oracle" else ("best-of-n:4",):
        with pytest.raises(InputError, match="--allow-oracle-guide"):
            made(text, oracle)
        made(text, oracle, allow_oracle_guide=True)
    made("random-of-n:4", oracle)


def test_sampling_flags_do_not_go_with_a_search() -> None:
    with pytest.raises(InputError, match="leave out --temperature"):
        made("rain", sampling=Sampling(temperature=0.5))
