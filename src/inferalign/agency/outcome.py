"""What a run came to so far: means with intervals beside what was not scored, read from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inferalign.agency.analysis import Summary, summarise
from inferalign.agency.panel_verdicts import ORACLE, PANEL, panel_verdicts
from inferalign.agency.records import Verdict
from inferalign.agency.stored import read_run
from inferalign.agency.table_build import build_table
from inferalign.scorers.verdicts import Rubric

Outcome = dict[str, list[Summary]]
"""By judge: every arm's means."""


def outcome(run: Path, rubrics: Mapping[str, Rubric]) -> tuple[dict[str, Any], Outcome]:
    """(JSON values for `metrics.json`, the means); several judges are summed up as a panel, too.

    A judge without a single verdict has no means. Raises `RunError` for a damaged folder.
    """
    stored = read_run(run)
    judges = sorted({verdict.judge for verdict in stored.verdicts})
    verdicts = list(stored.verdicts)
    if len(judges) > 1:
        verdicts += panel_verdicts(stored, judges, rubrics)
    table = build_table(stored.items, stored.replies, verdicts)
    means = {judge: summarise(table, judge) for judge in table.judges}
    metrics = {
        "items": len(stored.items),
        "replies": len(stored.replies),
        "finishes": dict(sorted(Counter(reply.finish for reply in stored.replies).items())),
        "verdicts": {
            judge: dict(sorted(Counter(v.status for v in verdicts if v.judge == judge).items())) for judge in means
        },
        "unscored": {judge: _reasons(judge, stored.verdicts) for judge in means},
        "means": [_row(judge, summary) for judge, summaries in means.items() for summary in summaries],
    }
    return metrics, means


def _reasons(judge: str, verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Why a judge's verdicts are unscored, the commonest reason first; a panel's are its judges'."""
    counts = Counter(one.reason for one in verdicts if one.judge == judge and one.score is None)
    return dict(sorted(counts.items(), key=lambda found: (-found[1], found[0])))


def _row(judge: str, summary: Summary) -> dict[str, Any]:
    percent = summary.percent
    return {
        "judge": judge,
        "subject": summary.arm.subject,
        "condition": summary.arm.condition,
        "dimension": summary.dimension,
        "percent": percent.mean,
        "low": percent.low,
        "high": percent.high,
        "items": percent.n,
        "left_out": list(summary.left_out),
        **asdict(summary.counts),
        "percent_if_unscored_0": 10 * summary.bounds[0],
        "percent_if_unscored_10": 10 * summary.bounds[1],
    }


def headline(means: Outcome) -> list[Summary]:
    """The means to show first: those of the truth where it is known, else the panel's where there is one."""
    return means.get(ORACLE) or means.get(PANEL) or next(iter(means.values()), [])
