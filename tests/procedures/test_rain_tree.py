"""The arithmetic of the search, worked by hand."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.procedures.rain_tree import (
    Node,
    Proposal,
    attach,
    backup,
    best_child,
    clamp_greedy,
    drop_child,
    extend,
    extend_as_published,
    make_root,
    mix_uniform,
    normalise,
    select_child,
    wants_widening,
)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def family(*probabilities: float, settings: RainSettings = DEFAULT) -> Node:
    """A root with single-token children of these probabilities."""
    root = Node(())
    attach(root, [Proposal((i,), p) for i, p in enumerate(probabilities)], settings)
    return root


def test_puct_by_hand() -> None:
    root = family(0.5, 0.5)
    root.visits = 4.0
    a, b = root.children
    a.prior, a.visits, a.value = 0.6, 3.0, 0.5  # 0.75 + 2 * 0.6 * 2 / 4 = 1.35
    b.prior, b.visits, b.value = 0.4, 1.0, 0.0  # 0.50 + 2 * 0.4 * 2 / 2 = 1.30
    assert select_child(root, 2.0) is a
    b.value = 0.2  # 0.60 + 0.80 = 1.40
    assert select_child(root, 2.0) is b


def test_an_unvisited_child_counts_as_the_worst_value_and_ties_go_to_the_first() -> None:
    root = family(0.5, 0.5)
    root.visits = 1.0
    a, b = root.children
    b.visits, b.value = 1.0, -1.0  # 0 + 2 * .5 / 2 = 0.5 against 0 + 2 * .5 = 1.0
    assert select_child(root, 2.0) is a
    assert select_child(root, 0.0) is a, "both 0 without exploration"


def test_best_child_is_most_visited_then_larger_value_then_first() -> None:
    root = family(0.4, 0.3, 0.3)
    a, b, c = root.children
    assert best_child(Node(())) is None
    assert best_child(root) is a
    for child, value in ((a, 0.1), (b, 0.3), (c, 0.3)):
        child.visits, child.value = 2.0, value
    assert best_child(root) is b
    c.visits = 2.2
    assert best_child(root) is c


def test_backup_by_hand_with_sibling_credit() -> None:
    """Two siblings at cosine 1: the second takes 0.2 of each value; the root and a distant third take none."""
    root = family(0.4, 0.3, 0.3)
    a, b, c = root.children
    backup(root, 1.0, [], DEFAULT)
    backup(b, -1.0, [vector(1, 0)], DEFAULT)
    backup(c, 0.0, [vector(0, 1)], DEFAULT)
    backup(a, 1.0, [vector(2, 0)], DEFAULT)
    assert (a.visits, a.own_visits, a.value) == (1.0, 1, 1.0)
    assert b.visits == pytest.approx(1.2)
    assert b.value == pytest.approx((-1.0 * 1 + 0.2 * 1.0) / 1.2)
    assert (c.visits, c.value) == (1.0, 0.0)
    assert (root.visits, root.own_visits) == (4.0, 4), "credit does not reach the parent"
    assert root.value == pytest.approx((1 - 1 + 0 + 1) / 4)
    backup(b, 1.0, [vector(0, 1)], DEFAULT)
    assert b.own_visits == 2
    np.testing.assert_allclose(b.embedding, [0.5, 0.5])
    assert b.value == pytest.approx((-0.8 / 1.2) + (1.0 - (-0.8 / 1.2)) / 2.2), "n is fractional"


def test_siblings_without_an_embedding_take_no_credit() -> None:
    root = family(0.5, 0.5)
    a, b = root.children
    backup(a, 1.0, [vector(1, 0)], DEFAULT)
    assert (b.visits, b.value) == (0.0, 0.0)
    backup(b, 1.0, [None], DEFAULT)
    assert (a.visits, b.embedding) == (1.0, None)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=30), st.randoms())
def test_without_similar_siblings_values_are_means_and_visits_add_up(values: list[float], random: object) -> None:
    root = family(0.4, 0.3, 0.3)
    given_to: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for value in values:
        i = random.randrange(3)  # type: ignore[attr-defined]
        given_to[i].append(value)
        backup(root.children[i], value, [vector(*np.eye(3)[i])], DEFAULT)
    assert root.own_visits == len(values) == sum(child.own_visits for child in root.children)
    assert root.value == pytest.approx(np.mean(values))
    for i, child in enumerate(root.children):
        assert child.value == pytest.approx(np.mean(given_to[i]) if given_to[i] else 0.0)
        assert -1.0 <= child.value <= 1.0


def test_priors_by_hand() -> None:
    assert normalise([0.3, 0.1]) == pytest.approx([0.75, 0.25])
    assert normalise([0.0, 0.0]) == [0.5, 0.5], "probabilities that underflowed"
    assert mix_uniform([0.75, 0.25], 0.25) == pytest.approx([0.6875, 0.3125])
    root = family(0.3, 0.1)
    assert [child.prior for child in root.children] == pytest.approx([0.6875, 0.3125])


def test_greedy_clamp_by_hand() -> None:
    assert clamp_greedy([0.9, 0.2, 0.1]) == pytest.approx([0.3, 0.2, 0.1]), "not above the sum of the others"
    assert clamp_greedy([0.01, 0.2, 0.1]) == pytest.approx([0.3, 0.2, 0.1]), "not below largest + smallest"
    assert clamp_greedy([0.9, 0.2]) == pytest.approx([0.4, 0.2]), "with one other it is twice that"
    assert clamp_greedy([0.9]) == [0.9]


def visited_family(settings: RainSettings, values: tuple[float, ...] = (-1.0, -0.5)) -> Node:
    root = family(*([0.1] * len(values)), settings=settings)
    for child, value in zip(root.children, values, strict=True):
        backup(child, value, [vector(1, 0)], replace(settings, sibling_credit=0.0))
    return root


@pytest.mark.parametrize("settings", [PAPER, DEFAULT])
def test_widening_needs_every_condition(settings: RainSettings) -> None:
    assert wants_widening(visited_family(settings), settings)
    assert not wants_widening(visited_family(settings, (-1.0, 0.0)), settings), "one child does not displease"
    unvisited = visited_family(settings)
    unvisited.children[0].own_visits = 0
    assert not wants_widening(unvisited, settings)
    varied = visited_family(settings)
    varied.children[0].embedding = vector(0, 1)  # unbiased variance (1/2, 1/2): norm 0.707 > 0.03
    assert not wants_widening(varied, settings)
    assert wants_widening(varied, replace(settings, widen_variance=0.71))
    assert not wants_widening(varied, replace(settings, widen_variance=0.70))
    assert not wants_widening(visited_family(settings), replace(settings, widen_limit=2))
    exhausted = visited_family(settings)
    exhausted.exhausted = True
    assert not wants_widening(exhausted, settings)


@pytest.mark.parametrize("settings", [PAPER, DEFAULT])
def test_longer_sets_may_vary_more_before_they_are_enough(settings: RainSettings) -> None:
    """The norm of .707 against the threshold times the length of a set at that depth."""
    deep = visited_family(settings)
    deep.depth, deep.children[0].embedding = 2, vector(0, 1)
    length = settings.set_length(2)
    assert length > 1
    assert wants_widening(deep, replace(settings, widen_variance=0.71 / length))
    assert not wants_widening(deep, replace(settings, widen_variance=0.70 / length))


def test_an_only_child_is_widened_by_the_mended_rule_alone() -> None:
    assert wants_widening(visited_family(DEFAULT, (-1.0,)), DEFAULT)
    assert not wants_widening(visited_family(PAPER, (-1.0,)), PAPER), "the published variance of one is nan"


def test_mended_widening_renews_every_prior() -> None:
    root = family(0.3, 0.1)
    assert extend(root, [*root.proposals, Proposal((9,), 0.4)], DEFAULT) == 1
    assert [child.token_ids for child in root.children] == [(0,), (1,), (9,)]
    expected = mix_uniform([0.375, 0.125, 0.5], 0.25)
    assert [child.prior for child in root.children] == pytest.approx(expected)


def test_published_widening_leaves_priors_and_adds_within_the_first() -> None:
    node = Node((), depth=1, parent=Node(()))
    attach(node, [Proposal((1, 1), 0.2), Proposal((1, 2), 0.1)], PAPER)
    before = [child.prior for child in node.children]  # clamped: 2 * 0.1, 0.1
    assert before == pytest.approx([2 / 3, 1 / 3])
    # greedy again (always a duplicate, clamped to 2 * 0.05) and one new sample; then the first of the old list
    assert extend_as_published(node, [Proposal((1, 1), 0.2), Proposal((3, 3), 0.05)], PAPER) == 1
    assert [child.prior for child in node.children] == pytest.approx([*before, 0.05 / (0.1 + 0.05 + 0.2)])
    assert extend_as_published(node, [Proposal((1, 1), 0.2), Proposal((3, 3), 0.05)], PAPER) == 0, "nothing new"


@pytest.mark.parametrize("settings", [DEFAULT, PAPER], ids=["default", "paper"])
def test_a_dropped_child_is_not_added_again(settings: RainSettings) -> None:
    node = Node((), depth=1, parent=Node(()))
    attach(node, [Proposal((1, 1), 0.2), Proposal((1, 2), 0.1), Proposal((1, 3), 0.1)], settings)
    drop_child(node.children[1])
    if settings is PAPER:
        assert extend_as_published(node, [Proposal((1, 1), 0.2), Proposal((1, 2), 0.1)], settings) == 0
        assert extend_as_published(node, [Proposal((1, 1), 0.2), Proposal((4, 4), 0.1)], settings) == 1
    else:
        assert extend(node, [*node.proposals, Proposal((4, 4), 0.1)], settings) == 1
    assert [child.token_ids for child in node.children] == [(1, 1), (1, 3), (4, 4)]


def test_re_rooting_keeps_the_subtree_and_frees_the_rest() -> None:
    root = family(0.3, 0.1)
    kept, other = root.children
    attach(kept, [Proposal((5, 5), 0.2), Proposal((6, 6), 0.1)], DEFAULT)
    kept.visits, kept.own_visits, kept.value = 4.0, 3, 0.5
    gone = weakref.ref(other)
    new = make_root(root, kept, DEFAULT)
    assert (new, new.parent, new.visits, new.own_visits, new.value) == (kept, None, 4.0, 3, 0.5)
    assert [child.prior for child in new.children] == pytest.approx(mix_uniform([2 / 3, 1 / 3], 0.25))
    del other
    gc.collect()
    assert gone() is None


def test_re_rooting_mixes_before_it_normalises() -> None:
    """Priors 0.9 and 0.6 after a published widening: 0.8 and 0.575, of 1.375. The other order gives 0.575, 0.425."""
    root = family(0.5, 0.5)
    child = root.children[0]
    attach(child, [Proposal((7,), 0.9), Proposal((8,), 0.6)], PAPER)
    for grandchild, prior in zip(child.children, (0.9, 0.6), strict=True):
        grandchild.prior = prior
    make_root(root, child, PAPER)
    assert [c.prior for c in child.children] == pytest.approx([0.8 / 1.375, 0.575 / 1.375])


def test_set_lengths_follow_the_depth_from_the_first_root() -> None:
    assert [DEFAULT.set_length(depth) for depth in range(6)] == [1, 2, 4, 10, 10, 10]


@pytest.mark.parametrize(
    "bad",
    [
        {"max_iterations": 1},
        {"candidates": 1},
        {"stop_value": 2.0},
        {"set_lengths": ()},
        {"min_ratio": 2.0},
        {"root_uniform": -0.1},
        {"root_uniform": 1.1},
        {"candidate_top_k": 0},
        {"widen_draws": -1},
        {"exploration": float("nan")},
    ],
)
def test_settings_that_cannot_run_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        RainSettings(**bad)  # type: ignore[arg-type]
