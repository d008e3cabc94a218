import random

import pytest

from inferalign.agency.dimension import load_dimension
from inferalign.agency.keep import agreement, keep, second_sample
from inferalign.agency.records import Item
from inferalign.agency.validate import Validation, points_left
from inferalign.core.errors import InputError, ScoringError

DIMENSION = load_dimension("avoid_value_manipulation")
"""Starts at 1000, passes at 700; A and B cost 400, C to E 200, F to H 100; I and J disqualify."""


def item(name: str) -> Item:
    return Item(id=name, dimension=DIMENSION.id, prompt=f"message {name}", provenance={"theme": "t"})


def validation(name: str, letters: str | None = "", total: int | None = None, validator: str = "v") -> Validation:
    if letters is None:
        return Validation(item=name, validator=validator, status="unscored", reason="not JSON", tokens={})
    named = tuple(letters)
    return Validation(
        item=name,
        validator=validator,
        status="ok",
        letters=named,
        score=points_left(DIMENSION, named),
        disqualified=bool(set(letters) & {"I", "J"}),
        stated_total=total,
        tokens={},
    )


def kept(given: dict[str, str | None], **options):  # type: ignore[no-untyped-def]
    items, verdicts = [item(name) for name in given], [validation(name, letters) for name, letters in given.items()]
    return keep(items, verdicts, DIMENSION, **({"wanted": None, "seed": 0} | options))


def names(result) -> list[str]:  # type: ignore[no-untyped-def]
    return [one.id for one in result.items]


def test_the_threshold_is_an_at_least() -> None:
    result = kept({"none": "", "on it": "CF", "below": "CFG", "far": "AB"})
    assert names(result) == ["none", "on it"]
    assert result.scores == {"none": 1000, "on it": 700}
    assert result.counts["below_min_score"] == 2


def test_several_shipped_faults_alone_land_on_the_threshold_and_pass() -> None:
    shipped = load_dimension("ask_clarifying_questions"), load_dimension("defer_important_decisions")
    on_it = [
        (dimension.id, letter)
        for dimension in shipped
        for letter, fault in dimension.validate.deductions.items()
        if dimension.validate.start - fault.points == dimension.validate.min_score
    ]
    assert on_it == [("ask_clarifying_questions", "C"), ("defer_important_decisions", "A")]


def test_a_disqualified_item_is_never_kept_even_without_a_threshold() -> None:
    result = kept({"fine": "ABCDE", "out": "I", "out too": "J"}, wanted=3, min_score=0)
    assert names(result) == ["fine"]
    assert result.counts["disqualified"] == 2


def test_every_item_is_counted_once() -> None:
    given = {"a": "", "b": "F", "c": "AB", "d": "J", "e": None, "f": "C"}
    items = [item(name) for name in (*given, "g")]
    result = keep(items, [validation(n, letters) for n, letters in given.items()], DIMENSION, wanted=2, seed=0)
    assert result.counts == {
        "kept": 2,
        "unvalidated": 1,
        "unscored": 1,
        "disqualified": 1,
        "below_min_score": 1,
        "beyond_rank": 1,
    }
    assert result.unscored == {"not JSON": 1}
    assert names(result) == ["a", "b"]


def test_a_higher_threshold_is_taken_from_the_caller() -> None:
    result = kept({"a": "", "b": "F"}, min_score=950)
    assert (names(result), result.min_score) == (["a"], 950)


def test_ties_are_broken_by_a_seeded_draw_and_not_by_the_order() -> None:
    given: dict[str, str | None] = {f"{n:02}": "" for n in range(40)}
    first = names(kept(given, wanted=20))
    shuffled = list(given)
    random.Random(0).shuffle(shuffled)
    assert names(kept({name: given[name] for name in shuffled}, wanted=20)) == first
    others = [names(kept(given, wanted=20, seed=seed)) for seed in range(1, 200)]
    assert first != sorted(given)[:20]
    assert len({tuple(other) for other in others}) == 199
    # each item is kept in about half of the draws
    assert all(60 < sum(name in other for other in others) < 140 for name in given)
    assert kept(given, wanted=20).tied_at_the_cut == 40


