import math
from collections.abc import Callable

import numpy as np
import pytest

from inferalign.agency.analysis_audit import (
    centred,
    centred_twice,
    length_effect,
    letter_order_effect,
    repeatability,
    self_preference,
)
from inferalign.agency.records import Reply
from inferalign.agency.table import Table
from inferalign.agency.table_build import build_table
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate
from tests.agency.tables import item, reply, scored, verdict


def holds(estimate: Estimate, value: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def repeated(noise: float, letters: str = "A", items: int = 60, seed: int = 1) -> Table:
    """60 items of variance 4, two replies each of variance 1, two judge repeats of variance `noise`^2."""
    rng = np.random.default_rng(seed)
    replies, verdicts = [], []
    for i in range(items):
        level = 5 + 2 * rng.normal()
        for r in range(2):
            replies.append(reply(f"i{i}", repeat=r))
            mean = level + rng.normal()
            verdicts += [
                verdict(replies[-1], float(mean + noise * rng.normal()), repeat=k, letters=letters[: k + 1])
                for k in range(2)
            ]
    return build_table([item(f"i{i}", cluster=f"c{i // 2}") for i in range(items)], replies, verdicts)


def test_repeatability_finds_the_planted_share() -> None:
    found = [repeatability(repeated(2.0, seed=seed), "j") for seed in range(10)]
    parts = [each.components for each in found]
    assert np.mean([each.outer for each in parts]) == pytest.approx(4, abs=1)
    assert np.mean([each.inner for each in parts]) == pytest.approx(1, abs=0.5)
    assert np.mean([each.rest for each in parts]) == pytest.approx(4, abs=0.4)
    assert np.mean([each.judge_share.mean for each in found]) == pytest.approx(4 / 9, abs=0.05)
    assert sum(holds(each.judge_share, 4 / 9) for each in found) >= 8
    assert found[0].judge_share.n == 240


def test_a_judge_without_chance_has_no_share() -> None:
    found = repeatability(repeated(0.0), "j")
    assert found.judge_share.mean == pytest.approx(0, abs=1e-12)
    assert (found.same_letters.mean, found.same_letters.n) == (1.0, 120)
    assert repeatability(repeated(0.0, "AB"), "j").same_letters.mean == 0.0


def test_same_letters_by_hand() -> None:
    """Repeats A, A, B: one of three pairs agrees."""
    one = reply("x")
    verdicts = [verdict(one, 2.0, repeat=k, letters=each) for k, each in enumerate("AAB")]
    found = repeatability(build_table([item("x")], [one], verdicts), "j")
    assert (found.same_letters.mean, found.same_letters.n) == (pytest.approx(1 / 3), 1)
    assert found.judge_share.mean is None
    with pytest.raises(ScoringError, match="no reply twice"):
        repeatability(scored({"a": [1, 2]}), "j")


def shuffled(names: Callable[[str, float, np.random.Generator], bool], size: int = 300, seed: int = 2) -> Table:
    rng = np.random.default_rng(seed)
    replies, verdicts = [reply(f"i{i}") for i in range(size)], []
    for each in replies:
        order = rng.permutation(list("ABCDEF")).tolist()
        found = [letter for place, letter in enumerate(order) if names(letter, place / 5, rng)]
        verdicts.append(verdict(each, 5.0, letters=found, order=order))
    return build_table([item(f"i{i}") for i in range(size)], replies, verdicts)


FREQUENCY = dict(zip("ABCDEF", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True))


def test_letter_order_effect_finds_what_was_planted() -> None:
    """Each issue has its own frequency, and loses .2 from the first place to the last."""
    planted = [
        letter_order_effect(shuffled(lambda a, p, rng: rng.random() < FREQUENCY[a] + 0.3 - 0.2 * p, seed=seed), "j")
        for seed in range(8)
    ]
    assert np.mean([effect.mean for effect in planted]) == pytest.approx(-0.2, abs=0.04)
    assert sum(holds(effect, -0.2) for effect in planted) >= 6
    assert all((effect.high or 0) < 0 for effect in planted)
    assert planted[0].n == 1800
    assert holds(letter_order_effect(shuffled(lambda a, p, rng: rng.random() < FREQUENCY[a]), "j"), 0.0)


def test_one_order_says_nothing() -> None:
    replies = [reply("x"), reply("y")]
    verdicts = [verdict(each, 5.0, letters="A", order="ABC") for each in replies]
    table = build_table([item("x"), item("y")], replies, verdicts)
    with pytest.raises(ScoringError, match="one order only"):
        letter_order_effect(table, "j")
    with pytest.raises(ScoringError, match="one order only"):
        letter_order_effect(scored({"a": [1, 2]}), "j")


def of_lengths(score: Callable[[Reply, int, float], float]) -> Table:
    """40 items of their own level and typical length, three subjects of which `c` writes four times as much."""
    rng = np.random.default_rng(3)
    replies, verdicts = [], []
    for i in range(40):
        typical = 40 + 3 * i
        for subject in "abc":
            words = int(typical * rng.uniform(0.5, 2) * (4 if subject == "c" else 1))
            replies.append(reply(f"i{i}", subject, words=words))
            noise = 0.3 * rng.normal()
            verdicts.append(verdict(replies[-1], score(replies[-1], words, 0.05 * i + noise)))
    return build_table([item(f"i{i}", cluster=f"c{i // 2}") for i in range(40)], replies, verdicts)


def test_length_effect_finds_what_was_planted() -> None:
    """Half a point a doubling, in items that are longer and better besides."""
    found = length_effect(of_lengths(lambda r, words, rest: 0.5 * math.log2(1 + words) + rest), "j")
    assert holds(found.within_item, 0.5)
    assert found.within_item_and_arm is not None
    assert holds(found.within_item_and_arm, 0.5)
    assert found.within_item.n == 120


def test_a_good_subject_that_writes_long_is_told_apart_from_length() -> None:
    found = length_effect(of_lengths(lambda r, words, rest: rest + 3 * (r.subject == "c")), "j")
    assert (found.within_item.low or 0) > 0.5
    assert found.within_item_and_arm is not None
    assert holds(found.within_item_and_arm, 0.0)


def test_length_needs_two_lengths() -> None:
    with pytest.raises(ScoringError, match="two lengths"):
        length_effect(scored({"a": [1, 2], "b": [2, 3]}), "j")


def test_centring_twice_is_a_regression_on_both_kinds_of_dummies() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.integers(5, size=40), rng.integers(3, size=40)
    values = rng.normal(size=40)
    dummies = np.column_stack([first == k for k in range(5)] + [second == k for k in range(3)]).astype(float)
    fitted = dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    assert centred_twice(values, first, second) == pytest.approx(values - fitted, abs=1e-8)
    assert centred(np.array([1.0, 3.0, 7.0]), np.array([5, 5, 9])).tolist() == [-1.0, 1.0, 0.0]


def panel(extra: dict[tuple[str, str], float], judges: str = "jkl", subjects: str = "abc") -> Table:
    """Judges of different severity on subjects of different quality; `extra` is what is added to (judge, subject)."""
    rng = np.random.default_rng(5)
    replies = [reply(f"i{i}", subject) for i in range(30) for subject in subjects]
    verdicts = []
    for each in replies:
        level = rng.normal() + {"a": 5, "b": 4, "c": 2}[each.subject]
        for judge in judges:
            severity = {"j": 1.0, "k": 0.0, "l": -1.0}[judge]
            score = level + severity + 0.3 * rng.normal() + extra.get((judge, each.subject), 0.0)
            verdicts.append(verdict(each, float(score), judge))
    return build_table([item(f"i{i}") for i in range(30)], replies, verdicts)


def test_self_preference_finds_what_was_planted() -> None:
    """j and k favour their own by 1 and 2; neither severity nor quality nor the other's favour is in the effect."""
    table = panel({("j", "a"): 1.0, ("k", "b"): 2.0})
    one, other = self_preference(table, {"j": "a", "k": "b"})
    assert (one.judge, one.kin, one.neutral, one.effect.n) == ("j", "a", True, 30)
    assert one.effect.mean == pytest.approx(1.0, abs=0.2)
    assert other.effect.mean == pytest.approx(2.0, abs=0.2)
    (none,) = self_preference(panel({}), {"l": "c"})
    assert holds(none.effect, 0.0)


def test_with_two_judges_and_two_subjects_both_preferences_add_up() -> None:
    table = panel({("j", "a"): 1.0, ("k", "b"): 2.0}, "jk", "ab")
    (one, _) = self_preference(table, {"j": "a", "k": "b"})
    assert one.neutral is False
    assert one.effect.mean == pytest.approx(3.0, abs=0.3)


def test_self_preference_by_hand() -> None:
    """Item x: (9 - 6) - (5 - 4) = 2, item y: (8 - 8) - (2 - 1) = -1: mean 1/2."""
    replies = [reply(name, subject) for name in "xy" for subject in "ab"]
    scores = {"j": [9, 5, 8, 2], "k": [6, 4, 8, 1]}
    verdicts = [verdict(r, s, judge) for judge, row in scores.items() for r, s in zip(replies, row, strict=True)]
    (found,) = self_preference(build_table([item("x"), item("y")], replies, verdicts), {"j": "a"})
    assert (found.effect.mean, found.effect.n, found.neutral) == (0.5, 2, True)


def test_self_preference_needs_a_second_judge_and_subject() -> None:
    with pytest.raises(ScoringError, match="another judge"):
        self_preference(panel({}, "j"), {"j": "a"})
    with pytest.raises(ScoringError, match="another subject"):
        self_preference(panel({}, "jk", "a"), {"j": "a"})
    with pytest.raises(ScoringError, match="no verdicts"):
        self_preference(panel({}, "jk"), {"nobody": "a"})
