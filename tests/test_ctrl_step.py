"""The arithmetic and the order of turns of the step benchmark."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from benchmarks.ctrl_step import Turns, ratio


def test_the_median_ratio_by_hand() -> None:
    found = ratio([2.0, 3.0, 9.0], [2.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high, found.n) == (1.5, 1.0, 3.0, 3)


def test_its_interval_holds_the_median() -> None:
    """Of normal log ratios around 0, in at least 95 of 100 sets of 16, and not in all."""
    rng = np.random.default_rng(0)
    held = 0
    for row in np.exp(rng.normal(size=(2000, 16))):
        found = ratio(row.tolist(), [1.0] * 16)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    assert held / 2000 == pytest.approx(0.979, abs=0.01)


def test_one_step_that_was_disturbed_moves_nothing() -> None:
    assert ratio([1.0] * 15 + [50.0], [1.0] * 16).mean == 1.0


def test_loops_take_their_turns_as_planned() -> None:
    turns, order = Turns(["b", "a", "a", "b"]), []

    def loop(name: str) -> None:
        for _ in range(2):
            turns.wait(name)
            order.append(name)
            turns.over()

    threads = [threading.Thread(target=loop, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert order == ["b", "a", "a", "b"]


def test_a_loop_that_fails_leaves_the_other_waiting_for_nothing() -> None:
    turns = Turns(["a", "b"])

    class Failing:
        def train(self) -> None:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        turns.train(Failing())
    turns.wait("b")
