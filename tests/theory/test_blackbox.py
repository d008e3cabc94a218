"""Selection densities from outputs alone, how sure they are, and when there is none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from inferalign.core.errors import InputError
from inferalign.theory.blackbox import BetaMixture, Floats, OwnRanks, bernstein, beta_mixture, own_ranks
from inferalign.theory.grid import default_grid
from inferalign.theory.optimal import Unconverged, solve
from inferalign.theory.policies import Policy, beta_for_kl, policy, win_rate
from inferalign.theory.procedures import Selection, best_of_n, sample, worst_of_n
from inferalign.theory.retry import ThresholdRetry
from inferalign.theory.transforms import Exponential
from inferalign.theory.validity import _kolmogorov, bands, require_calibrated, thinned, validity

Q = np.linspace(0, 1, 201)


def mixture_of_best(n: int, components: int) -> BetaMixture:
    """Best-of-n by degree elevation: q^(n-1) as a Bernstein polynomial of degree m - 1."""
    m = components
    coefficients = [math.comb(j, n - 1) / math.comb(m - 1, n - 1) for j in range(m)]
    return BetaMixture(np.array(coefficients) * n / m)


def observed(own: Floats, k: int, draws: np.random.Generator) -> OwnRanks:
    """The ranks of outputs with own quantiles [P, G] among k scores of their base policy."""
    return OwnRanks(
        rank=np.asarray(draws.binomial(k, own), dtype=np.int64),
        within=draws.random(own.shape),
        counts=np.full(len(own), k, dtype=np.int64),
    )


def outputs_of(selection: Selection, prompts: int, k: int, seed: int = 3) -> OwnRanks:
    draws = np.random.default_rng(seed)
    rolls = draws.random((prompts, selection.n or 1))
    own = rolls.max(axis=1) if selection.g_increasing else rolls.min(axis=1)
    return observed(own[:, None], k, draws)


def quantile_draws(p: Policy, shape: tuple[int, ...], draws: np.random.Generator) -> Floats:
    """Draws of a policy, as quantiles of the reference."""
    return np.interp(draws.random(shape), p.F, p.grid.u)


# The mixture


def test_by_hand_two_components_are_a_straight_line() -> None:
    """Weights 1/4, 3/4 on 2 (1-q) and 2 q: g = (1-q)/2 + 3q/2, G = q/2 + q^2/2."""
    line = BetaMixture(np.array([0.25, 0.75]))
    np.testing.assert_allclose(line.g(Q, 1 - Q), 0.5 + Q)
    np.testing.assert_allclose(line.G(Q, 1 - Q), Q / 2 + Q**2 / 2)
    np.testing.assert_allclose(line.tail(Q, 1 - Q), 1 - Q / 2 - Q**2 / 2, atol=1e-15)


def test_it_is_the_mixture_of_scipy_betas() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(7))
    mixture = BetaMixture(weights)
    betas = [stats.beta(j, 8 - j) for j in range(1, 8)]
    np.testing.assert_allclose(mixture.g(Q, 1 - Q), sum(w * b.pdf(Q) for w, b in zip(weights, betas, strict=True)))
    np.testing.assert_allclose(mixture.G(Q, 1 - Q), sum(w * b.cdf(Q) for w, b in zip(weights, betas, strict=True)))


@pytest.mark.parametrize("n", [1, 2, 4, 24])
def test_it_holds_best_of_n_exactly_and_finds_the_same_optimum(n: int) -> None:
    mixture = mixture_of_best(n, 24)
    np.testing.assert_allclose(mixture.g(Q, 1 - Q), best_of_n(n).g(Q, 1 - Q), atol=1e-12)
    np.testing.assert_allclose(mixture.tail(Q, 1 - Q), best_of_n(n).tail(Q, 1 - Q), atol=1e-14)
    assert mixture.g_increasing
    assert solve(mixture, kl=0.5).win_rate == pytest.approx(solve(best_of_n(n), kl=0.5).win_rate, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12).filter(lambda w: sum(w) > 0.1))
def test_any_weights_are_a_distribution(weights: list[float]) -> None:
    mixture = BetaMixture(np.array(weights) / sum(weights))
    g, cumulated = mixture.g(Q, 1 - Q), mixture.G(Q, 1 - Q)
    assert np.all(g >= 0)
    assert np.all(np.diff(cumulated) >= -1e-12)
    np.testing.assert_allclose(cumulated + mixture.tail(Q, 1 - Q), 1, atol=1e-12)
    if mixture.g_increasing:
        assert np.all(np.diff(g) >= -1e-9)


def test_an_estimate_that_rises_and_falls_has_an_optimum_too() -> None:
    """A bump in the middle: neither concave nor convex, and still the first-order condition is met."""
    bump = BetaMixture(stats.binom(11, 0.6).pmf(np.arange(12)))
    found = solve(bump, kl=0.5)
    grid = found.transform.grid
    for t in (-5.0, -1.0, 1.0, 5.0):
        other = policy(Exponential(t), beta_for_kl(Exponential(t), 0.5, grid), grid)
        assert win_rate(other, bump).win < found.win_rate


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.5, -0.5], [[0.5, 0.5]], [math.nan, 1.0]])
def test_weights_that_are_no_shares(weights: list[float]) -> None:
    with pytest.raises(InputError, match="shares"):
        BetaMixture(np.array(weights))


# Ranks


def test_by_hand_ranks() -> None:
    found = own_ranks([[2.5, 0.0], [9.0, 5.0]], [[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]], ["a", "b"], seed=0)
    assert found.rank[:, 0].tolist() == [2, 3]
    assert found.rank[0, 1] == 0
    assert found.rank[1, 1] in (0, 1)  # a tie falls on either side
    assert np.all((found.quantiles * 4 >= found.rank) & (found.quantiles * 4 < found.rank + 1))


def test_own_answers_are_uniform_at_any_k_with_and_without_ties() -> None:
    draws = np.random.default_rng(1)
    for levels in (None, 3):
        scores = draws.random((4000, 6)) if levels is None else draws.integers(0, levels, (4000, 6)).astype(float)
        found = own_ranks(scores[:, :1], scores[:, 1:], [str(i) for i in range(4000)], seed=5)
        assert stats.kstest(found.quantiles.ravel(), "uniform").pvalue > 0.001
        assert np.bincount(found.rank.ravel(), minlength=6).min() > 560


def test_ranks_do_not_depend_on_other_prompts() -> None:
    scores, anchors = np.ones((3, 2)), np.ones((3, 5))
    full = own_ranks(scores, anchors, ["a", "b", "c"], seed=1)
    one = own_ranks(scores[1:2], anchors[1:2], ["b"], seed=1)
    assert full.rank[1].tolist() == one.rank[0].tolist()
    np.testing.assert_array_equal(full.take(np.array([1])).quantiles, one.quantiles)
    with pytest.raises(InputError, match="one id a prompt"):
        own_ranks(scores, anchors, ["a"], seed=1)


# Fits


@pytest.mark.parametrize("fit", [bernstein, beta_mixture])
@pytest.mark.parametrize("selection", [best_of_n(4), worst_of_n(4), best_of_n(2)], ids=lambda s: s.name)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_thousand_outputs_of_a_hidden_procedure_are_enough(fit, selection: Selection, seed: int) -> None:
    """The transform tuned to the estimate wins within a tenth of a point of the best there is, at KL 1."""
    estimate = fit(outputs_of(selection, 1000, k=100, seed=seed))
    tuned = solve(estimate, kl=1.0)
    reached = win_rate(policy(tuned.transform, tuned.beta, tuned.transform.grid), selection).win
    best = solve(selection, kl=1.0).win_rate
    assert best - 0.001 < reached < best + 1e-9


def test_few_base_scores_bias_the_bernstein_fit_and_not_the_mixture() -> None:
    outputs = outputs_of(best_of_n(4), 20_000, k=4)
    errors = {fit: np.abs(fit(outputs).G(Q, 1 - Q) - Q**4).max() for fit in (bernstein, beta_mixture)}
    assert errors[bernstein] > 0.1
    assert errors[beta_mixture] < 0.03


def test_prompts_may_have_different_numbers_of_base_scores() -> None:
    few, many = outputs_of(best_of_n(4), 2000, k=8), outputs_of(best_of_n(4), 2000, k=64, seed=4)
    both = OwnRanks(*(np.concatenate([getattr(few, n), getattr(many, n)]) for n in ("rank", "within", "counts")))
    estimate = beta_mixture(both)
    assert np.abs(estimate.G(Q, 1 - Q) - Q**4).max() < 0.03
    assert estimate.name == "black box (4000 outputs, Beta mixture)"


def test_the_mixture_is_the_likeliest() -> None:
    """No vertex of the simplex is a direction in which the likelihood rises by more than one unit in all."""
    outputs = outputs_of(worst_of_n(3), 500, k=12)
    weights = beta_mixture(outputs, components=6).weights

    def log_likelihood(w: Floats) -> float:
        mixture = BetaMixture(w)
        pmf = [
            integrate.quad(
                lambda u, r=r: float(stats.binom(12, u).pmf(r) * mixture.g(np.array(u), np.array(1 - u))), 0, 1
            )[0]
            for r in range(13)
        ]
        return float(np.bincount(outputs.rank.ravel(), minlength=13) @ np.log(pmf))

    best = log_likelihood(weights)
    for vertex in np.eye(6):
        assert log_likelihood(0.99 * weights + 0.01 * vertex) < best + 0.011


def test_em_that_does_not_arrive_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferalign.theory.blackbox.ROUNDS", 2)
    with pytest.raises(Unconverged, match="EM for 24"):
        beta_mixture(outputs_of(best_of_n(4), 1000, k=100))


# Trust


@pytest.mark.parametrize("fit", [bernstein, beta_mixture])
def test_bands_hold_the_truth_nearly_everywhere_and_narrow(fit) -> None:
    wide = bands(outputs_of(best_of_n(4), 200, k=200), fit, seed=0)
    narrow = bands(outputs_of(best_of_n(4), 3200, k=200), fit, seed=0)
    inside = (wide.G_low <= wide.q**4 + 0.01) & (wide.q**4 - 0.01 <= wide.G_high)
    assert inside.mean() > 0.9
    assert np.all(wide.g_low <= wide.g_high)
    assert narrow.largest < 0.5 * wide.largest < 0.1


def test_bands_draw_whole_prompts() -> None:
    """Ten copies of each output tell no more than one."""
    one = outputs_of(best_of_n(2), 200, k=50)
    ten = OwnRanks(np.repeat(one.rank, 10, axis=1), np.repeat(one.within, 10, axis=1), one.counts)
    assert bands(ten, bernstein, seed=0).largest == pytest.approx(bands(one, bernstein, seed=0).largest, rel=1e-9)


def two_bases(procedure, n: int, prompts: int) -> tuple[OwnRanks, OwnRanks]:
    """A procedure's outputs on the reference and on e^(5x) at KL 1, each ranked by its own base policy."""
    draws, grid = np.random.default_rng(8), default_grid()
    tuned = policy(Exponential(5.0), beta_for_kl(Exponential(5.0), 1.0, grid), grid)
    on_reference = procedure(draws.random((prompts, n)))
    on_tuned = procedure(quantile_draws(tuned, (prompts, n), draws))
    return observed(on_reference[:, None], 100, draws), observed(
        np.interp(on_tuned, grid.u, tuned.F)[:, None], 100, draws
    )


