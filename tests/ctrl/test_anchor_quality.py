"""How many anchors a recipe needs, and what is said of a set of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError, ScoringError
from inferalign.ctrl.anchor_quality import advise, check_count, harm_in_words, in_words, measure, tied_pairs, usable
from inferalign.ctrl.anchors import AnchorCard, AnchorSet
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Scored
from inferalign.theory.calibration import mid_rank


def a_set(rows: list[list[float]], blame: list[list[int]] | None = None) -> AnchorSet:
    values = np.array(rows, dtype=np.float64)
    blames = np.zeros(values.shape, dtype=np.uint8) if blame is None else np.array(blame, dtype=np.uint8)
    values[blames != SCORED] = 0
    card = AnchorCard(
        model="m",
        weights="sha256:1",
        engine={},
        chat={},
        sampling={},
        scorer={},
        prompts_sha256="",
        k=values.shape[1],
        seed=0,
    )
    ids = [f"p{i}" for i in range(len(rows))]
    return AnchorSet.of(card, ids, Scored(values, blames), np.full(values.shape, 5, dtype=np.int32))


def test_an_example_by_hand() -> None:
    """Prompt 0: 1 2 2 5, one tie among six pairs, mean 2.5, sd sqrt(3). Prompt 1: all 4. Prompt 2: 0 ? 0 x."""
    nothing = [SCORED] * 4
    found = measure(a_set([[1, 2, 2, 5], [4, 4, 4, 4], [0, 9, 0, 9]], [nothing, nothing, [0, RESPONSE, 0, JUDGE]]))
    assert found.mean == pytest.approx((2.5 + 4 + 0) / 3)
    assert found.spread == pytest.approx((np.sqrt(3) + 0 + 0) / 3)
    assert found.between == pytest.approx(np.std([2.5, 4, 0], ddof=1))
    # prompt 2 keeps two zeros and one that ranks below both: one tie among three pairs
    assert found.tied == pytest.approx((1 / 6 + 1 + 1 / 3) / 3)
    assert (found.constant, found.too_few) == (1, 0)
    assert found.unscored == {"response": 1, "judge": 1}
    assert (found.tokens, found.mean_length, found.prompts, found.k) == (60, 5.0, 3, 4)


def test_prompts_that_the_judge_failed_on_are_counted_and_left_out() -> None:
    found = measure(a_set([[1, 2, 3], [7, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 2, 2], [2, 2, 2]]))
    assert found.too_few == 2
    assert found.mean == pytest.approx((2 + 7) / 2)
    assert found.spread == pytest.approx(1.0)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_tied_pairs_against_all_pairs(values: list[int]) -> None:
    pairs = list(itertools.combinations(values, 2))
    assert tied_pairs(np.array(values, dtype=np.float64)) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_a_constant_reward_calibrates_to_a_half_and_is_refused() -> None:
    assert mid_rank([[3.0]], [[3.0, 3.0, 3.0]]).item() == 0.5
    with pytest.raises(ScoringError, match=r"constant within each of 2 prompts .every score on 'p0' is 3.*0\.5"):
        measure(a_set([[3, 3, 3], [8, 8, 8]]))


def test_one_prompt_that_tells_answers_apart_is_enough() -> None:
    assert measure(a_set([[3, 3, 3], [8, 8, 9]])).constant == 1


def test_a_response_that_cannot_be_judged_is_told_apart_from_one_that_can() -> None:
    found = measure(a_set([[3, 3, 3]], [[0, 0, RESPONSE]]))
    assert found.constant == 0
    assert list(usable(a_set([[3, 3, 3]], [[0, 0, RESPONSE]]).scores.row(0))) == [3, 3, -np.inf]


@pytest.mark.parametrize(
    ("blame", "found", "do"),
    [
        (RESPONSE, "none of 6 rollouts could be scored", "give another --scorer"),
        (JUDGE, "the judge failed on 6 of 6 rollouts", "Mend the judge and repeat the command"),
    ],
)
def test_nothing_scored_is_refused_with_the_reasons(blame: int, found: str, do: str) -> None:
    with pytest.raises(ScoringError, match=rf"{found}.*: too long \(5\); refused \(1\).*{do}"):
        measure(a_set([[0] * 3] * 2, [[blame] * 3] * 2), {"too long": 5, "refused": 1})


def test_a_constant_reward_says_what_the_judge_failed_on_too() -> None:
    anchors = a_set([[1, 1, 0], [2, 2, 0]], [[SCORED, SCORED, JUDGE]] * 2)
    with pytest.raises(ScoringError, match=r"constant within each of 2 prompts .*failed on 2 of 6 rollouts. Mend the"):
        measure(anchors)


def test_a_judge_that_left_no_prompt_two_anchors_is_named_with_its_reasons() -> None:
    anchors = a_set([[1, 0, 0], [2, 0, 0]], [[SCORED, JUDGE, JUDGE]] * 2)
    with pytest.raises(ScoringError, match=r"judge failed on 4 of 6 rollouts, .* the 2 anchors .*: timeout \(4\)"):
        measure(anchors, {"timeout": 4})


def test_the_planner_recommends() -> None:
    found = advise("best-of-n:4", "exp:10", 0.5)
    assert found.k == found.recommended
    assert 100 < found.k < 300
    assert found.loss <= 0.005 < advise("best-of-n:4", "exp:10", 0.5, found.k // 2).loss
    assert "the fewest anchors" in in_words(found)


def test_what_a_given_number_will_do() -> None:
    few = advise("best-of-n:4", "exp:10", 0.5, 32)
    assert few.k == 32
    assert f"{few.recommended} would keep it to 0.5" in in_words(few)
    assert "k 32: forecast to cost 2" in in_words(few), "the published simulation has 84.8 of 87.15 at 32"
    many = advise("sample", "identity", 0.1, 400)
    assert many.k > many.recommended
    assert "would keep" not in in_words(many)


def test_few_anchors_that_blunt_a_harmful_transform_are_not_enough_for_it() -> None:
    """They win more than is aimed at: the number keeps the forecast near, whichever way it is off."""
    wrong, right = advise("worst-of-n:4", "exp:10", 0.5), advise("best-of-n:4", "exp:10", 0.5)
    assert wrong.gain == pytest.approx(-0.2097, abs=0.001)
    assert right.gain == pytest.approx(0.0717, abs=0.001)
    assert -0.005 <= wrong.loss < 0
    assert advise("worst-of-n:4", "exp:10", 0.5, wrong.k // 2).loss < -0.005
    assert "forecast to add 0.5 points" in in_words(wrong)


def test_a_transform_that_does_harm_is_spoken_of() -> None:
    said = harm_in_words("worst-of-n:4", "exp:10", 0.5)
    assert said is not None
    assert "exp:10 21.0 points below calibration alone under worst-of-n:4 at KL 0.5" in said
    assert "log 3.2 points below" in (harm_in_words("best-of-n:4", "log", 0.5) or "")
    for procedure, transform in (("best-of-n:4", "exp:10"), ("worst-of-n:4", "exp:-5"), ("sample", "identity")):
        assert harm_in_words(procedure, transform, 0.5) is None
        assert harm_in_words(procedure, "identity", 0.5) is None
        assert harm_in_words(procedure, "optimal", 0.5) is None


def test_too_few_for_the_kl() -> None:
    """H_4 = 25/12 = 2.083."""
    with pytest.raises(InputError, match=r"4 anchors a prompt allow a mean KL below 2\.083, and --kl 2\.1.*--k 5"):
        advise("best-of-n:4", "identity", 2.1, 4)
    with pytest.raises(InputError, match=r"--k 5"):
        check_count(4, 2.1)
    check_count(4, 2.08)
    for kl in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match="expected nats above 0"):
            check_count(4, kl)


@pytest.mark.parametrize("k", [-1, 0, 1, 70_000])
def test_numbers_that_cannot_be(k: int) -> None:
    with pytest.raises(InputError, match=f"k is {k}: calibration compares"):
        check_count(k)


def test_a_recipe_beyond_what_is_simulated() -> None:
    with pytest.raises(InputError, match="more than the 8,192 that are simulated: give --k"):
        advise("best-of-n:4", "identity", 9.9)
