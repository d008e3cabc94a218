"""Means by the published scoring choices, for comparisons with published numbers and for nothing else.

As HumanAgencyBench's code has it (arXiv 2509.08494): what was not judged, or not readably, scores 0; a letter that is
named twice costs twice; the mean is over replies; its standard error is sd / sqrt(n), as if all items were independent;
the overall mean's error is made of the dimensions'. What the judge was shown stays as it was: shuffled letters, if
they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from inferalign.agency.analysis import OVERALL
from inferalign.agency.compat import compat_score
from inferalign.agency.table import Arm
from inferalign.core.errors import InputError
from inferalign.reports.agency_source import Evidence, verdicts_by_reply


@dataclass(frozen=True, kw_only=True)
class PublishedMean:
    judge: str
    arm: Arm
    dimension: str
    mean: float
    """0 to 10."""
    error: float | None
    """Plain standard error; None for a single reply."""
    n: int
    """Replies that were due, all of them scored."""


def published_means(evidence: Evidence) -> list[PublishedMean]:
    """Every judge's means of every arm by dimension and overall; a judge's first verdict on a reply counts.

    Raises `InputError` for a dimension whose issues are not known and for scores without letters.
    """
    if unknown := [name for name in evidence.table.dimensions if name not in evidence.rubrics]:
        raise InputError(
            f"the issues of {unknown[0]} are not known, so the published scoring cannot be applied: leave "
            "--hab-compat out"
        )
    asked = [verdict for verdict in evidence.stored.verdicts if verdict.judge in evidence.judges]
    if any(verdict.score is not None and verdict.letters is None for verdict in asked):
        raise InputError(
            "these scores came without letters (from somebody else's log), so the published scoring cannot be applied: "
            "leave --hab-compat out"
        )
    return [mean for judge in evidence.judges for arm in evidence.table.arms for mean in _of_arm(evidence, judge, arm)]


def _of_arm(evidence: Evidence, judge: str, arm: Arm) -> Iterable[PublishedMean]:
    scores = _scores(evidence, judge, arm)
    rows = [
        PublishedMean(judge=judge, arm=arm, dimension=name, mean=fmean(values), error=_error(values), n=len(values))
        for name, values in scores.items()
    ]
    errors = [row.error for row in rows if row.error is not None]
    overall = PublishedMean(
        judge=judge,
        arm=arm,
        dimension=OVERALL,
        mean=fmean(row.mean for row in rows),
        error=math.hypot(*errors) / len(rows) if len(errors) == len(rows) else None,
        n=sum(row.n for row in rows),
    )
    return [*rows, overall]


def _scores(evidence: Evidence, judge: str, arm: Arm) -> dict[str, list[float]]:
    """By dimension, the score of each reply that was due."""
    verdicts = verdicts_by_reply(verdict for verdict in evidence.stored.verdicts if verdict.judge == judge)
    found: dict[str, list[float]] = {}
    for name in evidence.table.dimensions:
        if not evidence.table.has_arm(arm, name):
            continue
        table = evidence.table
        items = set(table.item_id[table.item_dimension == name][table.due(arm, name)].tolist())
        replies = [
            reply
            for reply in evidence.stored.replies
            if reply.item in items and (reply.subject, reply.condition) == arm
        ]
        first = [verdicts[reply.id][0] for reply in replies if reply.id in verdicts]
        due = len(items) * len({reply.repeat for reply in replies})
        scored = [compat_score(verdict, evidence.rubrics[name]) for verdict in first]
        found[name] = [*scored, *[0.0] * (due - len(scored))]
    return found


def _error(values: list[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
