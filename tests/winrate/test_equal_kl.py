"""Interpolation of a sweep at one KL: a worked example, the bootstrap as a reference, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from inferalign.core.errors import InputError
from inferalign.core.stats import mean_interval
from inferalign.winrate.equal_kl import at_kl

ByPrompt = dict[str, float]


def sweep(prompts: int, seed: int) -> list[tuple[ByPrompt, ByPrompt]]:
    """Three points whose win rates and KLs are noisy and go together within a prompt."""
    draws = np.random.default_rng(seed)
    easy = draws.normal(size=prompts)
    found = []
    for kl, win in ((0.2, 0.68), (0.45, 0.77), (0.9, 0.85)):
        kls = kl * np.exp(0.5 * easy + 0.2 * draws.normal(size=prompts))
        wins = win + 0.1 * easy + 0.1 * draws.normal(size=prompts)
        found.append(({f"p{i}": w for i, w in enumerate(wins)}, {f"p{i}": k for i, k in enumerate(kls)}))
    return found


def test_a_worked_example() -> None:
    # sqrt(KL) from 0.5 to 1: KL 0.5625 is sqrt 0.75, half of the way.
    low, high = ({"a": 0.6, "b": 0.8}, {"a": 0.25, "b": 0.25}), ({"a": 0.8, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert at_kl([high, low], 0.5625) == pytest.approx({"a": 0.7, "b": 0.9})
    # b spends more KL than a on the upper point: 0.4 a unit of sqrt(KL), half of the weight, d sqrt = dKL / 2.
    uneven = ({"a": 0.8, "b": 1.0}, {"a": 0.9, "b": 1.1})
    assert at_kl([low, uneven], 0.5625) == pytest.approx({"a": 0.7 + 0.01, "b": 0.9 - 0.01})


def test_at_a_point_of_the_sweep_it_is_that_point() -> None:
    points = sweep(50, 1)
    kl = float(np.mean(list(points[1][1].values())))
    assert np.mean(list(at_kl(points, kl).values())) == pytest.approx(np.mean(list(points[1][0].values())))


def test_a_curve_in_the_root_of_kl_is_met_exactly() -> None:
    points = [({"a": 0.5 + 0.3 * kl**0.5}, {"a": kl}) for kl in (0.1, 0.4, 0.8)]
    assert at_kl(points, 0.55)["a"] == pytest.approx(0.5 + 0.3 * 0.55**0.5)


def test_its_spread_is_that_of_a_bootstrap_of_the_whole_interpolation() -> None:
    points, kl, draws = sweep(200, 2), 0.6, np.random.default_rng(3)
    arrays = [(np.array(list(w.values())), np.array(list(k.values()))) for w, k in points]
    found = []
    for _ in range(2000):
        places = draws.integers(200, size=200)
        means = [(w[places].mean(), k[places].mean()) for w, k in arrays]
        found.append(np.interp(kl**0.5, [k**0.5 for _, k in means], [w for w, _ in means]))
    estimate = mean_interval(list(at_kl(points, kl).values()))
    assert estimate.low is not None
    assert estimate.high is not None
    low, high = np.quantile(found, (0.025, 0.975))
    assert estimate.low == pytest.approx(low, abs=0.1 * (high - low))
    assert estimate.high == pytest.approx(high, abs=0.1 * (high - low))
    # KL's own noise is in it: win rates alone spread twice as much here, because easy prompts have more of both.
    alone = mean_interval([float((1 - 0.3) * a + 0.3 * b) for a, b in zip(arrays[1][0], arrays[2][0], strict=True)])
    assert alone.low is not None
    assert alone.high is not None
    assert estimate.high - estimate.low < 0.9 * (alone.high - alone.low)


def test_what_cannot_be_interpolated() -> None:
    points = sweep(20, 4)
    with pytest.raises(InputError, match=r"KL 3 is outside of the sweep, 0\.\d+ to \d"):
        at_kl(points, 3.0)
    with pytest.raises(InputError, match="needs 2 betas"):
        at_kl(points[:1], 0.2)
    with pytest.raises(InputError, match="0 prompts in common"):
        at_kl([points[0], ({"x": 0.5}, {"x": 1.0})], 0.2)
