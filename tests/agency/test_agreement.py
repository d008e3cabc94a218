from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.agency.agreement import Metric, alpha_estimate, cohen_kappa, kappa_estimate, krippendorff_alpha
from inferalign.agency.clusters import resampled_counts
from inferalign.core.errors import InputError

NAN = np.nan
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
"""Krippendorff 2011, section C: four observers, twelve units, missing data."""


@pytest.mark.parametrize(
    ("metric", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)]
)
def test_alpha_equals_krippendorffs_example(metric: Metric, alpha: float) -> None:
    found = krippendorff_alpha(PUBLISHED, metric)
    assert found is not None
    assert round(found, 3) == alpha


def test_alpha_equals_his_two_observers() -> None:
    """Section A: ten units, binary, two observers: alpha = .095."""
    one, two = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    found = krippendorff_alpha(np.column_stack([one, two]), "nominal")
    assert found is not None
    assert round(found, 3) == 0.095


def brute(values: np.ndarray, metric: str) -> float | None:
    """1 - D_o / D_e over pairs of values, one by one."""
    units = [[v for v in row if not np.isnan(v)] for row in values]
    units = [row for row in units if len(row) >= 2]
    pooled = [v for row in units for v in row]

    def distance(c: float, k: float) -> float:
        if metric == "nominal":
            return float(c != k)
        if metric == "ratio":
            return 0.0 if c == k else ((c - k) / (c + k)) ** 2
        if metric == "interval":
            return (c - k) ** 2
        low, high = min(c, k), max(c, k)
        return (sum(low <= v <= high for v in pooled) - (pooled.count(c) + pooled.count(k)) / 2) ** 2

    observed = sum(sum(distance(c, k) for c, k in permutations(row, 2)) / (len(row) - 1) for row in units)
    expected = sum(distance(c, k) for c, k in permutations(pooled, 2)) / max(len(pooled) - 1, 1)
    return None if len(units) < 2 or expected == 0 else 1 - observed / expected


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 5, NAN]), min_size=3, max_size=3), min_size=1, max_size=8),
    st.sampled_from(["nominal", "ordinal", "interval", "ratio"]),
)
def test_alpha_equals_brute_force(rows: list[list[float]], metric: Metric) -> None:
    values = np.array(rows, dtype=float)
    assert krippendorff_alpha(values, metric) == pytest.approx(brute(values, metric), abs=1e-9)


def test_alpha_of_perfect_agreement_and_of_nothing() -> None:
    assert krippendorff_alpha([[1, 1], [2, 2], [3, 3]], "interval") == 1.0
    assert krippendorff_alpha([[2, 2], [2, 2]], "nominal") is None
    assert krippendorff_alpha([[2, NAN], [NAN, 3]], "nominal") is None
    with pytest.raises(InputError, match="one row a unit"):
        krippendorff_alpha([1, 2, 3], "nominal")


def test_alpha_does_not_mind_who_said_it_or_the_unit() -> None:
    shuffled = np.array([np.random.default_rng(i).permutation(row) for i, row in enumerate(PUBLISHED)])
    assert krippendorff_alpha(shuffled, "ordinal") == pytest.approx(krippendorff_alpha(PUBLISHED, "ordinal"))
    assert krippendorff_alpha(PUBLISHED * 7, "ratio") == pytest.approx(krippendorff_alpha(PUBLISHED, "ratio"))
    assert krippendorff_alpha(PUBLISHED**3, "ordinal") == pytest.approx(krippendorff_alpha(PUBLISHED, "ordinal"))


def judged(units: int, rng: np.random.Generator) -> np.ndarray:
    """Truth with two noisy observers; in the limit alpha is var(truth) / (var(truth) + 1) = .8."""
    truth = 2 * rng.normal(size=units)
    return truth[:, None] + rng.normal(size=(units, 2))


