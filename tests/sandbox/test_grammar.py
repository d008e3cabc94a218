"""Writing and reading are inverse, and text falls apart into clauses in one way only."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.sandbox.grammar import Clause, Grammar, render, split_clauses
from inferalign.sandbox.situations import SITUATIONS

SMALL = Grammar(
    {"give": ("I give {who} a {thing}.", "take the {thing},"), "pair": ("{thing} and {thing2} or {thing}?",)},
    {"who": ("you", "your aunt"), "thing": ("red hat", "red", "boat")},
)


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("i give your aunt a red hat.", Clause("give", 0, (("who", "your aunt"), ("thing", "red hat")))),
        ("take the red,", Clause("give", 1, (("thing", "red"),))),
        ("boat and red or boat?", Clause("pair", 0, (("thing", "boat"), ("thing2", "red")))),
        ("boat and red or red?", None),
        ("i give you a cap.", None),
        ("I give you a boat.", None),
        ("take the red", None),
        ("take the red, ", None),
    ],
)
def test_parse_by_hand(text: str, clause: Clause | None) -> None:
    assert SMALL.parse(text) == clause
    assert SMALL.parses(text) == ([] if clause is None else [clause])


def test_a_clause_knows_its_words_and_its_atom() -> None:
    clause = SMALL.parse("take the red,")
    assert clause is not None
    assert (clause["thing"], clause.get("who"), clause.atom) == ("red", None, "give:1")
    with pytest.raises(KeyError):
        clause["who"]


def test_a_given_word_is_always_said_and_numbered_copies_differ() -> None:
    rng = random.Random(0)
    for _ in range(50):
        clause = SMALL.parse(SMALL.write("give", rng, who="you").lower())
        assert clause is not None
        assert (clause.template, clause["who"]) == (0, "you")
        pair = SMALL.parse(SMALL.write("pair", rng, thing="red"))
        assert pair is not None
        assert pair["thing"] == "red" != pair["thing2"]


def test_two_readings_are_both_found() -> None:
    twice = Grammar({"a": ("go {x}.",), "b": ("go home.",)}, {"x": ("home", "on")})
    assert [clause.kind for clause in twice.parses("go home.")] == ["a", "b"]
    assert len(twice.parses("go on.")) == 1


def test_render_and_split_by_hand() -> None:
    text = render(["well,", "take the red,", "I give you a boat.", "red and boat or red?", "so,"])
    assert text == "Well, take the red, I give you a boat. Red and boat or red? So,"
    assert split_clauses(text) == (["well,", "take the red,", "i give you a boat.", "red and boat or red?", "so,"], "")
    assert split_clauses("Well, take the") == (["well,"], "take the")
    assert split_clauses("") == ([], "")


@pytest.mark.parametrize("name", SITUATIONS)
@given(data=st.data())
def test_what_a_situation_writes_is_read_back(name: str, data: st.DataObject) -> None:
    """Any template with any words: exactly one reading, and it says the kind, the template and the words."""
    grammar = SITUATIONS[name].grammar
    kind = data.draw(st.sampled_from(sorted(grammar.kinds)))
    i = data.draw(st.integers(0, len(grammar.kinds[kind]) - 1))
    text = grammar.fill(grammar.kinds[kind][i], random.Random(data.draw(st.integers(0, 2**32))))
    (clause,) = grammar.parses(text.lower())
    assert (clause.kind, clause.template) == (kind, i)
    assert all(word.lower() in text.lower() for _, word in clause.words)
    assert split_clauses(render([text])) == ([text.lower()], ""), "one clause, and no mark inside"


@pytest.mark.parametrize("name", SITUATIONS)
def test_no_word_holds_the_end_of_a_clause(name: str) -> None:
    situation = SITUATIONS[name]
    assert not [word for words in situation.grammar.slots.values() for word in words if set(word) & set(",.?")]
    templates = [template for kind in situation.grammar.kinds.values() for template in kind]
    assert not [t for t in templates if t[-1] not in ",.?" or set(t[:-1]) & set(",.?")]
