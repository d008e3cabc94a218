"""Judge health on the page: what became of every verdict, each judge's means, agreement, repeatability, reasons."""

from __future__ import annotations

from inferalign.agency.analysis import OVERALL
from inferalign.agency.panel_verdicts import PANEL
from inferalign.reports.agency_results import Results, best_first, status_counts
from inferalign.reports.agency_tables import estimate_cell, number, titled
from inferalign.reports.html import Cell, Content, Html, Row, clipped, element, join, table

REASONS = 12
"""Shown; all of them are in the page's -data.json."""
REASON = 300
"""Characters of one."""


def health(results: Results) -> list[Content]:
    parts: list[Content] = [_verdicts(results)]
    if len(results.evidence.judges) > 1:
        parts += [_means_by_judge(results), _agreement(results)]
    else:
        parts.append(_missing("One judge was asked: name a second --judge in the run to see whether they agree."))
    parts.append(_repeatability(results))
    if results.reasons:
        parts.append(_reasons(results))
    more = "Letter order, length, self-preference, agreement issue by issue: type inferalign agency audit RUN."
    return [*parts, element("p", more, class_="note")]


def _verdicts(results: Results) -> Html:
    status = status_counts(results.health)
    rows: list[Row] = []
    for judge in _judges(results):
        for arm in best_first(results.means):
            if (judge, arm, OVERALL) not in status:
                continue
            counts = status[judge, arm, OVERALL]
            share = 100 * counts[2] / sum(counts)
            rows.append(
                [judge, results.names[arm], *(number(count) for count in counts), Cell(f"{share:.1f} %", share)]
            )
    note = (
        "Repaired: an odd answer that could be read, or was asked for again. Unscored: no verdict was reached; it is "
        "left out of the means and counted in their bounds."
    )
    head = ("judge", "model", "ok", "repaired", "unscored", "unscored, %")
    return table(_caption("Verdicts", note), head, rows)


def _means_by_judge(results: Results) -> Html:
    judges = _judges(results)
    reported = {mean.arm: mean for mean in results.means if mean.dimension == OVERALL}
    means = {
        (judge, mean.arm): mean
        for judge, many in results.means_by_judge.items()
        for mean in many
        if mean.dimension == OVERALL
    } | {(results.evidence.judge, arm): mean for arm, mean in reported.items()}
    rows: list[Row] = [
        [results.names[arm], *(estimate_cell(means[judge, arm].score) for judge in judges)]
        for arm in best_first(results.means)
    ]
    note = "Overall scores, in percent, over the replies that the judge scored: they need not be the same replies."
    return table(_caption("Means by each judge", note), ("model", *judges), rows)


def _agreement(results: Results) -> Html:
    rows: list[Row] = [
        [titled(each.dimension), estimate_cell(each.score, 1.0, 2), number(each.score.n)] for each in results.agreement
    ]
    note = "Krippendorff's alpha of scores (interval scale) over all judges: 1 is perfect, 0 is chance."
    return table(_caption("Agreement between judges", note), ("dimension", "alpha", "replies"), rows)


def _repeatability(results: Results) -> Html:
    if not results.repeatability:
        return _missing(
            "No reply was judged twice: repeat the run with --judge-repeats 3 to see the judge's own chance."
        )
    rows: list[Row] = [
        [row.judge, row.what, estimate_cell(row.estimate, 100.0), number(row.estimate.n)]
        for row in results.repeatability
    ]
    return table(_caption("Repeatability", "In percent."), ("judge", "what", "value, %", "n"), rows)


def _reasons(results: Results) -> Html:
    rows: list[Row] = []
    for judge, status, reason, count in results.reasons[:REASONS]:
        said, cut = clipped(reason, REASON)
        rows.append([judge, status, number(count), element("bdi", f"{said} {cut}".strip(), class_="said-short")])
    left = len(results.reasons) - len(rows)
    note = f"{left:,} more kinds are in -data.json beside this page." if left else ""
    head = ("judge", "status", "verdicts", "reason")
    return table(_caption("Why verdicts were repaired or not reached", note), head, rows)


def _judges(results: Results) -> list[str]:
    judges = list(results.evidence.judges)
    return [PANEL, *judges] if results.evidence.judge == PANEL and PANEL not in judges else judges


def _missing(text: str) -> Html:
    return element("p", text, class_="note")


def _caption(title: str, note: str) -> Html:
    return join([title, element("span", note, class_="note")] if note else [title])
