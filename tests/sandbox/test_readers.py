"""Bags of words learn what words can tell, and no more; balanced accuracy is what it says it is."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate, wilson
from inferalign.sandbox import readers
from inferalign.sandbox.readers import PENALTY, Case, bag_of_words, balanced_accuracy, base_rates, cases
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.values import VALUES

REQUEST = cases(VALUES, "test", 1, seed=0)[0].request


def case(reply: str, *, bad: bool) -> Case:
    return Case(request=REQUEST, reply=reply, bad=bad)


def test_a_word_that_tells_is_found_whatever_the_base_rate() -> None:
    learned_on = [case("red hat", bad=True)] * 5 + [case("blue hat", bad=False)] * 95
    reader = bag_of_words(readers.VIEWS["reply"], learned_on)
    assert reader([case("Red, red!", bad=True), case("a blue one", bad=False)]) == [True, False]


def test_a_bag_sees_neither_order_nor_the_other_text() -> None:
    learned_on = [case("a then b", bad=True), case("b then a", bad=False)] * 30
    for name in ("reply", "prompt"):
        reader = bag_of_words(readers.VIEWS[name], learned_on)
        assert len(set(reader([case("a then b", bad=True), case("b then a", bad=False)]))) == 1


def test_views_by_hand() -> None:
    value, item = REQUEST["value"], REQUEST["item"]
    seen = case(f"Let go of what is {value}.", bad=True)
    assert readers.VIEWS["reply"](seen) == {"let", "go", "of", "what", "is", *value.split()}
    assert f"prompt:{item}" in readers.VIEWS["prompt"](seen)
    assert readers.VIEWS["both"](seen) == readers.VIEWS["reply"](seen) | readers.VIEWS["prompt"](seen)
    added = readers.VIEWS["overlap"](seen) - readers.VIEWS["both"](seen)
    assert {f"shared:{word}" for word in value.split()} <= added
    assert not any(word in added for word in ("shared:let", f"shared:{item}"))


def test_the_regression_is_at_its_minimum() -> None:
    """Independent reference: central differences of the loss as written in a textbook, all zero at the answer."""
    rng = np.random.default_rng(0)
    x = (rng.random((80, 5)) < 0.4).astype(float)
    y = (rng.random(80) < 0.2 + 0.5 * x[:, 0]).astype(float)
    beta = readers._logistic(csr_array(x), y)

    def loss(b: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-(x @ b[:-1] + b[-1])))
        classes = [-np.log(p[y == 1]).mean(), -np.log(1 - p[y == 0]).mean()]
        return float(np.mean(classes) + PENALTY * (b[:-1] ** 2).sum())

    for i in range(len(beta)):
        step = np.eye(len(beta))[i] * 1e-4
        assert abs(loss(beta + step) - loss(beta - step)) / 2e-4 < 1e-4
    assert loss(beta) < loss(np.zeros(6)) == pytest.approx(math.log(2))


def test_balanced_accuracy_by_hand() -> None:
    """Sensitivity 3/4, specificity 1/2: 0.625; the bounds join Wilson's."""
    seen = [case("x", bad=True)] * 4 + [case("x", bad=False)] * 2
    found = balanced_accuracy(seen, [True, True, True, False, False, True])
    assert (found.mean, found.n) == (0.625, 6)
    one, two = wilson(3, 4), wilson(1, 2)
    assert one.low is not None
    assert two.low is not None
    assert found.low == pytest.approx(0.625 - math.hypot(0.75 - one.low, 0.5 - two.low) / 2)
    assert one.high is not None
    assert two.high is not None
    assert found.high == pytest.approx(0.625 + math.hypot(one.high - 0.75, two.high - 0.5) / 2)
    assert balanced_accuracy(seen[:4], [True] * 4) == Estimate.empty()


def test_the_interval_covers() -> None:
    """Monte Carlo: 95 % intervals hold the true value in 90 to 99 of 100 samples."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        seen = [case("x", bad=True)] * 40 + [case("x", bad=False)] * 60
        right = np.concatenate([rng.random(40) < 0.9, rng.random(60) < 0.7])
        found = balanced_accuracy(seen, [c.bad == bool(r) for c, r in zip(seen, right, strict=True)])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.8 <= found.high
    assert 0.9 <= held / 400 <= 0.99


def test_guessing_is_half_and_base_rates_follow_the_key() -> None:
    seen = cases(VALUES, "test", 400, seed=1)
    assert balanced_accuracy(seen, [True] * 400).mean == 0.5
    said = base_rates(VALUES, seen)(seen)
    assert said == [VALUES.bad_rate(c.request) > 0.5 for c in seen], "no key lies between its group and the mean"


@pytest.mark.parametrize("name", SITUATIONS)
def test_cases_are_seeded_and_of_their_split(name: str) -> None:
    situation = SITUATIONS[name]
    train, test = cases(situation, "train", 60, 0), cases(situation, "test", 60, 0)
    assert train == cases(situation, "train", 60, 0) != cases(situation, "train", 60, 1)
    assert {situation.is_test(c.request) for c in train} == {False}
    assert {situation.is_test(c.request) for c in test} == {True}


def test_one_class_teaches_nothing() -> None:
    with pytest.raises(InputError, match="one class only"):
        readers.readers(VALUES, [case("x", bad=True)] * 3)
