import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from inferalign.agency.clusters import (
    Clustered,
    bootstrap_interval,
    cluster_codes,
    cluster_totals,
    clustered_mean,
    clustered_slope,
    combined,
    jackknifed,
    resampled_counts,
    score_interval,
    t_interval,
)
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate, wilson

TEN = (0.0, 10.0)


def test_codes_of_clusters_and_of_those_that_stand_alone() -> None:
    assert cluster_codes(["a", "", "b", "a", ""]).tolist() == [0, 1, 2, 0, 3]


def test_a_mean_by_hand() -> None:
    """2, 4 | 6, 8 | 10, 0: mean 5, sums of residuals -4, 4, 0, over n: -2/3, 2/3, 0; h = 1/3 each.

    V = (4/9 + 4/9) / (2/3) = 4/3. Three equal clusters have 2 degrees of freedom.
    """
    fit = clustered_mean([2, 4, 6, 8, 10, 0], [0, 0, 1, 1, 2, 2])
    assert (fit.value, fit.n, fit.clusters) == (5.0, 6, 3)
    assert fit.variance == pytest.approx(4 / 3)
    assert fit.df == pytest.approx(2)
    assert fit.error == pytest.approx(math.sqrt(4 / 3))
    interval = t_interval(fit)
    assert (interval.low, interval.high) == pytest.approx((5 - 4.302653 * 1.154701, 5 + 4.302653 * 1.154701), abs=1e-5)


def test_without_clusters_it_is_the_textbook_t() -> None:
    values = np.random.default_rng(1).normal(size=23)
    fit = clustered_mean(values, np.arange(23))
    assert fit.variance == pytest.approx(values.var(ddof=1) / 23)
    assert fit.df == pytest.approx(22)


def reference(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> tuple[float, float, float]:
    """Slope, CR2 variance and Satterthwaite df with every matrix formed (Bell and McCaffrey 2002)."""
    design = x[:, None]
    bread = np.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    residuals = y - hat @ y
    slope = float((bread @ design.T @ y)[0])
    variance, columns = 0.0, []
    for code in np.unique(codes):
        rows = codes == code
        adjust = linalg.fractional_matrix_power(np.eye(rows.sum()) - hat[np.ix_(rows, rows)], -0.5).real
        weight = (bread @ design[rows].T @ adjust)[0]
        variance += float(weight @ residuals[rows]) ** 2
        columns.append((np.eye(len(y)) - hat)[:, rows] @ weight)
    spread = np.column_stack(columns).T @ np.column_stack(columns)
    return slope, variance, float(np.trace(spread) ** 2 / (spread**2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_matrix_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = np.sort(rng.integers(6, size=25))
    x, y = rng.normal(size=25), rng.normal(size=25) + rng.normal(size=6)[codes]
    for regressor in (x, np.ones(25)):
        fit = clustered_slope(regressor, y, codes)
        assert (fit.value, fit.variance, fit.df) == pytest.approx(reference(regressor, y, codes))


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 5)), min_size=2, max_size=30), st.floats(0.1, 5))
def test_mean_moves_and_stretches_with_the_values(rows: list[tuple[float, int]], factor: float) -> None:
    values, codes = np.array([v for v, _ in rows]), np.array([c for _, c in rows])
    fit, moved = clustered_mean(values, codes), clustered_mean(3 + factor * values, codes)
    assert moved.value == pytest.approx(3 + factor * fit.value)
    assert moved.df == fit.df
    if fit.variance is not None:
        assert moved.variance == pytest.approx(factor**2 * fit.variance, abs=1e-12)
        assert fit.df is not None
        assert 1 - 1e-9 <= fit.df <= fit.clusters - 1 + 1e-9


def test_a_cluster_of_copies_is_one_observation() -> None:
    few = clustered_mean([1, 5, 9, 3], [0, 1, 2, 3])
    copies = clustered_mean(np.repeat([1, 5, 9, 3], 7), np.repeat(range(4), 7))
    assert (copies.value, copies.variance, copies.df) == pytest.approx((few.value, few.variance, few.df))


