"""Which validated items go on: those of at least a score, and of them the best, ties broken by a draw.

HumanAgencyBench (arXiv 2509.08494) keeps the best two in three by rank alone, ties in the order of the sort, so that
an item which is disqualified passes where enough others are bad. Here a threshold stands beside the rank. It is an "at
least": with a start of 1000 and 700 as the least, an item whose one fault costs 300 points lands on it and passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inferalign.agency.dimension import Dimension
from inferalign.agency.records import Item
from inferalign.agency.validate import Validation
from inferalign.core.errors import InputError, ScoringError
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, proportion


@dataclass(frozen=True, kw_only=True)
class Kept:
    items: tuple[Item, ...]
    """By id, with the validation in their provenance."""
    scores: Mapping[str, int]
    """Validation score of each of them."""
    counts: Mapping[str, int]
    """Every item once: kept, unvalidated, unscored, disqualified, below_min_score, beyond_rank."""
    unscored: Mapping[str, int]
    """The unscored by reason."""
    min_score: int
    tied_at_the_cut: int
    """Items that passed with the score of the last that was kept: if not all were kept, a draw chose among them."""
    totals: Mapping[str, int]
    """The validator's own sums against ours: agree, disagree, missing."""


def keep(
    items: Sequence[Item],
    validations: Sequence[Validation],
    dimension: Dimension,
    *,
    wanted: int | None,
    seed: int,
    min_score: int | None = None,
) -> Kept:
    """The items that pass the threshold, and of them the `wanted` best.

    Args:
        validations: one an item at most, in any order; an item without one is counted and not kept.
        wanted: None keeps all that pass.
        min_score: None takes the dimension's own.

    Raises `InputError` when an item has two validations, and when fewer than one item is wanted.
    """
    if wanted is not None and wanted < 1:
        raise InputError(f"{wanted} items are wanted: keep at least 1, such as --keep 200")
    least = dimension.validate.min_score if min_score is None else min_score
    by_item = {validation.item: validation for validation in validations}
    if len(by_item) < len(validations):
        twice = next(name for name, n in Counter(v.item for v in validations).items() if n > 1)
        raise InputError(f"item {twice!r} has more than one validation: give those of one validator")
    fates = {item.id: _fate(by_item.get(item.id), least) for item in items}
    passed = [item for item in items if fates[item.id] == "kept"]
    score = {v.item: v.score for v in validations if v.score is not None and fates.get(v.item) == "kept"}
    # The draw is named by the item, so that neither the order of the rows nor the other items decide it.
    ranked = sorted(passed, key=lambda item: (-score[item.id], derive(seed, "tie", dimension.id, item.id)))
    best = ranked[:wanted]
    for item in ranked[len(best) :]:
        fates[item.id] = "beyond_rank"
    last = score[best[-1].id] if best else None
    judged = [by_item[item.id] for item in items if item.id in by_item]
    return Kept(
        items=tuple(sorted((_with(item, by_item[item.id]) for item in best), key=lambda item: item.id)),
        scores={item.id: score[item.id] for item in sorted(best, key=lambda item: item.id)},
        counts={fate: sum(1 for f in fates.values() if f == fate) for fate in _FATES},
        unscored=dict(sorted(Counter(v.reason for v in judged if v.score is None).items())),
        min_score=least,
        tied_at_the_cut=sum(1 for value in score.values() if value == last),
        totals=_totals(judged),
    )


_FATES = ("kept", "unvalidated", "unscored", "disqualified", "below_min_score", "beyond_rank")


def _fate(validation: Validation | None, least: int) -> str:
    if validation is None:
        return "unvalidated"
    if validation.score is None:
        return "unscored"
    if validation.disqualified:
        return "disqualified"
    return "kept" if validation.score >= least else "below_min_score"


def _totals(validations: Sequence[Validation]) -> dict[str, int]:
    agreed = Counter(v.total_agrees for v in validations if v.score is not None)
    return {"agree": agreed[True], "disagree": agreed[False], "missing": agreed[None]}


def _with(item: Item, validation: Validation) -> Item:
    found = {
        "letters": list(validation.letters or ()),
        "score": validation.score,
        "validator": validation.validator,
        "model": validation.model,
    }
    return replace(item, provenance={**item.provenance, "validation": found})


def second_sample(items: Sequence[Item], share: float, seed: int) -> tuple[Item, ...]:
    """About `share` of the items, at least one, for a second validator; by id.

    An item's place in the draw is named by its id, so a larger share of the same items holds the smaller one.
    Raises `InputError` unless 0 < share <= 1 and there is an item.
    """
    if not 0.0 < share <= 1.0 or not items:
        raise InputError(f"a share of {share} of {len(items)} items: give a share above 0, at most 1, such as 0.1")
    drawn = sorted(items, key=lambda item: derive(seed, "second validator", item.id))
    return tuple(sorted(drawn[: max(1, round(share * len(items)))], key=lambda item: item.id))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two validators on the items that both scored."""

    n: int
    unscored: int
    """Items that one of the two did not score; left out."""
    same_decision: Estimate
    """Share of items that both would pass or both would not (threshold and disqualifiers), with Wilson's interval."""
    same_letters: Estimate
    by_letter: Mapping[str, Estimate]
    """Share of items on which both name the letter or neither does."""
    mean_difference: float
    """Mean of the second score less the first."""


def agreement(
    first: Sequence[Validation], second: Sequence[Validation], dimension: Dimension, *, min_score: int | None = None
) -> Agreement:
    """How far two validators agree. Raises `ScoringError` when there is no item that both scored."""
    least = dimension.validate.min_score if min_score is None else min_score
    firsts = {validation.item: validation for validation in first}
    both = [(firsts[other.item], other) for other in second if other.item in firsts]
    differences = [b.score - a.score for a, b in both if a.score is not None and b.score is not None]
    pairs = [(a, b) for a, b in both if a.score is not None and b.score is not None]
    if not pairs:
        raise ScoringError(f"no item was scored by both validators ({len(first)} and {len(second)} verdicts)")
    return Agreement(
        n=len(pairs),
        unscored=len(both) - len(pairs),
        same_decision=proportion([(_fate(a, least) == "kept") == (_fate(b, least) == "kept") for a, b in pairs]),
        same_letters=proportion([a.letters == b.letters for a, b in pairs]),
        by_letter={
            letter: proportion([(letter in (a.letters or ())) == (letter in (b.letters or ())) for a, b in pairs])
            for letter in dimension.validate.deductions
        },
        mean_difference=sum(differences) / len(differences),
    )
