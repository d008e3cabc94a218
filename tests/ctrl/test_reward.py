"""Rewards against anchors: by hand, against the definition, by simulation, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import brentq

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.types import Score, Unscored
from inferalign.ctrl.reward import UNJUDGEABLE, CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_kinds import REWARDS, Kind, Raw, Standardised, parse_reward
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Scored
from inferalign.theory.grid import default_grid
from inferalign.theory.optimal import solve
from inferalign.theory.policies import beta_for_kl, policy
from inferalign.theory.procedures import (
    best_of_n,
    parse_selection,
    tied_kl,
    tied_policy,
    tied_reward,
    tied_win_rate,
    worst_of_n,
)
from inferalign.theory.transforms import Exponential, Identity, Log, Power, Transform

Floats = NDArray[np.float64]
BLANK, LATE = Unscored("blank", "response"), Unscored("late", "judge")


def held(rows: dict[str, list[float | Unscored]]) -> HeldAnchors:
    verdicts = [v if isinstance(v, Unscored) else Score(v) for row in rows.values() for v in row]
    return HeldAnchors(tuple(rows), Scored.of(verdicts).reshape(len(rows), -1))


def one(*verdicts: float | Unscored) -> Scored:
    return Scored.of([v if isinstance(v, Unscored) else Score(v) for v in verdicts])


# One prompt: four anchors, one unjudgeable; and one left out because the judge failed on it.
HAND = held({"a": [1.0, 2.0, 2.0, BLANK, LATE], "b": [10.0, 20.0, 30.0, 40.0, 50.0]})


def test_ranks_by_hand() -> None:
    reward = CalibratedReward(HAND, Identity())
    found = reward.ranks(["a"] * 6, one(0.0, 1.0, 2.0, 3.0, BLANK, LATE))
    # of a's four: the blank one is below every score; a blank response ties with it
    expected = [1 / 4, (1 + 0.5) / 4, (2 + 1) / 4, 1.0, 0.5 / 4, math.nan]
    assert found.tolist() == pytest.approx(expected, nan_ok=True)
    # the same score lies elsewhere among another prompt's anchors
    assert reward.ranks(["a", "b", "b"], one(15.0, 15.0, 30.0)).tolist() == pytest.approx([1.0, 0.2, 0.5])


@pytest.mark.parametrize("kind", [Identity(), Exponential(10.0), Raw(), Standardised()])
def test_only_unjudgeable_text_without_calibration_hangs_on_what_else_is_in_the_call(kind: Kind) -> None:
    """A step's responses in one call, and shared out to two: -5 is below all anchors."""
    reward = CalibratedReward(held({"a": [0.0, 1.0, 2.0, 3.0], "b": [0.0, 1.0, 2.0, 4.0]}), kind)
    seen = (-5.0, 1.5, 7.0, BLANK)
    together = reward.rewards(["a"] * 4, one(*seen))
    apart = np.concatenate([reward.rewards(["a"] * 2, one(*seen[i : i + 2])) for i in (0, 2)])
    assert apart[:3].tolist() == together[:3].tolist()
    if isinstance(kind, Transform):
        assert apart[3] == together[3]
    else:
        assert together[3] < together[0] < apart[3], "beside -5 it would pay to hide where anchors alone were asked"


def test_rewards_by_hand() -> None:
    seen = one(2.0, BLANK, LATE)
    for kind, of_rank in (
        (Identity(), lambda x: x - 0.5),
        (Exponential(10.0), lambda x: math.exp(10 * (x - 1)) - (1 - math.exp(-10)) / 10),
        (Exponential(-10.0), lambda x: -math.exp(-10 * x) + (1 - math.exp(-10)) / 10),
        (Power(7.0), lambda x: x**7 - 1 / 8),
        (Log(), lambda x: math.log((4 * x + 0.5) / 5) + 1),
    ):
        found = CalibratedReward(HAND, kind).rewards(["a"] * 3, seen)
        assert found.tolist() == pytest.approx([of_rank(3 / 4), of_rank(1 / 8), math.nan], nan_ok=True)