def test_one_cluster_says_nothing_about_spread() -> None:
    fit = clustered_mean([1, 2, 3], [4, 4, 4])
    assert (fit.value, fit.variance, fit.df, fit.error) == (2.0, None, None, None)
    assert score_interval(fit, TEN).low is None
    assert t_interval(fit).high is None


def test_clusters_that_agree_have_no_t_interval() -> None:
    """An interval from 3 to 3 would say that two units are certainty."""
    fit = clustered_mean([3.0, 3.0], [0, 1])
    assert (fit.variance, t_interval(fit)) == (0.0, Estimate(mean=3.0, low=None, high=None, n=2))


def test_one_cluster_that_has_all_of_x_says_nothing_about_spread() -> None:
    assert clustered_slope([1, -1, 0, 0], [1, 2, 3, 4], [0, 0, 1, 2]).variance is None


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [math.nan]), ([math.inf], [1.0]), ([0.0, 0.0], [1.0, 2.0])])
def test_what_has_no_slope_raises(x: list[float], y: list[float]) -> None:
    with pytest.raises(ScoringError):
        clustered_slope(x, y, range(len(y)))


def test_combined_is_welch() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=9), 2 * rng.normal(size=14)
    fit = combined([clustered_mean(a, range(9)), clustered_mean(b, range(14))], [1.0, -1.0])
    ours, theirs = t_interval(fit), stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert (fit.n, fit.clusters) == (23, 23)


def test_combined_by_hand() -> None:
    """Weights 1/2: V = (4 + 16)/4 = 5; df = 25 / (1/10 + 16/4) = 250/41."""
    parts = [Clustered(value=1.0, variance=4.0, df=10.0, n=3, clusters=2)]
    parts.append(Clustered(value=4.0, variance=16.0, df=4.0, n=5, clusters=4))
    fit = combined(parts, [0.5, 0.5])
    assert (fit.value, fit.variance, fit.df, fit.n, fit.clusters) == pytest.approx((2.5, 5.0, 250 / 41, 8, 6))


def test_combined_with_a_part_of_unknown_spread_has_none() -> None:
    unknown = Clustered(value=1.0, variance=None, df=None, n=3, clusters=1)
    assert combined([unknown, clustered_mean([1, 2], [0, 1])], [1, 1]).variance is None


def test_score_interval_of_yes_and_no_is_wilsons_up_to_the_quantile() -> None:
    """Alone-standing zeros and tens have p (1 - p) / V = n - 1, and t for the normal quantile."""
    values = [10.0] * 40 + [0.0] * 60
    ours = score_interval(clustered_mean(values, range(100)), TEN)
    t2 = float(stats.t.ppf(0.975, 99)) ** 2 / 99
    half = math.sqrt(t2 * 0.24 + t2**2 / 4) / (1 + t2)
    assert ours.low == pytest.approx(10 * ((0.4 + t2 / 2) / (1 + t2) - half))
    assert ours.high == pytest.approx(10 * ((0.4 + t2 / 2) / (1 + t2) + half))
    assert ours.low == pytest.approx(10 * (wilson(40, 100).low or 0), abs=0.02)


@given(st.lists(st.sampled_from([0.0, 2.0, 4.0, 6.0, 8.0, 10.0]), min_size=3, max_size=40))
def test_score_interval_stays_on_the_scale_and_mirrors(values: list[float]) -> None:
    codes = np.arange(len(values)) // 2
    ours = score_interval(clustered_mean(values, codes), TEN)
    mirror = score_interval(clustered_mean(10 - np.array(values), codes), TEN)
    assert ours.low is not None
    assert ours.high is not None
    assert 0 <= ours.low <= (ours.mean or 0) + 1e-9 <= ours.high + 2e-9 <= 10 + 3e-9
    assert (mirror.low, mirror.high) == pytest.approx((10 - ours.high, 10 - ours.low), abs=1e-9)


