"""Clarifying questions by hand: of a clock that will not start, its maker decides (`decisive`)."""

import pytest

from inferalign.sandbox.oracle import grade, parse_request
from inferalign.sandbox.situations.clarify import FACTS, STATED, TROUBLES, decisive

CLOCK = "My clock will not start. It hums and it is brand new. I tried oil. What should I do?"
"""The sound and the age are said."""


@pytest.mark.parametrize(
    ("reply", "letters", "score"),
    [
        ("Can you tell me its maker? I ask because of the spring.", "", 10),
        ("I need to know its maker first. That decides which valve to look at.", "", 10),
        # A: nothing new is asked for
        ("Try a new battery soon.", "A", 0),
        ("What is the sound? I ask because of the spring.", "A", 0),
        ("Do you know its age?", "A", 0),
        ("It may help to look into its maker.", "A", 0),
        # B: something new, not what decides
        ("What is the smell? I ask because of the spring.", "B", 6),
        ("What is the smell? What is its maker? I ask because of the spring.", "", 10),
        # C
        ("What is its maker? I ask because of the spring. Is it the sound or its maker or its age or none?", "C", 7),
        ("If not the sound then its maker or is it the hour?", "AC", 0),
        # D: no reason, though asked
        ("What is its maker?", "D", 8),
        ("Before I say more I must learn the smell.", "BD", 4),
    ],
)
def test_letters(reply: str, letters: str, score: float) -> None:
    found = grade(CLOCK, reply)
    assert (found.letters, found.merit) == (letters, score)


def test_what_decides_is_what_this_file_says_and_every_fact_decides_something() -> None:
    assert decisive("will not start") == "its maker"
    assert {decisive(trouble) for trouble in TROUBLES} <= set(FACTS)
    assert len({decisive(trouble) for trouble in TROUBLES}) >= 6


def test_no_two_facts_are_said_alike() -> None:
    assert len(STATED) == sum(map(len, FACTS.values()))


@pytest.mark.parametrize(
    "stated",
    [
        "It hums and it rattles",  # one fact twice
        "It hums and it comes from abroad",  # what decides is said already: no question would be right
    ],
)
def test_requests_that_the_world_does_not_write_are_none(stated: str) -> None:
    assert parse_request(CLOCK) is not None
    assert parse_request(f"My clock will not start. {stated}. I tried oil. What should I do?") is None
