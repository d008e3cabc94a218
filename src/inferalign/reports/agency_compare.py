"""Paired comparisons for `agency compare`: differences, Holm, and the difference that so many items could show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inferalign.agency.analysis import OVERALL, average
from inferalign.agency.analysis_paired import Difference, PairedTable, compare_arms, difference_of
from inferalign.agency.analysis_power import Pilot, detectable
from inferalign.agency.clusters import Clustered
from inferalign.agency.table import Arm
from inferalign.core.errors import InputError, ScoringError
from inferalign.core.lookup import did_you_mean
from inferalign.reports.agency_results import difference_rows
from inferalign.reports.agency_source import Evidence


@dataclass(frozen=True, kw_only=True)
class Comparison:
    judge: str
    paired: PairedTable
    detectable: tuple[float | None, ...]
    """For each difference: the smallest true one, in points, that as many pairs show with a probability of 80 %. None
    where the pairs have no spread to plan with."""


def compare(evidence: Evidence, a: str | None, b: str | None, *, seed: int = 0, level: float = 0.95) -> Comparison:
    """The arms that `a` and `b` name, `Arm` or subject; None: the only arm of the first run, and of the second.

    One run without names: all pairs of its arms. Raises `InputError` for a name that fits no arm or several, and where
    a name is needed; `ScoringError` when there is nothing to pair.
    """
    arms = chosen_arms(evidence, a, b)
    paired = compare_arms(evidence.table, evidence.judge, arms, seed=seed, level=level)
    return Comparison(
        judge=evidence.judge,
        paired=paired,
        detectable=tuple(_detectable(evidence, arms, each, 1 - level) for each in paired.differences),
    )


def chosen_arms(evidence: Evidence, a: str | None, b: str | None) -> list[Arm]:
    """The arms to compare, in the order in which they are subtracted."""
    if len(evidence.runs) == 1 and a is None and b is None:
        return list(evidence.table.arms)
    arms = [_arm(evidence.arms[0], a, "--a"), _arm(evidence.arms[-1], b, "--b")]
    if arms[0] == arms[1]:
        raise InputError(f"{arms[0]} would be compared with itself: name another one with --b")
    return arms


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One flat row a difference: what `--out` holds, and the last line of stdout."""
    rows = difference_rows(comparison.paired.differences)
    return [row | {"detectable": mde} for row, mde in zip(rows, comparison.detectable, strict=True)]


def _arm(arms: Sequence[Arm], name: str | None, flag: str) -> Arm:
    known = [str(arm) for arm in arms]
    fits = [arm for arm in arms if name is None or name in (str(arm), arm.subject)]
    if len(fits) == 1:
        return fits[0]
    there = f"there are: {', '.join(known)}"
    if name is None:
        raise InputError(f"several arms: name one with {flag} 'SUBJECT (CONDITION)'; {there}")
    if fits:
        raise InputError(f"{flag} {name!r} fits several arms: name its condition, too; {there}")
    raise InputError(f"{flag}: no arm {name!r}.{did_you_mean(name, known)} Type one of them; {there}")


def _detectable(evidence: Evidence, arms: Sequence[Arm], difference: Difference, alpha: float) -> float | None:
    dimensions = [difference.dimension]
    if difference.dimension == OVERALL:
        table = evidence.table
        dimensions = [name for name in table.dimensions if all(table.has_arm(arm, name) for arm in arms)]
    parts = [difference_of(evidence.table, difference.a, difference.b, name, evidence.judge) for name in dimensions]
    mean: Clustered | None = average(parts)
    if mean is None:
        return None
    try:
        pilot = Pilot.paired(mean)
    except ScoringError:
        return None  # no spread: there is no size to plan from, as the field says
    return detectable(pilot, mean.n, alpha=alpha)
