import math
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inferalign.core.errors import ScoringError
from inferalign.core.stats import (
    ENOUGH_TO_RESAMPLE,
    Estimate,
    _bca_levels,
    clustered_proportion,
    mean_interval,
    paired_difference,
    paired_proportions,
    proportion,
    proportion_less_mean,
    wilson,
)

FINITE = st.floats(-1e3, 1e3)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857-872), table I, method 3: four examples, to four places."""
    estimate = wilson(successes, n)
    assert (estimate.mean, estimate.n) == (successes / n, n)
    assert (round(estimate.low or 0, 4), round(estimate.high or 0, 4)) == (low, high)


def test_wilson_by_hand() -> None:
    """5 of 10, z = 1.959964, z^2 = 3.841459: centre 1/2, half = z / 1.3841459 * sqrt(.025 + .00960365) = .263405."""
    estimate = wilson(5, 10)
    assert estimate.low == pytest.approx(0.236595, abs=1e-5)
    assert estimate.high == pytest.approx(0.763405, abs=1e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_equals_scipy_and_mirrors(counts: tuple[int, int], level: float) -> None:
    successes, n = counts
    estimate, mirror = wilson(successes, n, level=level), wilson(n - successes, n, level=level)
    reference = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    assert estimate.low == pytest.approx(reference.low, abs=1e-12)
    assert estimate.high == pytest.approx(reference.high, abs=1e-12)
    assert mirror.low == pytest.approx(1 - (estimate.high or 0), abs=1e-12)
    assert 0 <= (estimate.low or 0) <= (estimate.mean or 0) <= (estimate.high or 0) <= 1


def test_proportion_counts() -> None:
    assert proportion([True, False, True, True]) == wilson(3, 4)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_of_nothing_raises(successes: int, n: int) -> None:
    with pytest.raises(ScoringError, match="have no share"):
        wilson(successes, n)


@pytest.mark.parametrize("size", [15, 40])
def test_bootstrap_agrees_with_scipys_bca(size: int) -> None:
    values = np.random.default_rng(1).exponential(size=size)
    ours = mean_interval(values.tolist(), resamples=20_000)
    reference = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2))
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(reference.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(reference.confidence_interval.high, abs=0.03 * width)


def test_bootstrap_covers() -> None:
    """300 seeded samples of 40 normal numbers: a 95 % interval should hold the true mean 285 times, sd 3.8."""
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(300):
        estimate = mean_interval(rng.normal(5.0, 2.0, size=40).tolist(), seed=seed, resamples=500)
        hits += (estimate.low or 0) <= 5.0 <= (estimate.high or 0)
    assert 270 <= hits <= 297


def test_few_values_have_students_interval() -> None:
    """1 to 5: mean 3, variance 2.5, t(4, .975) = 2.776445, so 3 -+ 2.776445 sqrt(2.5 / 5)."""
    few = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (few.low, few.mean, few.high) == pytest.approx((1.036757, 3.0, 4.963243), abs=1e-6)
    values = np.random.default_rng(7).normal(size=ENOUGH_TO_RESAMPLE)
    half = float(stats.t.ppf(0.95, values.size - 2) * stats.sem(values[1:]))
    fewest = mean_interval(values[1:].tolist(), level=0.9)
    assert fewest.high - fewest.mean == pytest.approx(half)  # type: ignore[operator]
    assert mean_interval(values.tolist(), seed=1) != mean_interval(values.tolist(), seed=2), "enough: resampled"


def test_few_values_are_covered() -> None:
    """400 seeded samples of three normal numbers: 380 hits are due, sd 4.4; a bootstrap has 290."""
    rng = np.random.default_rng(8)
    samples = [mean_interval(rng.normal(5.0, 2.0, size=3).tolist()) for _ in range(400)]
    assert 366 <= sum((found.low or 0) <= 5.0 <= (found.high or 0) for found in samples) <= 393


def test_bias_correction_by_hand() -> None:
    """No skew, 3 of 10 resampled means under the mean: z0 = -.524401, levels Phi(2 z0 -+ 1.959964)."""
    means = np.array([-1.0] * 3 + [1.0] * 7)
    low, high = _bca_levels(np.array([-1.0, 1.0]), means, 0.95)
    assert (low, high) == pytest.approx((0.00131, 0.8189), abs=1e-5)


def test_skew_moves_the_interval_as_bca_should() -> None:
    """For a right-skewed sample the upper arm is longer; a plain normal interval would be symmetric."""
    values = np.random.default_rng(4).exponential(size=60).tolist()
    estimate = mean_interval(values)
    assert estimate.mean is not None
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.high - estimate.mean > 1.1 * (estimate.mean - estimate.low)


@given(st.lists(FINITE, min_size=ENOUGH_TO_RESAMPLE, max_size=30), FINITE)
def test_intervals_lie_within_the_values_and_move_with_them(values: list[float], shift: float) -> None:
    estimate = mean_interval(values, resamples=100)
    assert estimate.low is not None
    assert estimate.high is not None
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= estimate.low <= estimate.high <= max(values) + slack
    doubled = mean_interval([2 * v for v in values], resamples=100)
    assert doubled.low == pytest.approx(2 * estimate.low, rel=1e-9, abs=1e-9)


def test_tiny_deviations_do_not_underflow() -> None:
    for times in (1, 4):  # Student's, and the bootstrap's
        tiny, plain = mean_interval([0.0, 1e-200, 3e-200] * times), mean_interval([0.0, 1.0, 3.0] * times)
        assert tiny.low == pytest.approx(1e-200 * (plain.low or 0), rel=1e-9, abs=0)
        assert tiny.low != tiny.mean


def test_the_seed_decides() -> None:
    values = [0.1, 0.5, 0.9, 0.2, 0.4, 0.3, 0.8, 0.6, 0.7, 0.0]
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1, resamples=99) != mean_interval(values, seed=2, resamples=99)


def test_resampling_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).normal(size=50).tolist()
    whole = mean_interval(values)
    monkeypatch.setattr("inferalign.core.stats._BLOCK", 120)
    assert mean_interval(values) == whole


def test_one_value_has_no_spread_and_equal_values_no_width() -> None:
    assert mean_interval([3.0]) == Estimate(mean=3.0, low=None, high=None, n=1)
    assert mean_interval([2.0, 2.0]) == Estimate(mean=2.0, low=2.0, high=2.0, n=2)


def test_means_of_nothing_raise() -> None:
    with pytest.raises(ScoringError, match="mean of nothing"):
        mean_interval([])
    with pytest.raises(ScoringError, match="no share"):
        proportion([])
    with pytest.raises(ScoringError, match="1 and 1 scored units have no id in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ScoringError, match="not finite"):
        mean_interval([1.0, math.nan])


def test_the_empty_cell_is_made_on_purpose() -> None:
    assert Estimate.empty() == Estimate(mean=None, low=None, high=None, n=0)


def test_pairs_are_matched_by_id_and_only_pairs_count() -> None:
    a = {"x": 3.0, "y": 5.0, "z": 100.0}
    b = {"y": 4.0, "x": 1.0, "w": -100.0}
    estimate = paired_difference(a, b)
    assert (estimate.mean, estimate.n) == (1.5, 2)
    assert (paired_difference(b, a).mean, paired_difference(a, a).mean) == (-1.5, 0.0)


def test_pairing_equals_scipys_paired_bootstrap_and_beats_no_pairing() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(0, 5, size=80)
    x, y = base + rng.normal(0.5, 0.5, size=80), base
    ours = paired_difference(
        {f"{i:03}": float(v) for i, v in enumerate(x)},
        {f"{i:03}": float(v) for i, v in enumerate(y)},
        resamples=20_000,
    )
    reference = stats.bootstrap(
        (x, y),
        lambda u, v, axis: np.mean(u - v, axis=axis),
        paired=True,
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(7),
    ).confidence_interval
    assert ours.low == pytest.approx(reference.low, abs=0.01)
    assert ours.high == pytest.approx(reference.high, abs=0.01)
    assert (ours.high or 0) - (ours.low or 0) < 0.3 < 2 * 1.96 * 5 * math.sqrt(2 / 80)


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[dict[str, bool], dict[str, bool]]:
    pairs = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * neither
    return {str(i): a for i, (a, _) in enumerate(pairs)}, {str(i): b for i, (_, b) in enumerate(pairs)}


def test_paired_proportions_by_hand() -> None:
    """Agresti's approval poll, 1600 people asked twice: 794 yes-yes, 150 yes-no, 86 no-yes, 570 no-no.

    Shares 944/1600 and 880/1600, difference .04. Adjusted: 151/1602 and 87/1602, centre .0399501,
    half = 1.959964 * sqrt((238/1602 - .0399501^2) / 1602) = .0187724.
    """
    estimate = paired_proportions(*outcomes(794, 150, 86, 570))
    assert (estimate.mean, estimate.n) == (pytest.approx(0.04), 1600)
    assert estimate.low == pytest.approx(0.0211777, abs=2e-6)
    assert estimate.high == pytest.approx(0.0587225, abs=2e-6)


def test_paired_proportions_swap_and_match_by_id() -> None:
    a, b = outcomes(5, 4, 1, 3)
    forth, back = paired_proportions(a, b), paired_proportions({"lone": True, **b}, dict(reversed(a.items())))
    assert (back.mean, back.low, back.high, back.n) == pytest.approx(
        (-(forth.mean or 0), -(forth.high or 0), -(forth.low or 0), forth.n)
    )


def test_pairs_that_all_agree_still_have_a_width() -> None:
    estimate = paired_proportions(*outcomes(40, 0, 0, 10))
    assert estimate.mean == 0.0
    assert (estimate.low or 0) < -0.02 < 0.02 < (estimate.high or 0)
    with pytest.raises(ScoringError, match="no pairs"):
        paired_proportions({}, {})


@pytest.mark.parametrize(("p_a", "p_b"), [(0.02, 0.02), (0.2, 0.05), (0.3, 0.3)])
def test_paired_proportions_cover(p_a: float, p_b: float) -> None:
    """Exact coverage at n = 50 over every split of the pairs: near 95 %, whatever the disagreement."""
    n, covered = 50, 0.0
    for only_a in range(n + 1):
        for only_b in range(n + 1 - only_a):
            estimate = paired_proportions(*outcomes(0, only_a, only_b, n - only_a - only_b))
            if (estimate.low or 0) <= p_a - p_b <= (estimate.high or 0):
                covered += float(
                    stats.multinomial.pmf([only_a, only_b, n - only_a - only_b], n, [p_a, p_b, 1 - p_a - p_b])
                )
    assert 0.94 <= covered <= 1.0


def test_clustered_share_by_hand() -> None:
    """10 of 20 pairs right in both and 4 in one: v = 20 (10 * .8^2 + 4 * .2^2 + 6 * 1.2^2) / (19 * 40^2), share .6."""
    found = clustered_proportion([[True, True]] * 10 + [[True, False]] * 4 + [[False, False]] * 6)
    size = 0.6 * 0.4 / (20 * (10 * 0.8**2 + 4 * 0.2**2 + 6 * 1.2**2) / (19 * 40**2))
    assert (found.mean, found.n) == (0.6, 20)
    t2 = 2.093024**2
    half = math.sqrt(t2) / (1 + t2 / size) * math.sqrt(0.24 / size + t2 / (4 * size * size))
    assert found.high == pytest.approx((0.6 + t2 / (2 * size)) / (1 + t2 / size) + half, abs=1e-6)


def test_groups_of_one_are_no_clusters() -> None:
    assert clustered_proportion([[i < 12] for i in range(40)]) == wilson(12, 40)


@pytest.mark.parametrize(("groups", "each", "share"), [(5, 8, 0.7), (10, 4, 0.8)])
def test_a_clustered_share_of_few_groups_covers(groups: int, each: int, share: float) -> None:
    """Groups whose own shares are Beta distributed, values in one correlated by .3; a normal quantile covers 90 %."""
    rng, covered, studies = np.random.Generator(np.random.Philox(key=7)), 0, 2000
    weight = (1 - 0.3) / 0.3
    for _ in range(studies):
        own = rng.beta(share * weight, (1 - share) * weight, groups)
        found = clustered_proportion((rng.random((groups, each)) < own[:, None]).tolist())
        covered += found.low <= share <= found.high
    assert 0.935 <= covered / studies <= 0.985


def test_repeating_a_group_s_answer_adds_no_certainty() -> None:
    once = clustered_proportion([[i < 12] * 2 for i in range(40)])
    often = clustered_proportion([[i < 12] * 16 for i in range(40)])
    assert (often.mean, often.n) == (once.mean, once.n)
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))
    pooled = wilson(12 * 16, 40 * 16)
    assert (often.high or 0) - (often.low or 0) > 3 * ((pooled.high or 0) - (pooled.low or 0))


def test_a_clustered_share_at_the_ends_and_of_little() -> None:
    everything = clustered_proportion([[True] * 5, [True], []])
    assert (everything.low, everything.high, everything.n) == (wilson(2, 2).low, 1.0, 2)
    assert clustered_proportion([[True, False]]) == Estimate(mean=0.5, low=None, high=None, n=1)
    with pytest.raises(ScoringError, match="share of nothing"):
        clustered_proportion([[], []])


def test_a_share_less_a_mean_by_hand() -> None:
    """All of 10 true against .9 everywhere: Wilson's interval of 10 of 10, moved by .9."""
    found = proportion_less_mean({str(i): True for i in range(10)}, {str(i): 0.9 for i in range(10)})
    assert (found.mean, found.high, found.n) == pytest.approx((0.1, 0.1, 10))
    assert found.low == pytest.approx(10 / (10 + 1.96**2) - 0.9, abs=1e-4)


