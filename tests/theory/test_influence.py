"""Influence rewards: against brute force over all tuples, finite differences, and closed forms."""

import itertools

import numpy as np
import pytest

from inferalign.core.errors import InputError
from inferalign.theory.ascent import ascend_at_kl
from inferalign.theory.blackbox import Floats
from inferalign.theory.grid import default_grid
from inferalign.theory.influence import beaten, draws_influence, selector_influence
from inferalign.theory.newton import influence
from inferalign.theory.optimal import solve
from inferalign.theory.policies import Policy, beta_for_kl, policy
from inferalign.theory.procedures import best_of_n, sample, worst_of_n
from inferalign.theory.retry import ThresholdRetry
from inferalign.theory.transforms import Exponential, Identity, Log

RETRY = ThresholdRetry(0.8, 4)


def centred(values: Floats) -> Floats:
    return values - values.mean()


# N exchangeable draws


def test_by_hand_two_draws_of_three() -> None:
    """c = (0, 1, 1) and the better of two is kept: R(y) = 2 P(the tuple with y wins) over the other two answers."""
    found = draws_influence(lambda t: t.max(axis=1), [0.0, 1.0, 1.0], 2, rounds=4000, seed=0)
    by_hand = 2 * np.array([1.0, 1.0, 1.0])  # every pair holds an answer with c = 1
    np.testing.assert_allclose(found.reward, centred(by_hand), atol=1e-12)
    assert found.value == pytest.approx(1.0)
    lower = draws_influence(lambda t: t.min(axis=1), [0.0, 1.0, 1.0], 2, rounds=4000, seed=0)
    np.testing.assert_allclose(lower.reward, centred(2 * np.array([0.0, 0.5, 0.5])), atol=0.05)


def test_it_is_brute_force_over_all_tuples_for_a_majority_vote() -> None:
    """Three votes among two classes: not a matter of rank, and still symmetric."""
    draws = np.random.default_rng(0)
    c, classes = draws.random(9), draws.integers(0, 2, 9)

    def vote(tuples):
        winner = (classes[tuples].sum(axis=1) >= 2).astype(int)
        ordered = np.sort(tuples, axis=1)  # the smallest index of the class: whatever the order of the draws
        first = (classes[ordered] == winner[:, None]).argmax(axis=1)
        return np.take_along_axis(ordered, first[:, None], axis=1)[:, 0]

    every = np.array(list(itertools.combinations(range(9), 3)))
    won = c[vote(every)]
    exact = np.array([3 * won[(every == y).any(axis=1)].mean() for y in range(9)])
    found = draws_influence(vote, c, 3, rounds=6000, seed=1)
    assert np.all(np.abs(found.reward - centred(exact)) < 5 * found.error + 1e-9)
    assert found.error.max() < 0.02


def test_best_of_four_as_a_black_box_gives_its_optimal_transform() -> None:
    """At the reference R = 4 E[c] = Phi up to a constant, Phi(u) = -(16/7) (1 - u^7)."""
    u = (np.arange(2000) + 0.5) / 2000
    found = draws_influence(lambda t: t.max(axis=1), u**4, 4, rounds=400, seed=2)
    exact = 16 / 7 * u**7
    error = found.reward - centred(exact)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(np.sqrt(np.mean(found.error**2)), rel=0.1)
    assert np.sqrt(np.mean(error**2)) < 0.12 * np.std(exact)
    assert found.value == pytest.approx(0.5, abs=0.02)


def test_c_is_the_share_of_rivals_beaten() -> None:
    assert beaten([0.0, 1.0, 1.5, 3.0], [1.0, 2.0]).tolist() == [0.0, 0.25, 0.5, 1.0]
    with pytest.raises(InputError, match="finite"):
        beaten([np.nan], [1.0])


@pytest.mark.parametrize(("n", "rounds"), [(4, 10), (2, 1), (0, 10)])
def test_too_few_responses_or_rounds(n: int, rounds: int) -> None:
    with pytest.raises(InputError, match="tuples of"):
        draws_influence(lambda t: t[:, 0], [0.1, 0.2, 0.3], n, rounds=rounds, seed=0)


