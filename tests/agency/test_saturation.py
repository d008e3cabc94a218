import pytest

from inferalign.agency.dimension import load_dimension
from inferalign.agency.records import Item
from inferalign.agency.saturation import hardest_examples, saturation
from inferalign.agency.simulate import SimulateSettings, plan_call, shipped_themes
from inferalign.core.errors import InputError, ScoringError

DIMENSION = load_dimension("ask_clarifying_questions")


def items(n: int) -> list[Item]:
    """One in four is an anchor."""
    return [
        Item(id=f"i{k:03}", dimension=DIMENSION.id, prompt=f"message {k}", form="regular" if k % 4 else "anchor")
        for k in range(n)
    ]


def test_a_mean_above_nine_tenths_is_saturated() -> None:
    low, high = {"a": {"m": 8.0}, "b": {"m": 10.0}}, {"a": {"m": 8.1}, "b": {"m": 10.0}}
    assert saturation(low, 10.0).mean == 9.0
    assert not saturation(low, 10.0).saturated
    assert saturation(high, 10.0).ceiling


def test_items_weigh_the_same_however_many_subjects_they_have() -> None:
    assert saturation({"a": {"m": 0.0, "n": 0.0, "o": 6.0}, "b": {"m": 10.0}}, 10.0).mean == 6.0


def test_no_item_that_tells_subjects_apart_is_flat_even_if_items_differ() -> None:
    flat = saturation({"a": {"m": 4.0, "n": 4.0}, "b": {"m": 8.0, "n": 8.0}}, 10.0)
    assert (flat.flat, flat.ceiling, flat.saturated) == (True, False, True)
    assert not saturation({"a": {"m": 4.0, "n": 4.0}, "b": {"m": 8.0, "n": 7.0}}, 10.0).saturated


def test_one_subject_is_flat_when_its_items_are_all_alike() -> None:
    assert saturation({"a": {"m": 5.0}, "b": {"m": 5.0}}, 10.0).flat
    assert not saturation({"a": {"m": 5.0}, "b": {"m": 6.0}}, 10.0).flat


def test_nothing_scored() -> None:
    with pytest.raises(ScoringError, match="no item has a score"):
        saturation({"a": {}}, 10.0)


def test_the_examples_are_of_the_hardest_tenth_and_never_anchors() -> None:
    pool = items(120)
    scores = {item.id: {"m": float(k), "n": float(k)} for k, item in enumerate(pool)}
    regular = [item.id for item in pool if item.form == "regular"]
    assert len(regular) == 90
    drawn = [hardest_examples(pool, scores, DIMENSION, wanted=4, seed=seed) for seed in range(40)]
    found = {example.id for examples in drawn for example in examples}
    assert found == set(regular[:9])
    assert len({tuple(e.id for e in examples) for examples in drawn}) > 20
    assert all(len({e.id for e in examples}) == 4 for examples in drawn)


def test_the_draw_does_not_depend_on_the_order_of_the_items() -> None:
    pool = items(40)
    scores = {item.id: {"m": 1.0} for item in pool}
    there = hardest_examples(pool, scores, DIMENSION, wanted=3, seed=1)
    assert hardest_examples(pool[::-1], scores, DIMENSION, wanted=3, seed=1) == there
    assert hardest_examples(pool, scores, DIMENSION, wanted=3, seed=2) != there


def test_a_short_tenth_is_filled_up_by_the_next_hardest() -> None:
    pool = items(8)
    scores = {item.id: {"m": float(k)} for k, item in enumerate(pool)}
    found = hardest_examples(pool, scores, DIMENSION, wanted=3, seed=0)
    assert [example.id for example in found] == ["i001", "i002", "i003"]
    assert found[0].fields == {"prompt": "message 1"}


def test_items_without_a_score_are_left_out() -> None:
    pool = items(8)
    scores = {item.id: {"m": float(k)} for k, item in enumerate(pool) if k != 1} | {"i001": {}}
    found = hardest_examples(pool, scores, DIMENSION, wanted=3, seed=0)
    assert [example.id for example in found] == ["i002", "i003", "i005"]


@pytest.mark.parametrize("wanted", [2, 7])
def test_too_few_wanted_or_there(wanted: int) -> None:
    pool = items(8)
    with pytest.raises(InputError, match="6 regular items with a score"):
        hardest_examples(pool, {item.id: {"m": 1.0} for item in pool}, DIMENSION, wanted=wanted, seed=0)


def test_an_item_that_lacks_a_field_cannot_be_an_example() -> None:
    dimension = load_dimension("correct_misinformation")
    pool = items(8)
    with pytest.raises(InputError, match="has no misinformation"):
        hardest_examples(pool, {item.id: {"m": 1.0} for item in pool}, dimension, wanted=3, seed=0)


def test_they_are_what_the_next_simulation_shows() -> None:
    pool = items(60)
    hard = hardest_examples(pool, {item.id: {"m": 1.0} for item in pool}, DIMENSION, wanted=3, seed=0)
    call = plan_call(DIMENSION, SimulateSettings(), 0, themes=shipped_themes(), examples=hard)
    assert sorted(call.example_ids) == sorted(example.id for example in hard)
    assert all(example.fields["prompt"] in call.prompt for example in hard)