def test_a_share_less_a_mean_of_numbers_that_go_with_it() -> None:
    """Zou's bounds from Wilson's of 6 of 10, the skewed mean's own, and a correlation of .8."""
    yes = {str(i): i < 6 for i in range(10)}
    values = dict(zip(yes, [0.9, 0.95, 1.0, 0.9, 0.95, 0.85, 0.1, 0.8, 0.3, 0.7], strict=True))
    found, other = proportion_less_mean(yes, values), mean_interval(list(values.values()))
    share, mean, wide = 0.6, 0.745, wilson(6, 10)
    r = float(np.corrcoef(list(yes.values()), list(values.values()))[0, 1])
    assert 0.75 < r < 0.9
    assert other.high - mean < 0.8 * (mean - other.low), "skewed, so that no bound can stand for the other"
    down, up = (share - wide.low, other.high - mean), (wide.high - share, mean - other.low)
    assert found.low == pytest.approx(share - mean - math.sqrt(down[0] ** 2 + down[1] ** 2 - 2 * r * down[0] * down[1]))
    assert found.high == pytest.approx(share - mean + math.sqrt(up[0] ** 2 + up[1] ** 2 - 2 * r * up[0] * up[1]))


def test_a_share_less_a_mean_holds_its_level_where_a_bootstrap_does_not() -> None:
    """A search that is right 99 times in 100 against a bound near 1, 200 studies of 150 prompts."""
    rng, covered, bootstrap = random.Random(5), 0, 0
    bound = {str(i): 15 / 16 if i < 5 else 1.0 for i in range(150)}
    true = 0.99 - fmean(bound.values())
    for _ in range(200):
        good = {name: rng.random() < 0.99 for name in bound}
        ours, theirs = proportion_less_mean(good, bound), paired_difference(good, bound)
        covered += ours.low <= true <= ours.high
        bootstrap += theirs.low <= true <= theirs.high
    assert covered >= 182
    assert bootstrap < 170


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=30))
def test_a_share_less_a_mean_is_inside_its_interval(rows: list[tuple[bool, float]]) -> None:
    yes = {str(i): row[0] for i, row in enumerate(rows)}
    values = {str(i): row[1] for i, row in enumerate(rows)}
    found = proportion_less_mean(yes, values)
    assert found.low <= found.mean + 1e-12
    assert found.mean <= found.high + 1e-12
    assert found.mean == pytest.approx(fmean(yes.values()) - fmean(values.values()))
