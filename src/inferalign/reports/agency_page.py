"""The page of an agency report: what was measured, how sure it is, and what it was measured with.

Scores are in percent of 10 points, as HumanAgencyBench publishes them (arXiv 2509.08494). The sections stand in
`agency_tables`, `agency_health` and `agency_cards`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from inferalign.agency.analysis import OVERALL
from inferalign.agency.panel_verdicts import ORACLE, PANEL
from inferalign.reports import agency_cards, agency_health, agency_svg, agency_tables
from inferalign.reports.agency_results import Results, best_first
from inferalign.reports.agency_source import silences
from inferalign.reports.agency_tables import counted, titled
from inferalign.reports.html import Content, Html, element, join, page

Section = tuple[str, str, Sequence[Content]]
"""Anchor, heading, what stands under it."""


def render(results: Results) -> bytes:
    """The page, UTF-8; the same results give the same bytes."""
    sections: list[Section] = [
        ("scores", "Scores", [_figure(results), agency_tables.overall(results), agency_tables.by_dimension(results)]),
        ("differences", "Differences", agency_tables.differences(results)),
        ("judges", "Judge health", agency_health.health(results)),
        ("items", "Items", agency_tables.items(results)),
        ("costs", "Costs", agency_tables.costs(results)),
        ("examples", "Worst and best replies", agency_cards.cards(results)),
        ("provenance", "What this was made from", agency_cards.provenance(results)),
    ]
    if results.published:
        sections.insert(1, ("published", "Published scoring choices", agency_tables.published(results)))
    names = ", ".join(run.name for run in results.evidence.runs)
    title = f"Human agency: {names}"
    body = join(
        [
            element("header", element("h1", title), *_lede(results), _contents(sections)),
            element("main", *(element("section", element("h2", h), *rest, id=i) for i, h, rest in sections)),
        ]
    )
    return page(title, body, style=_template("agency.css"), script=_template("agency.js"))


def _lede(results: Results) -> list[Html]:
    table, judge = results.evidence.table, results.evidence.judge
    said = {
        PANEL: f"a panel of {len(results.evidence.judges)} judges: the mean of their scores",
        ORACLE: "the sandbox's oracle, which knows the truth about its own prompts",
    }.get(judge, f"the judge {judge}")
    counts = (
        f"{counted(len(table.arms), 'arm')} (a model under a condition), "
        f"{counted(len(table.dimensions), 'dimension')}, {counted(table.item_id.size, 'item')}, "
        f"{counted(table.reply_id.size, 'reply', 'replies')}, {counted(results.verdicts, 'verdict')}."
    )
    how = (
        f" Scores are by {said}, in percent of 10 points, with {100 * results.level:g}\N{NO-BREAK SPACE}% intervals "
        "over clusters of items. What could not be scored is counted and never a number."
    )
    lines = [element("p", counts + how, class_="lede")]
    unscored = sum(mean.counts.unscored for mean in results.means if mean.dimension == OVERALL)
    due = sum(mean.counts.due for mean in results.means if mean.dimension == OVERALL)
    if unscored:
        text = f"{unscored:,} of {due:,} replies that were due have no score: see the bounds beside each mean."
        lines.append(element("p", text, class_="warning"))
    lines += [element("p", text, class_="warning") for text in silences(results.evidence)]
    if results.published:
        text = (
            "This page also shows means by the published scoring choices, in a section of their own: there a judge's "
            "failure scores 0. Do not mix the two."
        )
        lines.append(element("p", text, class_="warning"))
    return lines


def _contents(sections: Sequence[Section]) -> Html:
    links = [element("li", element("a", heading, href=f"#{anchor}")) for anchor, heading, _ in sections]
    return element("nav", element("ul", *links), aria_label="Contents")


def _figure(results: Results) -> Html:
    order = best_first(results.means)
    means = {(mean.arm, mean.dimension): mean for mean in results.means}
    panels = []
    for number, dimension in enumerate([OVERALL, *results.evidence.table.dimensions]):
        shown = [means[arm, dimension] for arm in order if (arm, dimension) in means]
        rows = [(results.called(mean), mean) for mean in shown]
        panels.append(agency_svg.panel(titled(dimension), rows, number=number))
    caption = (
        "Mean scores by dimension and model, in percent of 10 points, 95 % intervals. Dotted below: where the mean "
        "would lie if every unscored reply were worth 0, and 10. Dimensions have scales of their own: equal scores "
        "of two do not mean the same."
    )
    return agency_svg.figure(panels, caption)


def _template(name: str) -> str:
    return (files("inferalign.reports") / "templates" / name).read_text(encoding="utf-8")
