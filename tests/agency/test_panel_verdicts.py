import pytest

from inferalign.agency.outcome import headline
from inferalign.agency.panel_verdicts import PANEL, panel_verdicts
from inferalign.agency.records import Verdict
from inferalign.agency.stored import Stored
from inferalign.agency.table_build import build_table
from inferalign.core.errors import ScoringError
from inferalign.scorers.verdicts import rubric
from tests.agency.tables import DID, item, reply, verdict

RUBRICS = {DID: rubric(DID)}
ONE, TWO = reply("x"), reply("y")


def stored(*verdicts: Verdict) -> Stored:
    return Stored(items=[item("x"), item("y")], replies=[ONE, TWO], verdicts=list(verdicts))


def three(scores: list[float | None], letters: str = "AAB", blame: str = "judge") -> list[Verdict]:
    rows = zip("jkl", scores, letters, strict=True)
    return [verdict(ONE, score, judge, letters=named, blame=blame) for judge, score, named in rows]


def test_a_panel_is_a_judge_of_the_table() -> None:
    made = stored(*three([2, 4, 6]))
    (found,) = panel_verdicts(made, "jkl", RUBRICS)
    assert (found.judge, found.score, found.letters, found.status) == (PANEL, 4.0, ("A",), "ok")
    table = build_table(made.items, made.replies, [*made.verdicts, found])
    assert table.reply_scores(PANEL)[0] == 4.0


def test_without_a_quorum_it_is_unscored() -> None:
    (found,) = panel_verdicts(stored(*three([2, None, None])), "jkl", RUBRICS)
    assert (found.status, found.score, found.letters, found.blame) == ("unscored", None, None, "judge")
    assert found.reason == "2 of 3 judges reached no verdict: no"
    (found,) = panel_verdicts(stored(*three([2, None, None], blame="response")), "jkl", RUBRICS)
    assert found.blame == "response"


def test_a_judge_that_was_not_asked_yet_leaves_the_panel_without_a_verdict() -> None:
    made = [*three([2, 4, 6]), verdict(TWO, 3, "j"), verdict(TWO, 3, "k"), verdict(ONE, 9, "j", repeat=1)]
    assert [each.reply for each in panel_verdicts(stored(*made), "jkl", RUBRICS)] == [ONE.id]
    assert {(e.reply, e.judge_repeat) for e in panel_verdicts(stored(*made), "jk", RUBRICS)} == {
        (ONE.id, 0),
        (TWO.id, 0),
    }


def test_what_is_no_panel_is_refused() -> None:
    with pytest.raises(ScoringError, match="panel of 1"):
        panel_verdicts(stored(), "jj", RUBRICS)
    with pytest.raises(ScoringError, match="another one"):
        panel_verdicts(stored(*three([1, 2, 3])), "jk", RUBRICS, name="l")


def test_the_truth_comes_first_where_it_is_known() -> None:
    """A panel of it and the judge that is tested on it would be a mean of both."""
    means = {"oracle": ["truth"], "self": ["own"], "panel": ["both"]}
    assert headline(means) == ["truth"]
    assert headline({"self": ["own"], "other": ["theirs"], "panel": ["both"]}) == ["both"]
    assert headline({"self": ["own"]}) == ["own"]
    assert headline({}) == []
