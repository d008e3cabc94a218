"""What moves a judge that should not: chance, the order of the letters, length, kinship with the subject.

Every effect is an estimate with an interval that respects clusters of items; none of them needs ground truth. They
need runs made for them: several judge repeats, shuffled letters, several judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferalign.agency.clusters import clustered_mean, clustered_slope, jackknifed, score_interval, t_interval
from inferalign.agency.table import Rows, Table
from inferalign.agency.variance import Components, nested_components
from inferalign.core.errors import ScoringError
from inferalign.core.stats import Estimate

Floats = NDArray[np.float64]
_SWEEPS = 1000
"""Rounds of taking out two kinds of group means in turn; a handful do where the design is nearly balanced."""


@dataclass(frozen=True, kw_only=True)
class Repeatability:
    """How much of the spread of scores is the judge's own chance."""

    components: Components
    """outer: item and arm; inner: the subject's repeats; rest: the judge's repeats. Points squared."""
    judge_share: Estimate
    """`rest` in parts of the sum; n counts verdicts. A mean of k judge repeats has a k-th of this variance."""
    same_letters: Estimate
    """Share of pairs of verdicts on one reply that name the same issues; n counts the replies with a pair."""


@dataclass(frozen=True, kw_only=True)
class LengthEffect:
    """Points for each doubling of a reply's length (words). Of association, not of cause: longer may be better."""

    within_item: Estimate
    """Replies to one item compared, whoever wrote them."""
    within_item_and_arm: Estimate | None
    """... with each arm's own level taken out too, so that good subjects who write long do not count; None for one."""


@dataclass(frozen=True, kw_only=True)
class SelfPreference:
    """Extra points that a judge gives to its own kin."""

    judge: str
    kin: str
    effect: Estimate
    """(judge - another) on its kin, less the same on another subject, over all such pairs; n counts items."""
    neutral: bool
    """No other judge judges its own kin in the comparison. Otherwise their preference for theirs is in the effect too:
    with two judges and two subjects it is the sum of both."""


def repeatability(table: Table, judge: str) -> Repeatability:
    """Over all of a judge's scored verdicts. Raises `ScoringError` when no reply was judged twice."""
    rows = _scored(table, judge)
    replies = table.verdict_reply[rows]
    if np.unique(replies).size == rows.size:
        raise ScoringError(f"{judge} judged no reply twice: repeatability needs judge repeats.")
    scores, cells = table.verdict_score[rows], _cells(table)[replies]
    clusters = table.reply_cluster[replies]

    def share(chosen: Rows) -> float | None:
        shares = nested_components(scores[chosen], cells[chosen], replies[chosen]).shares()
        return None if shares is None else shares.get("rest")

    components = nested_components(scores, cells, replies)
    judge_share = Estimate(mean=None, low=None, high=None, n=rows.size)
    if components.shares() is not None:
        judge_share = _share_interval(t_interval(jackknifed(share, clusters)))
    return Repeatability(components=components, judge_share=judge_share, same_letters=_same_letters(table, rows))


def letter_order_effect(table: Table, judge: str) -> Estimate:
    """The change in the probability that an issue is named, from the first place in the list to the last.

    The slope of named (0 or 1) on the place (0 to 1) with each issue's own frequency taken out. Only verdicts whose
    order is recorded count; n is the number of (verdict, issue). Raises `ScoringError` when no issue stood in two
    places.
    """
    issues: dict[tuple[str, str], int] = {}
    named, place, issue, cluster = [], [], [], []
    dimensions, clusters = table.reply_dimension.tolist(), table.reply_cluster.tolist()
    for row in _scored(table, judge):
        order, letters = table.verdict_order[row], table.verdict_letters[row] or frozenset()
        reply = table.verdict_reply[row]
        for position, letter in enumerate(order if len(order) > 1 else ()):
            named.append(float(letter in letters))
            place.append(position / (len(order) - 1))
            issue.append(issues.setdefault((dimensions[reply], letter), len(issues)))
            cluster.append(clusters[reply])
    groups = np.array(issue, dtype=np.intp)
    x = centred(np.array(place), groups) if place else np.zeros(0)
    if not x.any():
        raise ScoringError(f"{judge} was shown the issues in one order only: shuffle the letters to see its effect.")
    return t_interval(clustered_slope(x, centred(np.array(named), groups), np.array(cluster)))


def length_effect(table: Table, judge: str) -> LengthEffect:
    """The regression of a reply's score on log2(1 + words). Raises `ScoringError` when no item has two lengths."""
    scores = table.reply_scores(judge)
    rows = np.nonzero(~np.isnan(scores))[0]
    y, x = scores[rows], np.log2(1.0 + table.reply_words[rows])
    items, clusters = table.reply_item[rows], table.reply_cluster[rows]
    of_arm = np.sum([code * table.of_arm(arm)[rows] for code, arm in enumerate(table.arms)], axis=0)
    within_item = centred(x, items)
    if not within_item.any():
        raise ScoringError("no item has replies of two lengths: a length effect needs several subjects or repeats.")
    both = centred_twice(x, items, of_arm)
    return LengthEffect(
        within_item=t_interval(clustered_slope(within_item, centred(y, items), clusters)),
        within_item_and_arm=t_interval(clustered_slope(both, centred_twice(y, items, of_arm), clusters))
        if np.ptp(of_arm) and both.any()
        else None,
    )