def best(rolls: Floats) -> Floats:
    return rolls.max(axis=1)


def worst(rolls: Floats) -> Floats:
    return rolls.min(axis=1)


@pytest.mark.parametrize("procedure", [best, worst])
def test_best_and_worst_of_four_pass(procedure) -> None:
    found = require_calibrated(*two_bases(procedure, 4, 5000))
    assert found.calibrated
    assert found.distance < found.noticeable < 0.04


def test_retry_until_a_threshold_is_refused() -> None:
    outputs = two_bases(ThresholdRetry(0.8, 4).output, 4, 5000)
    found = validity(*outputs)
    assert found.distance == pytest.approx(0.367, abs=0.02)
    assert found.p_value < 1e-12
    with pytest.raises(InputError, match=r"not calibrated.*influence reward"):
        require_calibrated(*outputs)


def test_the_test_is_scipys() -> None:
    draws = np.random.default_rng(2)
    for shift in (0.0, 0.03):
        one, two = (
            observed(draws.random((700, 1)), 60, draws),
            observed(draws.random((500, 1)) ** (1 + shift), 60, draws),
        )
        theirs = stats.ks_2samp(one.quantiles.ravel(), two.quantiles.ravel(), method="asymp")
        ours = validity(one, two)
        assert ours.distance == pytest.approx(theirs.statistic, abs=1e-12)
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.03)
    hundred = observed(draws.random((100, 1)), 60, draws)  # root = sqrt(100 * 100 / 200)
    assert validity(hundred, hundred).noticeable == pytest.approx(1.6276 / (50**0.5 + 0.12 + 0.11 / 50**0.5))
    assert _kolmogorov(1.6276) == pytest.approx(0.01, abs=1e-5)
    for x in (0.1, 0.3, 0.8, 2.0):
        assert _kolmogorov(x) == pytest.approx(stats.kstwobign.sf(x), abs=1e-12)


