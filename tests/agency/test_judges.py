"""The judges that ask nobody (oracle, scripted), and panels of judges."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.agency.judge_sandbox import OracleJudge
from inferalign.agency.judge_scripted import ScriptedJudge, by_hash, by_table
from inferalign.agency.panel import Panel, combine
from inferalign.agency.records import Verdict
from inferalign.core.errors import InputError, ScoringError, UnknownName
from inferalign.core.types import RoleUsage, Unscored
from inferalign.scorers.verdicts import rubric
from tests.agency.judging import answered, bank, judged, shipped

EL = "encourage_learning"
RUBRIC = rubric(EL)
ITEM = bank(EL)[0]


# --- the oracle ---


@dataclass
class Truth:
    situation: str | None
    letters: str | None


def test_the_oracle_by_letters() -> None:
    judge = OracleJudge(shipped(), lambda prompt, reply: Truth(EL, "DC" if reply == "bad" else ""))
    bad = judged(judge, ITEM, answered(ITEM, "bad"))
    assert (bad.judge, bad.status, bad.letters, bad.score) == ("oracle", "ok", ("C", "D"), 2.0)
    assert judged(judge, ITEM, answered(ITEM, "good")).score == 10.0


@pytest.mark.parametrize(
    ("truth", "reason", "blame"),
    [
        (Truth(None, None), "knows no truth about this prompt", "judge"),
        (Truth("benign", "A"), "knows no truth about this prompt in encourage_learning", "judge"),
        (Truth(EL, None), "cannot parse this reply", "response"),
    ],
)
def test_what_the_oracle_cannot_tell_is_unscored(truth: Truth, reason: str, blame: str) -> None:
    found = judged(OracleJudge(shipped(), lambda prompt, reply: truth), ITEM, answered(ITEM, "x"))
    assert (found.status, found.score, found.letters, found.blame) == ("unscored", None, None, blame)
    assert reason in found.reason


def test_the_oracle_judges_no_conversations_and_no_prompts_of_others() -> None:
    judge = OracleJudge(shipped())
    assert "not conversations" in judged(judge, ITEM, answered(ITEM, "x", "y", "z")).reason
    assert "knows no truth" in judged(judge, ITEM, answered(ITEM, "x")).reason


# --- the scripted judge ---


def test_verdicts_by_a_table() -> None:
    table = {f"{ITEM.id}/m/plain/0": ["D", "C"], f"{ITEM.id}/m/plain/1": Unscored("asleep", blame="judge")}
    judge = ScriptedJudge(shipped(), by_table(table))
    first = judged(judge, ITEM, answered(ITEM, "x"))
    assert (first.judge, first.letters, first.score) == ("scripted", ("C", "D"), 2.0)
    second = judged(judge, ITEM, answered(ITEM, "x", repeat=1))
    assert (second.status, second.reason, second.score) == ("unscored", "asleep", None)
    with pytest.raises(ScoringError, match="script one more"):
        judged(judge, ITEM, answered(ITEM, "x", repeat=2))
    with pytest.raises(UnknownName):
        judged(ScriptedJudge(shipped(), lambda dimension, item, reply: ["a"]), ITEM, answered(ITEM, "x"))
    assert judge.describe()["judge"] == "scripted"


def test_verdicts_by_the_text_alone() -> None:
    judge = ScriptedJudge(shipped(), by_hash)
    texts = [f"answer {i}" for i in range(200)]
    found = [judged(judge, ITEM, answered(ITEM, text)) for text in texts]
    again = [judged(judge, ITEM, answered(ITEM, text, subject="other")).letters for text in texts]
    assert [one.letters for one in found] == again
    share = sum(len(one.letters or ()) for one in found) / (6 * len(found))
    assert 0.2 < share < 0.3


# --- panels ---


def verdict(judge: str, letters: str | None, reply: str = "r") -> Verdict:
    if letters is None:
        return Verdict(reply=reply, judge=judge, judge_repeat=0, status="unscored", letters=None, score=None)
    return Verdict(
        reply=reply, judge=judge, judge_repeat=0, status="ok", letters=tuple(letters), score=RUBRIC.score(letters)
    )


def panel_of(*letters: str | None) -> list[Verdict]:
    return [verdict(f"j{i}", one) for i, one in enumerate(letters)]


@pytest.mark.parametrize(
    ("letters", "score", "majority"),
    [
        (("A", "AC", ""), (3 + 0 + 10) / 3, "A"),
        (("A", "C"), (3 + 6) / 2, ""),  # a tie is no majority
        (("A", "A", "C", ""), (3 + 3 + 6 + 10) / 4, ""),
        (("CD", "CD", None), 2.0, "CD"),
        (("CD", None), None, None),  # one of two is not more than half
        ((None, None, "A"), None, None),
        ((None, None), None, None),
        (("", "", ""), 10.0, ""),
    ],
)
def test_a_panel_by_hand(letters: Sequence[str | None], score: float | None, majority: str | None) -> None:
    found = combine(panel_of(*letters), RUBRIC)
    assert found.score == (None if score is None else pytest.approx(score))
    assert found.letters == (None if majority is None else tuple(majority))
    assert found.scored == sum(one is not None for one in letters)
    assert found.verdicts == tuple(panel_of(*letters))
    assert bool(found.shares) == (score is not None)


named = st.none() | st.sets(st.sampled_from("ABCDEF")).map(lambda s: "".join(sorted(s)))


@given(letters=st.lists(named, min_size=2, max_size=6), seed=st.randoms(use_true_random=False))
def test_what_holds_of_every_panel(letters: list[str | None], seed: object) -> None:
    found = combine(panel_of(*letters), RUBRIC)
    turned = combine(panel_of(*letters[::-1]), RUBRIC)
    assert (turned.score is None) == (found.score is None)
    assert turned.letters == found.letters
    if found.score is None or found.letters is None:
        return
    scores = [RUBRIC.score(one) for one in letters if one is not None]
    assert min(scores) - 1e-9 <= found.score <= max(scores) + 1e-9
    everyone = set.intersection(*(set(one) for one in letters if one is not None))
    anyone = set.union(*(set(one) for one in letters if one is not None))
    assert everyone <= set(found.letters) <= anyone


def test_a_panel_asks_every_judge_and_keeps_each_verdict() -> None:
    def named_judge(name: str, letters: str) -> ScriptedJudge:
        judge = ScriptedJudge(shipped(), lambda dimension, item, reply: letters)
        judge.name = name
        return judge

    panel = Panel([named_judge("one", "A"), named_judge("two", "AC"), named_judge("three", "")])
    found = asyncio.run(panel.judge(ITEM, answered(ITEM, "x"), repeat=1, usage=RoleUsage(), rubric=RUBRIC))
    assert [(one.judge, one.judge_repeat, one.score) for one in found.verdicts] == [
        ("one", 1, 3.0),
        ("two", 1, 0.0),
        ("three", 1, 10.0),
    ]
    assert (found.letters, found.score) == (("A",), pytest.approx(13 / 3))
    silent = asyncio.run(panel.judge(ITEM, answered(ITEM, " "), repeat=0, usage=RoleUsage(), rubric=RUBRIC))
    assert silent.score is None
    assert {one.blame for one in silent.verdicts} == {"response"}
    with pytest.raises(InputError, match="judge 'one' is on the panel twice"):
        Panel([named_judge("one", "A"), named_judge("one", "C")])
    with pytest.raises(InputError, match="a panel of 1"):
        Panel([named_judge("one", "A")])


def test_scores_without_letters_have_a_mean_and_no_majority() -> None:
    bare = [replace(verdict(name, "A"), letters=None, score=score) for name, score in (("a", 4.0), ("b", 5.0))]
    found = combine(bare, RUBRIC)
    assert (found.score, found.letters, found.shares) == (4.5, None, {})
    half = combine([bare[0], verdict("b", "A")], RUBRIC)
    assert half.letters == ("A",)


def test_verdicts_of_different_replies_are_no_panel() -> None:
    with pytest.raises(ScoringError, match="must be of one reply"):
        combine([verdict("a", "A"), verdict("b", "A", reply="s")], RUBRIC)
    with pytest.raises(ScoringError, match="must be of one reply"):
        combine([], RUBRIC)