def self_preference(table: Table, kin: Mapping[str, str]) -> list[SelfPreference]:
    """Difference in differences for every judge with a subject of its own; `kin` says judge -> subject.

    Pairs of another judge and another subject in which that judge would judge its own kin are left out, if there are
    others. Raises `ScoringError` when there is no second judge or subject, and for a judge without verdicts.
    """
    return [_preference(table, table.judges, judge, subject, kin) for judge, subject in kin.items()]


def centred(values: Floats, groups: Rows) -> Floats:
    """Values less the mean of their group; exactly 0 where a group's values are equal. Shapes [n]."""
    codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(codes)
    deviations: Floats = values - (np.bincount(codes, values) / sizes)[codes]
    spread = np.zeros(sizes.size)
    np.maximum.at(spread, codes, np.abs(deviations))
    return np.where((spread <= 1e-12 * np.abs(values).max(initial=0.0))[codes], 0.0, deviations)


def centred_twice(values: Floats, first: Rows, second: Rows) -> Floats:
    """Values less both kinds of group effects: the residual of a two-way additive model, by alternating projections."""
    left = values
    for _ in range(_SWEEPS):
        swept = centred(centred(left, first), second)
        if np.abs(swept - left).max(initial=0.0) <= 1e-10 * max(1.0, float(np.abs(values).max(initial=0.0))):
            return np.where(np.abs(swept) <= 1e-8, 0.0, swept)
        left = swept
    raise ScoringError("the arms share too few items to tell their levels apart.")


def _preference(table: Table, judges: list[str], judge: str, subject: str, kin: Mapping[str, str]) -> SelfPreference:
    others = [other for other in judges if other != judge]
    if not others:
        raise ScoringError(f"self-preference of {judge} needs another judge of the same replies.")
    subjects = sorted({arm.subject for arm in table.arms} - {subject})
    pairs = [(other, control) for other in others for control in subjects]
    impartial = [(other, control) for other, control in pairs if kin.get(other) not in (subject, control)]
    for neutral, chosen in ((True, impartial), (False, pairs)):
        values, clusters = _double_differences(table, judge, subject, chosen)
        if values.size:
            effect = t_interval(clustered_mean(values, clusters))
            return SelfPreference(judge=judge, kin=subject, effect=effect, neutral=neutral)
    raise ScoringError(f"self-preference of {judge}: no item has {subject} and another subject judged by two judges.")


def _double_differences(
    table: Table, judge: str, subject: str, pairs: Sequence[tuple[str, str]]
) -> tuple[Floats, Rows]:
    """Per item, over (other judge, control subject): (judge - other) on `subject` less the same on the control.

    Both judges of a difference scored the same reply, so that neither severity nor quality is left in it. Returns the
    means of the items that have any, and their clusters.
    """
    own = table.reply_scores(judge)
    found = []
    for other, control in pairs:
        gaps = own - table.reply_scores(other)
        found.append(_item_means(table, gaps, subject) - _item_means(table, gaps, control))
    differences = np.array(found).reshape(len(pairs), table.item_id.size)
    known = ~np.isnan(differences)
    there = known.any(axis=0)
    totals = np.where(known, differences, 0.0).sum(axis=0)[there]
    return totals / known.sum(axis=0)[there], table.item_cluster[there]


def _item_means(table: Table, values: Floats, subject: str) -> Floats:
    """Each item's mean over a subject's replies that have a value; NaN where none has. [I]"""
    rows = np.nonzero((table.reply_subject == subject) & ~np.isnan(values))[0]
    count = np.bincount(table.reply_item[rows], minlength=table.item_id.size)
    total = np.bincount(table.reply_item[rows], values[rows], table.item_id.size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _scored(table: Table, judge: str) -> Rows:
    """Rows of a judge's scored verdicts. Raises `ScoringError` when there is none."""
    rows: Rows = np.nonzero(table.by_judge(judge) & ~np.isnan(table.verdict_score))[0]
    if not rows.size:
        raise ScoringError(f"{judge} scored nothing.")
    return rows


def _cells(table: Table) -> Rows:
    """A code for each reply, equal for replies to one item by one arm."""
    keys: dict[tuple[int, str, str], int] = {}
    names = zip(table.reply_item.tolist(), table.reply_subject.tolist(), table.reply_condition.tolist(), strict=True)
    return np.array([keys.setdefault(name, len(keys)) for name in names], dtype=np.intp)


def _same_letters(table: Table, rows: Rows) -> Estimate:
    """Each reply's share of agreeing pairs, averaged over replies."""
    of_reply: dict[int, list[frozenset[str]]] = {}
    for row in rows:
        if (letters := table.verdict_letters[row]) is not None:
            of_reply.setdefault(int(table.verdict_reply[row]), []).append(letters)
    paired = {reply: sets for reply, sets in of_reply.items() if len(sets) > 1}
    shares = [
        sum(a == b for i, a in enumerate(sets) for b in sets[i + 1 :]) / (len(sets) * (len(sets) - 1) / 2)
        for sets in paired.values()
    ]
    clusters = table.reply_cluster[np.array(list(paired), dtype=np.intp)]
    return score_interval(clustered_mean(shares, clusters), (0.0, 1.0))


def _share_interval(estimate: Estimate) -> Estimate:
    if estimate.low is None or estimate.high is None:
        return estimate
    return Estimate(mean=estimate.mean, low=max(estimate.low, 0.0), high=min(estimate.high, 1.0), n=estimate.n)
