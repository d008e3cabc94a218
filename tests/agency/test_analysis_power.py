import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from inferalign.agency.analysis_power import Pilot, detectable, items_for, power
from inferalign.agency.clusters import Clustered, clustered_mean
from inferalign.core.errors import InputError, ScoringError

GUESS = Pilot(variance=3.5**2, df=1.0)
"""A standard deviation of 3.5 points between items that stand alone."""


def test_detectable_difference_by_hand() -> None:
    """n = 500: (1.9647 + .8423) x 3.5 / sqrt(500) = .4394, by t quantiles in place of the noncentral t."""
    assert detectable(GUESS, 500) == pytest.approx(0.4394, abs=2e-3)
    assert detectable(GUESS, 2000) == pytest.approx(detectable(GUESS, 500) / 2, abs=2e-3)


def test_power_equals_simulation() -> None:
    rng = np.random.default_rng(1)
    draws = 1.5 + 2 * rng.normal(size=(20_000, 12))
    t = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(12))
    simulated = np.mean(np.abs(t) > stats.t.ppf(0.975, 11))
    assert power(Pilot(variance=4.0, df=11 / 12), 12, 1.5) == pytest.approx(simulated, abs=0.012)


@pytest.mark.parametrize("df", [1, 2, 11, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_equals_the_noncentral_t(df: int, alpha: float) -> None:
    critical = stats.t.ppf(1 - alpha / 2, df)
    for shift in (0.5, 2.0, 8.0):
        lower = stats.nct.sf(critical, df, -shift)  # its cdf in that tail is NaN at times
        exact = stats.nct.sf(critical, df, shift) + np.nan_to_num(lower)
        assert power(Pilot(variance=1.0, df=df), 1, shift, alpha=alpha) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("items", [2, 3, 5])
@pytest.mark.parametrize("df", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("alpha", "wanted"), [(0.05, 0.8), (0.01, 0.9), (0.01, 0.5), (0.05, 0.999)])
def test_a_very_small_pilot_has_a_detectable_difference(items: int, df: float, alpha: float, wanted: float) -> None:
    pilot = Pilot(variance=9.0, df=df)
    least = detectable(pilot, items, alpha=alpha, wanted=wanted)
    assert power(pilot, items, least, alpha=alpha) == pytest.approx(wanted, abs=1e-6)


def test_power_at_no_effect_is_the_level_and_large_ones_are_certain() -> None:
    assert power(GUESS, 40, 0.0, alpha=0.05) == pytest.approx(0.05, abs=1e-6)
    assert power(GUESS, 40, -1.0) == pytest.approx(power(GUESS, 40, 1.0))
    assert power(GUESS, 500, 10.0) == pytest.approx(1.0)
    grid = [power(GUESS, 100, effect) for effect in np.linspace(0, 10, 60)]
    assert all(np.isfinite(grid))
    assert (np.diff(grid) >= -1e-9).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 30), st.floats(0.1, 1.0), st.floats(0.2, 3.0), st.sampled_from([0.5, 0.8, 0.9]))
def test_items_for_a_wanted_effect_are_the_fewest(variance: float, df: float, effect: float, wanted: float) -> None:
    pilot = Pilot(variance=variance, df=df)
    items = items_for(pilot, effect, wanted=wanted)
    assert power(pilot, items, effect) >= wanted
    assert items == 2 or power(pilot, items - 1, effect) < wanted
    assert detectable(pilot, items, wanted=wanted) <= effect * (1 + 1e-6)


def test_a_paired_pilot_carries_clustering_along() -> None:
    """Clusters of three copies: one item in three counts, in variance and in degrees of freedom."""
    values = np.random.default_rng(2).normal(size=30)
    alone = Pilot.paired(clustered_mean(values, range(30)))
    copied = Pilot.paired(clustered_mean(np.repeat(values, 3), np.repeat(range(30), 3)))
    assert (copied.variance, copied.df) == pytest.approx((3 * alone.variance, alone.df / 3))
    assert alone.variance == pytest.approx(values.var(ddof=1))
    assert items_for(copied, 0.5) == pytest.approx(3 * items_for(alone, 0.5), abs=3)


def test_an_unpaired_pilot_adds_both_variances() -> None:
    a = Clustered(value=1.0, variance=0.5, df=9.0, n=10, clusters=10)
    b = Clustered(value=1.0, variance=0.1, df=19.0, n=20, clusters=20)
    pilot = Pilot.unpaired(a, b)
    assert pilot.variance == pytest.approx(0.5 * 10 + 0.1 * 20)
    assert pilot.df == pytest.approx(49 / (25 / 0.9 + 4 / 0.95))
    same = Pilot.unpaired(a, a)
    assert (same.variance, same.df) == pytest.approx((10.0, 1.8))


def test_pairing_needs_fewer_items_when_items_differ() -> None:
    rng = np.random.default_rng(3)
    level = 3 * rng.normal(size=60)
    a, b = level + rng.normal(size=60), level + rng.normal(size=60)
    paired = Pilot.paired(clustered_mean(a - b, range(60)))
    unpaired = Pilot.unpaired(clustered_mean(a, range(60)), clustered_mean(b, range(60)))
    assert detectable(paired, 100) < detectable(unpaired, 100) / 2


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ScoringError, match="no spread"):
        Pilot.paired(clustered_mean([1, 1, 1], range(3)))
    with pytest.raises(ScoringError, match="no spread"):
        Pilot.paired(clustered_mean([1, 2], [0, 0]))
    with pytest.raises(InputError, match="effect of 0"):
        items_for(GUESS, 0.0)
    with pytest.raises(InputError, match="more than"):
        items_for(GUESS, 1e-6)
    with pytest.raises(InputError, match="alpha < power"):
        detectable(GUESS, 40, wanted=0.01)
    with pytest.raises(InputError, match="2 at least"):
        detectable(GUESS, 1)