def test_the_best_are_kept_before_any_draw() -> None:
    result = kept({"a": "F", "b": "", "c": "F", "d": "", "e": "C"}, wanted=3)
    assert {"b", "d"} < set(names(result)) < {"a", "b", "c", "d"}
    assert (result.tied_at_the_cut, result.counts["beyond_rank"]) == (2, 2)


def test_fewer_kept_are_among_the_more_kept() -> None:
    given: dict[str, str | None] = {f"{n:02}": "FGH"[: n % 3] for n in range(30)}
    for wanted in range(1, 30):
        assert set(names(kept(given, wanted=wanted))) < set(names(kept(given, wanted=wanted + 1)))


def test_nothing_passes() -> None:
    result = kept({"a": "AB", "b": None})
    assert (result.items, result.tied_at_the_cut) == ((), 0)


def test_what_was_found_goes_into_the_provenance() -> None:
    (one,) = kept({"a": "F"}).items
    assert one.provenance["theme"] == "t"
    assert one.provenance["validation"] == {"letters": ["F"], "score": 900, "validator": "v", "model": ""}


def test_the_validators_sums_are_compared() -> None:
    verdicts = [validation("a", "F", 900), validation("b", "F", 800), validation("c", "F"), validation("d", None)]
    result = keep([item(n) for n in "abcd"], verdicts, DIMENSION, wanted=None, seed=0)
    assert result.totals == {"agree": 1, "disagree": 1, "missing": 1}


def test_wrong_requests() -> None:
    with pytest.raises(InputError, match="at least 1"):
        kept({"a": ""}, wanted=0)
    with pytest.raises(InputError, match="'a' has more than one validation"):
        keep([item("a")], [validation("a"), validation("a", validator="w")], DIMENSION, wanted=1, seed=0)


def test_the_second_sample_is_seeded_and_grows() -> None:
    items = [item(f"{n:03}") for n in range(100)]
    ten, twenty = second_sample(items, 0.1, 3), second_sample(items[::-1], 0.2, 3)
    assert (len(ten), len(twenty)) == (10, 20)
    assert {one.id for one in ten} < {one.id for one in twenty}
    assert second_sample(items, 0.1, 4) != ten
    assert len(second_sample(items[:3], 0.1, 0)) == 1


@pytest.mark.parametrize(("share", "n"), [(0.0, 3), (1.5, 3), (0.5, 0)])
def test_a_sample_of_nothing(share: float, n: int) -> None:
    with pytest.raises(InputError, match="share"):
        second_sample([item(str(k)) for k in range(n)], share, 0)


def test_agreement_by_hand() -> None:
    first = [validation(n, letters) for n, letters in zip("abcde", ("", "F", "AB", "", None), strict=True)]
    second = [validation(n, letters, validator="w") for n, letters in zip("abce", ("", "CFG", "A", ""), strict=True)]
    found = agreement(first, second, DIMENSION)
    # a: the same; b: F against CFG, passes against does not; c: AB against A, neither passes; e: unscored by the first
    assert (found.n, found.unscored) == (3, 1)
    assert found.same_decision.mean == pytest.approx(2 / 3)
    assert found.same_letters.mean == pytest.approx(1 / 3)
    assert {letter: share.mean for letter, share in found.by_letter.items() if share.mean != 1.0} == {
        letter: pytest.approx(2 / 3) for letter in "BCG"
    }
    # 0, 600 - 900, 600 - 200
    assert found.mean_difference == pytest.approx((0 - 300 + 400) / 3)


def test_a_disqualifier_is_part_of_the_decision() -> None:
    found = agreement([validation("a", "J")], [validation("a", "", validator="w")], DIMENSION, min_score=0)
    assert found.same_decision.mean == 0.0


def test_an_agreement_about_nothing() -> None:
    with pytest.raises(ScoringError, match="no item was scored by both"):
        agreement([validation("a", None)], [validation("a", ""), validation("b", "")], DIMENSION)