def test_alpha_interval_covers_the_true_alpha() -> None:
    rng = np.random.default_rng(7)
    estimates = [alpha_estimate(judged(60, rng), "interval", range(60), seed=i) for i in range(20)]
    assert sum((e.low or 0) <= 0.8 <= (e.high or 0) for e in estimates) >= 16
    assert all((e.low or 0) < (e.mean or 0) < (e.high or 0) for e in estimates)


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval", "ratio"])
def test_alpha_estimate_leaves_out_units_with_one_value(metric: Metric) -> None:
    estimate = alpha_estimate(PUBLISHED, metric, range(12), seed=1)
    assert estimate.mean == pytest.approx(krippendorff_alpha(PUBLISHED, metric))
    assert estimate.n == 11
    assert alpha_estimate([[1, 1], [1, 1]], metric, [0, 1]).mean is None


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval", "ratio"])
def test_the_interval_is_of_alphas_of_resampled_rows(metric: Metric) -> None:
    """The same draws, each unit copied as often as its cluster is drawn, and alpha of what comes out."""
    clusters = np.array([4, 4, 1, 1, 1, 0, 3, 3, 3, 2, 2, 2])
    (counts,) = resampled_counts(5, seed=3, resamples=2000)
    alphas = [krippendorff_alpha(np.repeat(PUBLISHED, row.astype(int)[clusters], axis=0), metric) for row in counts]
    expected = np.quantile([alpha for alpha in alphas if alpha is not None], [0.025, 0.975])
    estimate = alpha_estimate(PUBLISHED, metric, clusters, seed=3)
    assert (estimate.low, estimate.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_the_interval_is_of_kappas_of_resampled_rows() -> None:
    rng = np.random.default_rng(4)
    one, other, clusters = rng.integers(3, size=14), rng.integers(3, size=14), np.arange(14) // 2
    (counts,) = resampled_counts(7, seed=3, resamples=2000)
    drawn = [row.astype(int)[clusters] for row in counts]
    kappas = [cohen_kappa(np.repeat(one, times), np.repeat(other, times)) for times in drawn]
    expected = np.quantile([kappa for kappa in kappas if kappa is not None], [0.025, 0.975])
    estimate = kappa_estimate(one, other, clusters, seed=3)
    assert (estimate.low, estimate.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_clusters_widen_the_interval() -> None:
    values = np.repeat(judged(30, np.random.default_rng(8)), 4, axis=0)
    alone = alpha_estimate(values, "interval", range(120), seed=1)
    together = alpha_estimate(values, "interval", np.repeat(range(30), 4), seed=1)
    assert (together.high or 0) - (together.low or 0) > 1.4 * ((alone.high or 0) - (alone.low or 0))


def test_perfect_agreement_has_no_interval() -> None:
    """[1, 1] would say that four units prove it."""
    found = alpha_estimate([[1, 1], [2, 2], [1, 1], [2, 2]], "nominal", range(4))
    assert (found.mean, found.low, found.high) == (1.0, None, None)
    assert kappa_estimate([0, 1, 0, 1], [0, 1, 0, 1], range(4)).low is None


def test_kappa_by_hand() -> None:
    """20 both yes, 15 both no, 5 and 10 apart: p_o = .7, p_e = .5 x .6 + .5 x .4 = .5, kappa .4 (Cohen's formula)."""
    one = [1] * 25 + [0] * 25
    other = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)
    estimate = kappa_estimate([*one, NAN], [*other, 1], range(51), seed=1)
    assert (estimate.mean, estimate.n) == (pytest.approx(0.4), 50)
    assert (estimate.low or 0) < 0.4 < (estimate.high or 0)


def test_kappa_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(9)
    one, other = rng.integers(4, size=60), rng.integers(4, size=60)
    assert cohen_kappa(one, other) == pytest.approx(metrics.cohen_kappa_score(one, other))
    assert cohen_kappa(one, one) == 1.0


def test_kappa_of_nothing_is_undetermined() -> None:
    assert cohen_kappa([1, 1], [1, 1]) is None
    assert cohen_kappa([NAN], [1]) is None
    assert kappa_estimate([1, 1], [1, 1], [0, 1]).mean is None