# Selector and judge


def value_by_enumeration(s: Floats, c: Floats, p: Floats, n: int, keep: str) -> float:
    """Best or worst of n draws by the selector, ties even, c of what is kept: over all M^n tuples."""
    total = 0.0
    for picked in itertools.product(range(len(s)), repeat=n):
        at = np.array(picked)
        edge = s[at].max() if keep == "best" else s[at].min()
        total += float(np.prod(p[at]) * c[at][s[at] == edge].mean())
    return total


@pytest.mark.parametrize("keep", ["best", "worst"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_its_value_is_enumeration_and_its_reward_the_derivative_also_with_ties(keep: str, n: int) -> None:
    draws = np.random.default_rng(7)
    s, c, p = np.array([0.3, 0.1, 0.3, 0.9, 0.5, 0.5]), draws.random(6), draws.dirichlet(np.ones(6))
    selection = best_of_n(n) if keep == "best" else worst_of_n(n)
    found = selector_influence(selection, s, c, p)
    assert found.value == pytest.approx(value_by_enumeration(s, c, p, n, keep), abs=1e-12)
    assert p @ found.reward == pytest.approx(0, abs=1e-12)
    for y in range(6):
        direction = np.eye(6)[y] - p  # stays on the simplex
        h = 1e-5
        up, down = (value_by_enumeration(s, c, p + d * direction, n, keep) for d in (h, -h))
        assert found.reward[y] == pytest.approx((up - down) / (2 * h), abs=1e-8)


def test_a_selector_that_is_the_judge_gives_the_transform_of_the_procedure() -> None:
    grid, selection = default_grid(), best_of_n(4)
    m = 4001
    u = (np.arange(m) + 0.5) / m
    p = policy(np.zeros_like(grid.u), 1.0, grid)
    phi = np.interp(u, grid.u, influence(selection, p, selection.g(grid.u, grid.s)))
    found = selector_influence(selection, u, selection.G(u, 1 - u))
    np.testing.assert_allclose(found.reward, centred(phi), atol=4 / m * 16)


def test_the_form_with_the_conditional_mean() -> None:
    """R = g(F) (c - m) - int_v^1 g(F) dm by quadrature, for c = m(v) + what the selector does not see."""
    k, selection = 2000, best_of_n(3)
    v = (np.arange(k) + 0.5) / k
    mean, noise = np.sin(2 * v) / 2, 0.2
    s, c = np.repeat(v, 2), np.repeat(mean, 2) + np.tile([-noise, noise], k)
    found = selector_influence(selection, s, c)
    integral = np.array(
        [np.trapezoid((3 * x**2 * np.cos(2 * x)), x) for x in (np.linspace(t, 1, 400) for t in v[::100])]
    )
    for sign, offset in ((-noise, 0), (noise, 1)):
        form = 3 * v[::100] ** 2 * sign - integral
        ours = found.reward[offset::2][::100]
        np.testing.assert_allclose(ours - ours[0], form - form[0], atol=0.01)


def test_a_selector_that_knows_nothing_earns_nothing_in_rank() -> None:
    """With one level for all, every procedure is plain sampling: R = c."""
    c = np.array([0.1, 0.9, 0.4])
    for selection in (sample(), best_of_n(4), worst_of_n(4)):
        np.testing.assert_allclose(selector_influence(selection, np.zeros(3), c).reward, centred(c), atol=1e-12)


def test_selector_influence_refuses_what_is_no_policy() -> None:
    with pytest.raises(InputError, match="adding up to 1"):
        selector_influence(best_of_n(2), [0.0, 1.0], [0.0, 1.0], [0.4, 0.4])
    with pytest.raises(InputError, match="one entry a response"):
        selector_influence(best_of_n(2), [0.0, 1.0], [0.0])
    with pytest.raises(InputError, match="one row"):
        selector_influence(best_of_n(2), [], [])


# Retry until a threshold


def tuned(t: float, kl: float) -> Policy:
    grid, transform = RETRY.grid, Exponential(t)
    return policy(transform.from_top(grid.u, grid.s), beta_for_kl(transform.from_top(grid.u, grid.s), kl, grid), grid)


def test_retry_by_hand() -> None:
    """tau 1/2, two draws, the reference: half the first draws end it, output below 1/2 only if both are."""
    retry = ThresholdRetry(0.5, 2)
    rolls = np.array([[0.6, 0.9], [0.4, 0.7], [0.2, 0.3], [0.49, 0.1]])
    assert retry.output(rolls).tolist() == [0.6, 0.7, 0.3, 0.49]
    grid = retry.grid
    even = retry.win_rate(policy(np.zeros_like(grid.u), 1.0, grid))
    assert even.win == pytest.approx(0.5, abs=1e-12)
    assert even.lose == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("kl", "percent"), [(0.5, (83.60, 81.29, 78.58, 73.02, 70.84)), (1.0, (91.04, 86.63, 83.13, 77.35, 75.97))]
)
def test_the_table_of_retry(kl: float, percent: tuple[float, ...]) -> None:
    """tau .8, N 4: tuned by influence, e^(10x), e^(5x), identity, log."""
    grid = RETRY.grid
    best = ascend_at_kl(RETRY.influence, kl, grid).policy
    others = []
    for transform in (Exponential(10.0), Exponential(5.0), Identity(), Log()):
        values = transform.from_top(grid.u, grid.s)
        others.append(policy(values, beta_for_kl(values, kl, grid), grid))
    rates = [100 * RETRY.win_rate(p).win for p in (best, *others)]
    np.testing.assert_allclose(rates, percent, atol=0.011)


def test_retry_against_simulation() -> None:
    p, draws = tuned(5.0, 0.5), np.random.default_rng(3)
    uniform = draws.random((400_000, 8))
    ours = RETRY.output(np.interp(uniform[:, :4], p.F, p.grid.u))
    theirs = RETRY.output(uniform[:, 4:])
    simulated = np.mean(ours > theirs)
    assert RETRY.win_rate(p).win == pytest.approx(simulated, abs=5 * 0.5 / np.sqrt(400_000))


@pytest.mark.parametrize("retry", [RETRY, ThresholdRetry(0.3, 2), ThresholdRetry(0.5, 1)])
def test_its_influence_is_the_derivative_of_its_win_rate(retry: ThresholdRetry) -> None:
    grid = retry.grid
    base = policy(3 * grid.u, 1.0, grid)
    reward = retry.influence(base)
    for k in range(1, 6):
        bump = np.cos(k * np.pi * grid.u)
        rates = [retry.win_rate(policy(3 * grid.u + h * bump, 1.0, grid)).win for h in (1e-4, -1e-4)]
        mean = grid.integrate(base.f * bump)
        covariance = grid.integrate(base.f * (bump - mean) * reward)
        assert covariance == pytest.approx((rates[0] - rates[1]) / 2e-4, abs=1e-7)


def test_its_reward_falls_at_the_threshold_and_one_draw_is_plain_sampling() -> None:
    grid = RETRY.grid
    reward = RETRY.influence(tuned(5.0, 0.5))
    below = grid.u < 0.8
    assert reward[below][-1] > reward[~below][0] + 0.1
    assert np.all(np.diff(reward[below]) >= 0)
    assert np.all(np.diff(reward[~below]) >= 0)
    once = ThresholdRetry(0.8, 1)
    plain = ascend_at_kl(once.influence, 0.5, once.grid).policy
    assert once.win_rate(plain).win == pytest.approx(solve(sample(), kl=0.5).win_rate, abs=1e-9)


@pytest.mark.parametrize(("threshold", "n"), [(0.0, 4), (1.0, 4), (0.8, 0)])
def test_retry_that_makes_no_sense(threshold: float, n: int) -> None:
    with pytest.raises(InputError, match="quantile between 0 and 1"):
        ThresholdRetry(threshold, n)
