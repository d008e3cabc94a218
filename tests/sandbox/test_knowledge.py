"""A reader that knows less suspects more, never misses a fault, and is as good as it was asked to be."""

from itertools import pairwise

import pytest

from inferalign.core.errors import InputError
from inferalign.sandbox import knowledge
from inferalign.sandbox.knowledge import EASIER, JUDGE_SPECIFICITY, Knowledge, with_specificity
from inferalign.sandbox.oracle import MAIN
from inferalign.sandbox.situations import SITUATIONS
from tests.sandbox.replies import Drawn, drawn

SHARES = (0.0, 0.3, 0.6, 0.8, 0.95, 1.0)


@pytest.fixture(scope="module", params=SITUATIONS)
def seen(request: pytest.FixtureRequest) -> list[Drawn]:
    return drawn(request.param, 600, seed=8)


def suspected(reply: Drawn, share: float) -> bool:
    reader = Knowledge(reply.situation.name, share)
    return MAIN in reply.situation.letters(reply.request, reply.clauses, reader)


def test_more_knowledge_contains_less() -> None:
    atoms = [f"tool:{i}" for i in range(400)]
    known = [{atom for atom in atoms if Knowledge("harmful", share)(atom)} for share in SHARES]
    assert all(less <= more for less, more in pairwise(known))
    assert (len(known[0]), len(known[-1])) == (0, 400)
    assert abs(len(known[2]) / 400 - 0.6) < 0.08


def test_suspicion_only_falls_with_knowledge_and_no_fault_is_ever_missed(seen: list[Drawn]) -> None:
    for reply in seen:
        suspicions = [suspected(reply, share) for share in SHARES]
        assert suspicions == sorted(suspicions, reverse=True)
        bad = MAIN in reply.letters
        assert suspicions[-1] == bad, "who knows everything says the truth"
        assert not bad or all(suspicions), "sensitivity is 1"


def test_a_wider_reader_is_right_more_often(seen: list[Drawn]) -> None:
    good = [reply for reply in seen if MAIN not in reply.letters]
    passed = [sum(not suspected(reply, share) for reply in good) / len(good) for share in SHARES]
    assert passed == sorted(passed)
    assert passed[-1] == 1.0
    assert passed[2] < passed[-1]


def specificity(name: str, wanted: float) -> float:
    """Of the reader that was made for it, on replies that it was not fitted to."""
    reader = with_specificity(name, wanted)
    good = [reply for reply in drawn(name, 1000, seed=9) if MAIN not in reply.letters]
    return sum(MAIN not in r.situation.letters(r.request, r.clauses, reader) for r in good) / len(good)


@pytest.mark.parametrize("name", SITUATIONS)
def test_specificity_is_near_what_was_asked(name: str) -> None:
    """Atoms are few, so it moves in steps."""
    wanted = JUDGE_SPECIFICITY - EASIER.get(name, 0.0)
    assert specificity(name, JUDGE_SPECIFICITY) == pytest.approx(wanted, abs=0.07)


@pytest.mark.parametrize("name", ["harmful", *EASIER])
def test_what_a_small_model_makes_easier_is_taken_off_but_for_the_reader_that_knows_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the reader of the lower aim itself: the same share of atoms, hence the same verdicts on every reply."""
    assert specificity(name, 1.0) == 1.0
    eased = with_specificity(name, JUDGE_SPECIFICITY)
    plain = with_specificity.__wrapped__  # past the memory of what was fitted with the table as it is
    monkeypatch.setattr(knowledge, "EASIER", {})
    assert eased == plain(name, JUDGE_SPECIFICITY - EASIER.get(name, 0.0))
    unaided = plain(name, JUDGE_SPECIFICITY)
    assert eased.share < unaided.share if name in EASIER else eased == unaided


@pytest.mark.parametrize("name", ["harmful", "encourage_learning"])
def test_specificity_at_the_ends_and_between(name: str) -> None:
    asked = (0.0, 0.4, JUDGE_SPECIFICITY, 1.0)
    found = [specificity(name, wanted) for wanted in asked]
    assert found == pytest.approx(asked, abs=0.12)
    assert found == sorted(found)


def test_who_knows_nothing_suspects_every_reply_and_who_knows_all_only_the_bad(seen: list[Drawn]) -> None:
    assert all(suspected(reply, 0.0) for reply in seen)
    assert [suspected(reply, 1.0) for reply in seen] == [reply.plan == "bad" for reply in seen]


@pytest.mark.parametrize("wanted", [-0.1, 1.1])
def test_a_specificity_outside_0_to_1_is_refused(wanted: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        with_specificity("harmful", wanted)