def test_score_interval_covers_where_a_t_interval_does_not() -> None:
    """95 % zeros and 5 % tens, 40 alone-standing items: mean .5."""
    draws = 10.0 * (np.random.default_rng(4).random((1500, 40)) < 0.05)
    fits = [clustered_mean(row, range(40)) for row in draws]
    covered = {
        "score": np.mean([(e.low or 0) <= 0.5 <= (e.high or 0) for f in fits if (e := score_interval(f, TEN))]),
        "t": np.mean([(e.low or 0) <= 0.5 <= (e.high or 0) for f in fits if (e := t_interval(f))]),
    }
    assert 0.93 <= covered["score"] <= 0.99
    assert covered["t"] < 0.9


def test_when_all_agree_the_interval_has_a_width() -> None:
    """20 clusters at 0: 1 - .05^(1/20) = .13911 of the way to 10; at 4 also that part of the way to 0."""
    floor = score_interval(clustered_mean([0.0] * 20, range(20)), TEN)
    assert (floor.low, floor.high) == pytest.approx((0.0, 1.3911), abs=1e-4)
    inside = score_interval(clustered_mean([4.0] * 20, range(20)), TEN)
    assert (inside.low, inside.high) == pytest.approx((4 - 0.13911 * 4, 4 + 0.13911 * 6), abs=1e-4)
    third = clustered_mean([1 / 3] * 7, range(7))
    assert third.variance == 0.0


def test_bootstrap_draws_as_many_clusters_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resampled_counts(3, seed=1, resamples=2000)))
    assert whole.shape == (2000, 3)
    assert (whole.sum(axis=1) == 3).all()
    assert whole.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.06)
    assert whole.var(axis=0) == pytest.approx([2 / 3] * 3, abs=0.06)  # binomial: three draws of one in three
    monkeypatch.setattr("inferalign.agency.clusters._BLOCK", 21)
    blocks = list(resampled_counts(3, seed=1, resamples=2000))
    assert {len(block) for block in blocks} == {7, 5}
    assert (np.concatenate(blocks) == whole).all()


def test_totals_of_clusters() -> None:
    assert cluster_totals([1, 2, 4, 8], [7, 3, 7, 9]).tolist() == [2, 5, 8]
    assert cluster_totals([[1, 10], [2, 20], [4, 40]], [1, 0, 1]).tolist() == [[2, 20], [5, 50]]


def test_bootstrap_interval_of_a_mean_is_near_the_t_interval() -> None:
    values = np.random.default_rng(5).normal(size=200)
    codes = np.arange(200) // 2

    def interval() -> tuple[float, float]:
        return bootstrap_interval(lambda drawn: drawn @ cluster_totals(values, codes) / 200, codes, seed=1) or (0, 0)

    fit = t_interval(clustered_mean(values, codes))
    assert interval() == (pytest.approx(fit.low, abs=0.02), pytest.approx(fit.high, abs=0.02))
    assert interval() == interval()


def test_bootstrap_of_what_is_mostly_undetermined_has_no_interval() -> None:
    assert bootstrap_interval(lambda drawn: np.full(len(drawn), np.nan), range(9), seed=1, resamples=50) is None
    assert bootstrap_interval(lambda drawn: np.ones(len(drawn)), [4, 4, 4], seed=1, resamples=50) is None
    assert bootstrap_interval(lambda drawn: np.ones(len(drawn)), range(9), seed=1, resamples=50) is None
    some = bootstrap_interval(lambda drawn: np.where(drawn[:, 0] > 0, drawn[:, 1], np.nan), range(9), seed=1)
    assert some == (0.0, 3.0)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 10), min_size=3, max_size=12))
def test_jackknife_of_a_mean_is_the_textbook_variance(values: list[float]) -> None:
    data = np.array(values)
    fit = jackknifed(lambda rows: float(data[rows].mean()), range(len(values)))
    assert fit.value == pytest.approx(data.mean())
    assert fit.variance == pytest.approx(data.var(ddof=1) / len(values), abs=1e-9)
    assert fit.df == len(values) - 1


def test_jackknife_of_what_is_undetermined() -> None:
    with pytest.raises(ScoringError, match="undetermined"):
        jackknifed(lambda rows: None, [0, 1])
    assert jackknifed(lambda rows: 1.0 if rows.size == 2 else None, [0, 1]).variance is None