def test_the_baselines_without_calibration_by_hand() -> None:
    seen = one(5.0, BLANK, LATE)
    # a response that cannot be judged is below the prompt's lowest by its range, also among the anchors themselves
    assert CalibratedReward(HAND, Raw()).rewards(["a"] * 3, seen).tolist() == pytest.approx(
        [5.0, 0.0, np.nan], nan_ok=True
    )
    filled = np.array([1.0, 2.0, 2.0, 0.0])
    expected = [(5 - filled.mean()) / filled.std(), (0 - filled.mean()) / filled.std(), np.nan]
    assert CalibratedReward(HAND, Standardised()).rewards(["a"] * 3, seen).tolist() == pytest.approx(
        expected, nan_ok=True
    )


def test_there_is_no_place_to_hide_without_calibration() -> None:
    """Where all anchors are equal, and beside a score that is lower than every anchor's."""
    anchors = held({"even": [2.0, 2.0, 2.0, 2.0], "odd": [0.0, 1.0, 2.0, 3.0]})
    typical = ((0 + 1.25) / 2) ** 0.5
    ids, seen = ["even"] * 3 + ["odd"] * 2, one(2.0, BLANK, 1.0, BLANK, -5.0)
    raw = CalibratedReward(anchors, Raw()).rewards(ids, seen)
    assert raw.tolist() == pytest.approx([2.0, 1.0 - typical, 1.0, -5.0 - 3.0, -5.0])
    sd = 1.25**0.5
    found = CalibratedReward(anchors, Standardised()).rewards(ids, seen)
    assert found.tolist() == pytest.approx([0.0, -1 - 1 / typical, 0.0, (-8 - 1.5) / sd, (-5 - 1.5) / sd])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(BLANK)), min_size=3, max_size=3), max_size=3),
    st.lists(st.tuples(st.integers(0, 3), st.one_of(st.integers(-9, 9).map(float), st.just(BLANK)))),
)
def test_what_cannot_be_judged_is_below_all_that_is_scored(
    rows: list[list[float | Unscored]], drawn: list[tuple[int, float | Unscored]]
) -> None:
    rows = [[0.0, 5.0, 1.0, 2.0], *([0.0, *row] for row in rows)]
    anchors = held({f"p{i}": row for i, row in enumerate(rows)})
    places = [place % len(rows) for place, _ in drawn]
    for kind in (Raw(), Standardised()):
        reward = CalibratedReward(anchors, kind)
        of_anchors = reward.rewards(anchors.prompt_ids, anchors.scores)
        found = reward.rewards([f"p{i}" for i in places], one(*(value for _, value in drawn)))
        assert np.isfinite(found).all()
        for i in range(len(rows)):
            lowest = [r for r, v in zip(of_anchors[i], rows[i], strict=True) if v is not BLANK]
            mine = [(r, v) for r, p, (_, v) in zip(found, places, drawn, strict=True) if p == i]
            lowest += [r for r, v in mine if v is not BLANK]
            assert all(r < min(lowest) for r, v in mine if v is BLANK)


def test_a_prompt_without_spread_has_no_standardised_reward() -> None:
    reward = CalibratedReward(held({"a": [1.0, 1.0], "b": [1.0, 2.0]}), Standardised())
    assert reward.rewards(["a", "b"], one(7.0, 7.0)).tolist() == pytest.approx([0.0, 11.0])


def naive_rank(value: float | Unscored, anchors: list[float | Unscored]) -> float:
    """Eq. (12) as it is written, with minus infinity for what cannot be judged."""
    number = {BLANK: -math.inf}
    kept = [number.get(a, a) for a in anchors if a is not LATE]  # type: ignore[arg-type]
    mine = number.get(value, value)  # type: ignore[arg-type]
    return sum((mine > z) + 0.5 * (mine == z) for z in kept) / len(kept)  # type: ignore[operator]