def test_its_false_alarms_keep_to_the_level() -> None:
    draws = np.random.default_rng(6)
    refused = 0
    for _ in range(400):
        one, two = (observed(draws.random((150, 1)), 20, draws) for _ in range(2))
        refused += not validity(one, two).calibrated
    assert refused <= 12


@pytest.mark.parametrize("prompts", [1000, 900])
def test_references_of_unequal_size_are_compared_at_one_k(prompts: int) -> None:
    """Untouched, ranks among 100 and among 8 refuse the same best-of-4 every other time: q^4 blurred by a ninth."""
    refused = 0
    for seed in range(100):
        one, two = outputs_of(best_of_n(4), 1000, 100, seed), outputs_of(best_of_n(4), prompts, 8, 1000 + seed)
        refused += not validity(one, two, seed).calibrated
    assert refused <= 5
    assert not validity(outputs_of(best_of_n(4), 1000, 100), outputs_of(best_of_n(2), prompts, 8)).calibrated


def test_thinned_ranks_are_those_among_fewer_scores() -> None:
    """All of 3 lie below, or none, whatever is dropped; of 2 in 4 kept 2, (1, 4, 1) / 6 lie below; K itself stays."""
    four = OwnRanks(np.full((6000, 2), 2), np.zeros((6000, 2)), np.full(6000, 4))
    kept = thinned(four, np.full(6000, 2), seed=1)
    np.testing.assert_allclose(np.bincount(kept.rank[:, 0]) / 6000, np.array([1, 4, 1]) / 6, atol=0.02)
    assert np.array_equal(kept.rank[:, 0], kept.rank[:, 1])  # outputs of a prompt keep the same scores
    ends = OwnRanks(np.array([[0, 3], [1, 2]]), np.zeros((2, 2)), np.array([3, 3]))
    assert thinned(ends, np.array([2, 3]), seed=1).rank.tolist() == [[0, 2], [1, 2]]
    with pytest.raises(InputError, match="none above its K"):
        thinned(ends, np.array([4, 3]), seed=1)


def test_ragged_references_are_thinned_prompt_by_prompt() -> None:
    """One prompt with two scores left costs that prompt's precision, not that of all."""
    one, two = outputs_of(best_of_n(4), 1000, 100), outputs_of(best_of_n(3), 1000, 100, seed=4)
    counts = two.counts.copy()
    counts[0] = 2
    ragged = thinned(two, counts, seed=1)
    assert validity(one, ragged).distance == pytest.approx(validity(one, two).distance, abs=0.003)


def test_plain_sampling_from_outside() -> None:
    estimate = beta_mixture(outputs_of(sample(), 3000, k=30))
    assert np.abs(estimate.G(Q, 1 - Q) - Q).max() < 0.03
