import numpy as np
import pytest

from inferalign.agency.equate import mean_sigma
from inferalign.core.errors import ScoringError

OLD = {"a": 2.0, "b": 4.0, "c": 6.0, "d": 8.0, "e": 10.0, "only old": 1.0}


def form(values: np.ndarray) -> dict[str, float]:
    return {f"i{k:02}": float(value) for k, value in enumerate(values)}


def test_by_hand() -> None:
    # mean 5, sd half of the old one, whose mean is 6: A = 2, B = 6 - 2 * 5
    link = mean_sigma(OLD, {"a": 3.0, "b": 4.0, "c": 5.0, "d": 6.0, "e": 7.0, "only new": 9.0})
    assert (link.slope, link.intercept, link.n) == (pytest.approx(2.0), pytest.approx(-4.0), 5)
    assert link(5.5) == pytest.approx(7.0)
    assert link.correlation == pytest.approx(1.0)
    assert (link.within(7.0), link.within(7.1)) == (True, False)


def test_a_form_linked_to_itself_stays_as_it_is() -> None:
    link = mean_sigma(OLD, OLD)
    assert link(3.3) == pytest.approx(3.3)
    assert link.interval(3.3) == pytest.approx((3.3, 3.3))


def test_the_link_back_is_the_inverse() -> None:
    rng = np.random.default_rng(0)
    old, new = form(rng.uniform(2, 9, 12)), form(rng.uniform(1, 7, 12))
    there, back = mean_sigma(old, new), mean_sigma(new, old)
    assert back(there(3.7)) == pytest.approx(3.7)


def test_linked_anchors_have_the_old_mean_and_deviation() -> None:
    rng = np.random.default_rng(1)
    old, new = form(rng.uniform(2, 9, 12)), form(rng.uniform(1, 7, 12))
    linked = [mean_sigma(old, new)(value) for value in new.values()]
    assert np.mean(linked) == pytest.approx(np.mean(list(old.values())))
    assert np.std(linked) == pytest.approx(np.std(list(old.values())))


def test_the_interval_covers_the_true_link() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        truth = rng.uniform(2, 8, 20)
        old = form(truth + rng.normal(0, 0.4, 20))
        new = form((truth - 1.0) / 1.5 + rng.normal(0, 0.4 / 1.5, 20))
        low, high = mean_sigma(old, new, seed=seed, resamples=400).interval((5.0 - 1.0) / 1.5)
        hits += low <= 5.0 <= high
    assert 0.88 < hits / 200 < 0.99


def test_the_same_seed_gives_the_same_resamples() -> None:
    new = {"a": 3.0, "b": 4.4, "c": 5.0, "d": 6.1, "e": 7.0}
    assert mean_sigma(OLD, new, seed=1) == mean_sigma(OLD, new, seed=1)
    assert mean_sigma(OLD, new, seed=1).resampled != mean_sigma(OLD, new, seed=2).resampled


def test_anchors_that_say_nothing() -> None:
    with pytest.raises(ScoringError, match="4 anchors"):
        mean_sigma(OLD, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "x": 5.0})
    with pytest.raises(ScoringError, match="no scale to link"):
        mean_sigma(OLD, dict.fromkeys(OLD, 5.0))
