import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.agency.asking import Malformed
from inferalign.agency.dimension import load_dimension
from inferalign.agency.drafts import as_answered, draft_fault, drafts_schema, form_of_answer, parse_drafts

ONE_FIELD = load_dimension("ask_clarifying_questions")
TWO_FIELDS = load_dimension("correct_misinformation")
FALSE = "It was finished in 1802."


def words(n: int) -> str:
    return " ".join(["word"] * n)


def test_the_messages_come_in_the_order_of_their_keys() -> None:
    assert parse_drafts('{"2": "b", "3": " c\\n", "1": "a"}', ONE_FIELD) == (
        {"prompt": "a"},
        {"prompt": "b"},
        {"prompt": "c"},
    )


def test_a_dimension_with_more_fields_has_objects() -> None:
    value = {"misinformation": FALSE, "prompt": f"A bridge. {FALSE} It is long."}
    drafts = parse_drafts(json.dumps({"1": value, "2": value, "3": value}), TWO_FIELDS)
    assert drafts == (value, value, value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1. a\n2. b\n3. c", "not JSON"),
        ('["a", "b", "c"]', "not an object"),
        ('{"1": "a", "2": "b"}', "wrong count"),
        ('{"1": "a", "2": "b", "3": "c", "4": "d"}', "wrong count"),
        ('{"0": "a", "1": "b", "2": "c"}', "wrong count"),
        ('{"messages": ["a", "b", "c"]}', "wrong count"),
        ('{"1": "a", "2": "b", "2": "c"}', "not JSON"),
        ('{"1": "a", "2": "b", "3": ""}', "wrong fields"),
        ('{"1": "a", "2": "b", "3": 7}', "wrong fields"),
        ('{"1": "a", "2": "b", "3": null}', "wrong fields"),
        ('{"1": "a", "2": "b", "3": {"prompt": "c"}}', "wrong fields"),
    ],
)
def test_another_form_is_malformed(text: str, reason: str) -> None:
    found = parse_drafts(text, ONE_FIELD)
    assert isinstance(found, Malformed)
    assert found.reason == reason


@pytest.mark.parametrize(
    "value",
    ["a", {"prompt": "a"}, {"prompt": "a", "misinformation": "a", "truth": "b"}, {"prompt": "a", "misinformation": 1}],
)
def test_fields_that_are_missing_too_many_or_no_text(value: object) -> None:
    found = parse_drafts(json.dumps({"1": value, "2": value, "3": value}), TWO_FIELDS)
    assert isinstance(found, Malformed)
    assert found.reason == "wrong fields"


@given(st.text() | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(json.dumps))
def test_no_text_raises_and_none_gives_another_number_of_messages(text: str) -> None:
    found = parse_drafts(text, ONE_FIELD)
    assert isinstance(found, Malformed) or len(found) == 3


@pytest.mark.parametrize(
    ("n", "fault"), [(31, "too short"), (32, None), (40, None), (140, None), (168, None), (169, "too long")]
)
def test_length_counts_words_with_the_tolerance_on_both_sides(n: int, fault: str | None) -> None:
    assert ONE_FIELD.generate.length_words == (40, 140)
    assert draft_fault({"prompt": words(n)}, ONE_FIELD, 0.2, []) == fault


def test_without_tolerance_the_bounds_are_the_dimensions() -> None:
    assert draft_fault({"prompt": words(39)}, ONE_FIELD, 0.0, []) == "too short"
    assert draft_fault({"prompt": words(141)}, ONE_FIELD, 0.0, []) == "too long"


def test_the_false_sentence_stands_in_the_prompt_letter_by_letter() -> None:
    prompt = f"{words(60)}. {FALSE} {words(60)}."
    fine = {"prompt": prompt, "misinformation": FALSE}
    assert draft_fault(fine, TWO_FIELDS, 0.2, []) is None
    for other in (FALSE.lower(), FALSE.replace("1802", "1803"), f"{FALSE} No."):
        fault = draft_fault(fine | {"misinformation": other}, TWO_FIELDS, 0.2, [])
        assert fault == "misinformation is not in the prompt word for word"


def test_a_copied_example_is_found_whatever_its_case_and_spaces() -> None:
    example = ONE_FIELD.generate.examples[0]["prompt"]
    copy = {"prompt": example.upper().replace(" ", "\n ")}
    assert draft_fault(copy, ONE_FIELD, 0.2, [example]) == "copies an example"
    assert draft_fault(copy, ONE_FIELD, 0.2, []) is None


def test_the_form_is_said_and_constrained() -> None:
    assert '"1" to "3"' in form_of_answer(ONE_FIELD)
    assert "40 to 140 words" in form_of_answer(ONE_FIELD)
    assert "misinformation: " in form_of_answer(TWO_FIELDS)
    schema = drafts_schema(TWO_FIELDS)
    assert schema["required"] == ["1", "2", "3"]
    assert schema["properties"]["2"]["required"] == ["prompt", "misinformation"]
    assert drafts_schema(ONE_FIELD)["properties"]["1"] == {"type": "string"}


@pytest.mark.parametrize("dimension", [ONE_FIELD, TWO_FIELDS], ids=lambda d: d.id)
def test_the_examples_have_the_form_that_is_asked_for_and_pass_the_checks(dimension) -> None:  # type: ignore[no-untyped-def]
    shown = dimension.generate.examples[:3]
    answer = json.dumps({str(place): as_answered(dimension, one) for place, one in enumerate(shown, start=1)})
    drafts = parse_drafts(answer, dimension)
    assert drafts == tuple({name: one[name].strip() for name in dimension.generate.fields} for one in shown)
    assert [draft_fault(draft, dimension, 0.2, []) for draft in drafts] == [None] * 3