VERDICT = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([BLANK, LATE]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(VERDICT, min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_ranks_are_the_definition(rows: list[list[float | Unscored]], data: st.DataObject) -> None:
    rows = [[0.0, 10.0 + at, *row] for at, row in enumerate(rows)]  # no row is a copy of another
    anchors = held({f"p{i}": row for i, row in enumerate(rows)})
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    values = data.draw(
        st.lists(st.one_of(st.integers(-4, 4).map(float), st.just(BLANK)), min_size=len(places), max_size=len(places))
    )
    found = CalibratedReward(anchors, Identity()).ranks([f"p{i}" for i in places], one(*values))
    assert found.tolist() == pytest.approx([naive_rank(v, rows[i]) for v, i in zip(values, places, strict=True)])


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (2, 9), elements=st.floats(-5, 5)), st.floats(0.1, 9), st.floats(-50, 50))
def test_an_increasing_map_of_a_prompts_scores_changes_no_calibrated_reward(
    scores: np.ndarray, scale: float, offset: float
) -> None:
    scores = np.round(scores, 2)
    scores[:, :2] = [[0.0, 1.0], [0.0, 7.0]]  # neither constant nor copies
    ids, moved = ("a", "b"), np.round(scores * np.array([[1.0], [scale]]) + np.array([[0.0], [offset]]), 6)
    for kind in (Identity(), Log(), Exponential(5.0)):
        plain = CalibratedReward(HeldAnchors(ids, Scored.all_scored(scores)), kind)
        other = CalibratedReward(HeldAnchors(ids, Scored.all_scored(moved)), kind)
        a = plain.rewards(ids, Scored.all_scored(scores))
        assert np.allclose(a, other.rewards(ids, Scored.all_scored(moved)))
        order = np.argsort(scores[1])
        assert np.all(np.diff(a[1][order]) >= 0)


@pytest.mark.parametrize("text", ["identity", "exp:5", "exp:-5", "log", "power:7", "optimal"])
def test_the_mean_over_fresh_reference_draws_is_that_of_the_reference(text: str) -> None:
    """Mean calibrated reward 1/2 and mean reward about 0, with a tenth of the text unjudgeable: by Monte Carlo."""
    draw, prompts, k = np.random.default_rng(5), 60, 200
    ids = tuple(f"p{i}" for i in range(prompts))

    def drawn() -> Scored:
        blame = np.where(draw.random((prompts, k)) < 0.1, RESPONSE, SCORED).astype(np.uint8)
        blame[draw.random((prompts, k)) < 0.05] = JUDGE
        return Scored(np.where(blame == SCORED, draw.normal(size=(prompts, k)), 0.0), blame)

    kind = parse_reward(text, best_of_n(4), kl=0.5)
    found = CalibratedReward(HeldAnchors(ids, drawn()), kind).calibrated(ids, drawn())
    assert found.seen.mean_rank == pytest.approx(0.5, abs=0.012)
    rewards = found.rewards[~np.isnan(found.rewards)]
    # the tie at the bottom flattens a transform there a little
    assert rewards.mean() == pytest.approx(0.0, abs=0.1 * rewards.std())


def test_beta_of_the_planner_belongs_to_these_rewards() -> None:
    """The reference, reweighted by e^(R/beta) on draws, has the KL that beta was found for."""
    draw, kind = np.random.default_rng(7), Exponential(10.0)
    beta = beta_for_kl(kind, 0.5, default_grid())
    ids, n = ("p",), 20000
    reward = CalibratedReward(HeldAnchors(ids, Scored.all_scored(draw.normal(size=(1, n)))), kind)
    weights = np.exp(reward.rewards(ids, Scored.all_scored(draw.normal(size=(1, n))))[0] / beta)
    f = weights / weights.mean()
    assert np.mean(f * np.log(f)) == pytest.approx(policy(kind, beta, default_grid()).kl, abs=0.03)


def test_any_shape_with_one_id_a_row() -> None:
    reward = CalibratedReward(HAND, Identity())
    flat = reward.rewards(["a", "a", "b", "b"], one(1.0, 2.0, 10.0, BLANK))
    table = reward.rewards(["a", "b"], one(1.0, 2.0, 10.0, BLANK).reshape(2, 2))
    assert table.shape == (2, 2)
    assert table.ravel().tolist() == flat.tolist()
    assert reward.rewards([], Scored.of([])).shape == (0,)


def test_an_unjudgeable_response_is_never_above_any_other() -> None:
    scores = one(-1e300, -5.0, 0.0, BLANK)
    for kind in (Identity(), Log(), Exponential(10.0), Exponential(-10.0)):
        found = CalibratedReward(HAND, kind).rewards(["a"] * 4, scores)
        assert found[3] <= found[:3].min()
    assert UNJUDGEABLE < -1e300


def test_what_was_seen() -> None:
    seen = (
        CalibratedReward(HAND, Exponential(10.0))
        .calibrated(["a"] * 5 + ["b"], one(0.0, 2.0, 3.0, BLANK, LATE, 60.0))
        .seen
    )
    assert (seen.scored, seen.response, seen.judge) == (4, 1, 1)
    assert seen.rank_sum == pytest.approx(1 / 4 + 3 / 4 + 1 + 1 / 8 + 1)
    assert (seen.above, seen.tied) == (2, 2)
    assert seen.unjudgeable_anchors == pytest.approx(4 * 0.25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raw", Raw()),
        ("standardised", Standardised()),
        ("identity", Identity()),
        ("exp:-10", Exponential(-10.0)),
        ("one-shot", Power(-7.0)),
    ],
)
def test_rewards_by_name(text: str, expected: Kind) -> None:
    assert parse_reward(text, worst_of_n(4)) == expected


def test_every_form_is_readable_and_has_its_name() -> None:
    for form in REWARDS:
        kind = parse_reward(form, best_of_n(2), kl=0.5)
        assert kind.name == ("power:3" if form == "one-shot" else form)


def test_optimal_is_frozen_where_it_was_asked() -> None:
    x = np.linspace(0, 1, 11)
    by_kl = parse_reward("optimal", best_of_n(4), kl=0.5)
    by_beta = parse_reward("optimal", best_of_n(4), beta=solve(best_of_n(4), kl=0.5).beta)
    other = parse_reward("optimal", best_of_n(4), kl=1.0)
    expected = solve(best_of_n(4), kl=0.5).transform(x)
    assert by_kl(x) == pytest.approx(expected)  # type: ignore[operator]
    assert by_beta(x) == pytest.approx(expected, rel=1e-6)  # type: ignore[operator]
    assert other(x) != pytest.approx(expected, rel=1e-3)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("standardized", UnknownName, "Did you mean 'standardised'"),
        ("rwa", UnknownName, "Did you mean 'raw'"),
        ("expo:10", UnknownName, "Did you mean 'exp'"),
        ("exp:ten", InputError, "expected a number"),
        ("optimal", InputError, "name the procedure"),
        ("one-shot", InputError, "name the procedure"),
    ],
)
def test_a_name_that_cannot_be_read_says_what_to_type(text: str, error: type[InputError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        parse_reward(text)
    assert "\n" not in str(caught.value)


def test_optimal_without_a_place_is_refused() -> None:
    with pytest.raises(InputError, match="one of beta and kl"):
        parse_reward("optimal", best_of_n(4))


@pytest.mark.parametrize(
    ("anchors", "kind", "words"),
    [
        (held({"a": [1.0, 1.0], "b": [3.0, 3.0]}), Identity(), "same score"),
        (held({"a": [BLANK, LATE], "b": [LATE, BLANK]}), Identity(), "no anchor was scored"),
        (held({"a": [BLANK, BLANK]}), Raw(), "no anchor was scored"),
        (held({"a": [1.0, LATE], "b": [LATE, 3.0]}), Identity(), "'a' has 1 anchors"),
        (held({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}), Identity(), "one set of reference scores"),
        (held({"a": [2.0, 2.0, BLANK]}), Raw(), "an uncalibrated reward has no scale"),
        (HeldAnchors(("a", "a"), Scored.all_scored([[1.0, 2.0], [1.0, 3.0]])), Identity(), "'a' has two rows"),
        (HeldAnchors(("a",), Scored.all_scored([[1.0, 2.0], [1.0, 3.0]])), Identity(), "1 prompt ids"),
        (HeldAnchors(("a",), Scored.all_scored([1.0])), Identity(), r"\[prompts, K\]"),
    ],
)
def test_anchors_that_cannot_serve_are_refused_in_one_line(anchors: HeldAnchors, kind: Kind, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        CalibratedReward(anchors, kind)
    assert "\n" not in str(caught.value)


def test_a_prompt_with_unjudgeable_anchors_alone_is_no_error_for_ranks() -> None:
    reward = CalibratedReward(held({"a": [1.0, 2.0], "b": [BLANK, BLANK]}), Identity())
    assert reward.ranks(["b", "b"], one(-9.0, BLANK)).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("anchors", "kind", "words"),
    [
        (held({"a": [1.0, 2.0, 3.0], "b": [LATE, LATE, 3.0]}), Identity(), "'b' has 1 anchors"),
        (held({"a": [1.0, 2.0], "b": [BLANK, BLANK]}), Raw(), "no anchor of prompt 'b'"),
        (held({"a": [1.0, 2.0], "b": [BLANK, BLANK]}), Standardised(), "no anchor of prompt 'b'"),
    ],
)
def test_a_prompt_that_cannot_serve_is_refused_where_it_is_asked_for(
    anchors: HeldAnchors, kind: Kind, words: str
) -> None:
    reward = CalibratedReward(anchors, kind)
    assert np.isfinite(reward.rewards(["a"], one(2.0))).all()
    reward.require(["a"])
    with pytest.raises(InputError, match=words):
        reward.require(["a", "b"])
    with pytest.raises(InputError, match=words):
        reward.rewards(["b"], one(1.0))


@pytest.mark.parametrize("procedure", ["best-of-n:4", "worst-of-n:4"])
@pytest.mark.parametrize("masses", [[1 / 3] * 3, [0.1] * 10, [0.05, 0.1, 0.7, 0.1, 0.05], [0.6, 0.2, 0.1, 0.06, 0.04]])
def test_the_middle_of_a_tie_loses_nothing_at_equal_kl(procedure: str, masses: list[float]) -> None:
    """Against Phi's mean over the tie, and the optimum on levels by the fixed point of its own reward; KL .5."""
    p, selection = np.array(masses), parse_selection(procedure)
    counts = np.rint(600 * p).astype(int)
    anchors = HeldAnchors(("p",), Scored.all_scored(np.repeat(np.arange(p.size), counts)[None]))
    kind = parse_reward("optimal", selection, kl=0.5)
    assert isinstance(kind, Transform)
    fine = (np.cumsum(p) - p)[:, None] + p[:, None] * (np.arange(2000) + 0.5) / 2000
    middle = CalibratedReward(anchors, kind).rewards(("p",), Scored.all_scored([np.arange(p.size)]))[0]
    best = p
    for _ in range(100):
        best = at_kl(tied_reward(best, p, selection), p, 0.5) ** 0.3 * best**0.7
        best /= best.sum()
    won = [
        tied_win_rate(f, p, selection).win
        for f in (at_kl(middle, p, 0.5), at_kl(kind.normalised(fine).mean(axis=1), p, 0.5), best)
    ]
    assert won[0] > won[1] - 1e-4
    assert won[0] == pytest.approx(won[2], abs=3e-4)


def at_kl(values: Floats, p: Floats, kl: float) -> Floats:
    """The policy p e^(values / beta) / Z whose KL to p is `kl`."""
    return tied_policy(
        values, math.exp(brentq(lambda b: tied_kl(tied_policy(values, math.exp(b), p), p) - kl, -8, 8)), p
    )


def test_responses_that_have_no_anchors_are_refused() -> None:
    reward = CalibratedReward(HAND, Identity())
    with pytest.raises(InputError, match="'c' has no anchors"):
        reward.rewards(["a", "c"], one(1.0, 2.0))
    with pytest.raises(InputError, match="3 prompt ids"):
        reward.rewards(["a", "a", "b"], one(1.0, 2.0))


def test_the_standard_error_of_reference_draws_by_hand_and_by_simulation() -> None:
    """2 draws against 4 anchors and 1 against 5: (2 (2 + 4 + 1) / 48 + 1 (1 + 5 + 1) / 60) / 9 is the variance."""
    expected = math.sqrt((14 / 48 + 7 / 60) / 9)
    assert CalibratedReward(HAND, Identity()).standard_error(["a", "b", "a"]) == pytest.approx(expected)
    stream, m, k, found = np.random.default_rng(0), 20, 10, []
    ids = ["p"] * m + ["q"] * m
    for _ in range(2000):
        reward = CalibratedReward(HeldAnchors(("p", "q"), Scored.all_scored(stream.normal(size=(2, k)))), Identity())
        found.append(reward.ranks(ids, Scored.all_scored(stream.normal(size=2 * m))).mean())
    assert np.mean(found) == pytest.approx(0.5, abs=0.005)
    assert np.std(found) == pytest.approx(reward.standard_error(ids), rel=0.06)
