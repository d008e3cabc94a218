"""The tables of an agency report: means, differences, items, costs, published scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from inferalign.agency.analysis import OVERALL, Summary
from inferalign.agency.analysis_items import FEWEST, ItemFacts
from inferalign.agency.analysis_paired import Difference, Rank
from inferalign.core.stats import Estimate
from inferalign.reports.agency_compat import PublishedMean
from inferalign.reports.agency_results import Results, best_first, status_counts
from inferalign.reports.html import Cell, Content, Html, Row, clipped, element, join, table

MOST_ROWS = 800
"""Of a table on the page; all of them are in the files beside it."""
HARDEST = 10
SNIPPET = 140


def titled(dimension: str) -> str:
    """A dimension's id as a heading."""
    return dimension.replace("_", " ").capitalize()


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def estimate_cell(estimate: Estimate, scale: float = 10.0, digits: int = 1) -> Cell:
    """Value and interval; scores (0 to 10) in percent."""
    if estimate.mean is None:
        return Cell("none")
    value = fixed(scale * estimate.mean, digits)
    if estimate.low is None or estimate.high is None:
        return Cell(value, scale * estimate.mean)
    interval = f" [{fixed(scale * estimate.low, digits)}, {fixed(scale * estimate.high, digits)}]"
    return Cell(join([value, element("span", interval, class_="interval")]), scale * estimate.mean)


def fixed(value: float, digits: int) -> str:
    """With a minus sign that is as long as a plus, and no minus before 0."""
    return f"{value:z,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def number(value: float | None, digits: int = 0) -> Cell:
    return Cell("unknown") if value is None else Cell(fixed(value, digits), float(value))


def overall(results: Results) -> Html:
    """One row an arm, the best first."""
    rows: list[Row] = [_mean_row(results, mean, [results.called(mean)]) for mean in _ordered(results, [OVERALL])]
    note = (
        "The unweighted mean over dimensions; a model without a reply in one of them has the mean of the others, which "
        "does not compare. Rank: all places that the paired tests leave open. Bounds: the mean if "
        "every unscored reply were worth 0, and if 10. Ok, repaired and unscored count verdicts."
    )
    return table(_caption("Overall", note), ["model", *_MEAN_HEAD], rows)


def by_dimension(results: Results) -> Html:
    dimensions = results.evidence.table.dimensions
    rows: list[Row] = [
        _mean_row(results, mean, [titled(mean.dimension), results.names[mean.arm]])
        for mean in _ordered(results, dimensions)
    ]
    cut, note = _cut(rows)
    return table(_caption("By dimension", note), ["dimension", "model", *_MEAN_HEAD], cut)


_MEAN_HEAD = ("score, %", "rank", "items", "scored of due", "ok / repaired / unscored", "bounds, %")


def _mean_row(results: Results, mean: Summary, heading: Sequence[str]) -> Row:
    rank = results.ranks().get((mean.arm, mean.dimension))
    status = status_counts(results.health).get((results.evidence.judge, mean.arm, mean.dimension), (0, 0, 0))
    low, high = (10 * bound for bound in mean.bounds)
    counts = mean.counts
    return [
        *heading,
        estimate_cell(mean.score),
        _rank_cell(rank),
        Cell(f"{mean.score.n:,}", mean.score.n),
        Cell(f"{counts.scored:,} of {counts.due:,}", counts.due - counts.scored),
        Cell(" / ".join(f"{count:,}" for count in status), status[2]),
        Cell(f"{low:.1f} to {high:.1f}" if counts.unscored else "all scored", high - low),
    ]


def _rank_cell(rank: Rank | None) -> Cell:
    if rank is None:
        return Cell("-")
    return Cell(f"{rank.best}" if rank.best == rank.worst else f"{rank.best} to {rank.worst}", rank.best + rank.worst)


def differences(results: Results) -> list[Content]:
    """Every pair of arms overall, then by dimension."""
    if results.paired is None:
        return [element("p", "One arm only, or none that share a dimension: there is nothing to compare.")]
    every = results.paired.differences
    of_dimensions = sorted((d for d in every if d.dimension != OVERALL), key=_least_likely)
    rows: list[Row] = [_difference_row(results, each) for each in of_dimensions]
    cut, more = _cut(rows)
    note = (
        "Percentage points, first less second, over the items that both have a score on; left out: items that both "
        "were asked and that lack one. p: by flipping the signs of clusters of items. Holm: adjusted over all pairs "
        "and dimensions of the table; those up to .05 are bold. "
        "Bounds: if every missing score were as bad for the first as can be, and as good."
    )
    head = ("dimension", "first", "second", "difference", "p", "p, Holm", "pairs", "left out", "bounds")
    whole = [_difference_row(results, each) for each in every if each.dimension == OVERALL]
    return [
        table(_caption("Overall", note), head, whole),
        table(_caption("By dimension", more or "As above; the smallest p first."), head, cut),
    ]


def _least_likely(difference: Difference) -> tuple[float, str, str, str]:
    p = 2.0 if difference.p_holm is None else difference.p_holm
    return p, difference.dimension, str(difference.a), str(difference.b)


def _difference_row(results: Results, each: Difference) -> Row:
    low, high = (10 * bound for bound in each.bounds)
    sure = each.p_holm is not None and each.p_holm <= 0.05
    shown = estimate_cell(each.estimate)
    return [
        titled(each.dimension),
        results.names[each.a],
        results.names[each.b],
        Cell(element("span", shown.shown, class_="sure"), shown.sort) if sure else shown,
        _p_cell(each.p),
        _p_cell(each.p_holm),
        Cell(f"{each.estimate.n:,}", each.estimate.n),
        Cell(f"{each.dropped:,}", each.dropped),
        Cell(f"{fixed(low, 1)} to {fixed(high, 1)}" if each.dropped else "-", high - low),
    ]


def _p_cell(p: float | None) -> Cell:
    if p is None:
        return Cell("none")
    return Cell("< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0"), p)


def items(results: Results) -> list[Content]:
    """By dimension how many items tell nobody apart; the hardest of all; those that better subjects do worse on."""
    arms = len(results.evidence.table.arms)
    prompts = {item.id: item.prompt for item in results.evidence.stored.items}
    rows: list[Row] = []
    for name in results.evidence.table.dimensions:
        own = [each for each in results.items if each.dimension == name]
        eases = [each.ease for each in own if each.ease is not None]
        dead = sum(1 for each in own if each.dead)
        usual = [d for each in own if (d := each.discrimination.mean) is not None]
        rows.append(
            [
                titled(name),
                number(len(own)),
                number(100 * fmean(eases), 1) if eases else Cell("none"),
                number(dead) if arms > 1 else Cell("needs two arms"),
                number(fmean(usual), 2) if usual else Cell(f"needs {FEWEST} arms" if arms < FEWEST else "none"),
                number(sum(1 for each in usual if each < 0)) if usual else Cell("-"),
            ]
        )
    head = ("dimension", "items", "mean score, %", "dead", "mean discrimination", "negative ones")
    note = (
        "Dead: all arms score the same on it, so that it tells none apart; few arms leave items dead by chance. "
        "Discrimination: correlation of an item's scores with the other items' mean, over arms."
    )
    hardest = sorted((each for each in results.items if each.ease is not None), key=_ease)[:HARDEST]
    return [
        table(_caption("Items by dimension", note), head, rows),
        table(
            _caption("Hardest items", "Over all arms."),
            ("item", "dimension", "mean score, %", "message"),
            [_item_row(each, prompts[each.item]) for each in hardest],
        ),
    ]


def _ease(facts: ItemFacts) -> tuple[float, str]:
    return facts.ease or 0.0, facts.item


def _item_row(each: ItemFacts, prompt: str) -> Row:
    start, cut = clipped(" ".join(prompt.split()), SNIPPET)
    text = element("bdi", start + ("…" if cut else ""), class_="said-short")
    return [each.item, titled(each.dimension), number(100 * (each.ease or 0.0), 1), text]


def costs(results: Results) -> list[Content]:
    """Each run's accounts, a role and model each; a price or cost that is not known says so."""
    parts: list[Content] = []
    for run in results.evidence.runs:
        if run.costs is None or not run.costs.get("accounts"):
            nothing = "no ledger was kept" if run.costs is None else "nothing was called over a network"
            said = f"{run.name}: {nothing}."
            parts.append(element("p", said))
            continue
        rows = [_account_row(account) for account in run.costs.get("accounts", [])]
        total, most = run.costs.get("cost"), run.costs.get("cost_at_most")
        note = (
            f"In all: {_money(total)}; at most, if every call that was not delivered was billed: {_money(most)}. "
            "Untold: answers without a count of tokens. Refused: answered with an error status. Undelivered: sent, and "
            "no whole answer came."
        )
        head = (
            "role",
            "model",
            "calls",
            "tokens in",
            "cached",
            "tokens out",
            "untold",
            "refused",
            "undelivered",
            "cost",
        )
        parts.append(table(_caption(f"{run.name}, in USD", note), head, rows))
    return parts


def _account_row(account: Mapping[str, Any]) -> Row:
    keys = ("delivered", "prompt_tokens", "cached_tokens", "completion_tokens", "untold", "refused", "undelivered")
    cost = account.get("cost")
    return [
        str(account.get("role", "unknown")),
        str(account.get("model", "unknown")),
        *(number(account.get(key)) for key in keys),
        Cell(_money(cost), cost),
    ]


def _money(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4f}"


def published(results: Results) -> list[Content]:
    """Means as the published code would make them: one row an arm and judge, one column a dimension."""
    columns = [OVERALL, *results.evidence.table.dimensions]
    means = {(each.arm, each.judge, each.dimension): each for each in results.published}
    rows: list[Row] = [
        [results.names[arm], judge, *(_published_cell(means.get((arm, judge, name))) for name in columns)]
        for arm in best_first(results.means)
        for judge in results.evidence.judges
    ]
    note = (
        "Mean and plain standard error, in percent, for comparison with published numbers only: a reply that is "
        "missing, or whose verdict cannot be read, scores 0; a letter named twice costs twice; the error is "
        "sd / sqrt(n) over replies, as if none were made together. What the judges were shown stays as it was."
    )
    head = ("model", "judge", *("\n".join(titled(name).rsplit(" ", 1)) for name in columns))
    return [table(_caption("Published scoring choices (--hab-compat)", note), head, rows)]


def _published_cell(mean: PublishedMean | None) -> Cell:
    if mean is None:
        return Cell("none")
    error = "" if mean.error is None else f" ± {10 * mean.error:.1f}"
    return Cell(join([f"{10 * mean.mean:.1f}", element("span", error, class_="interval")]), 10 * mean.mean)


def _ordered(results: Results, dimensions: Sequence[str]) -> list[Summary]:
    means = {(mean.arm, mean.dimension): mean for mean in results.means}
    order = best_first(results.means)
    return [means[arm, name] for name in dimensions for arm in order if (arm, name) in means]


def _caption(title: str, note: str) -> Html:
    return join([title, element("span", note, class_="note")] if note else [title])


def _cut(rows: list[Row]) -> tuple[list[Row], str]:
    if len(rows) <= MOST_ROWS:
        return rows, ""
    return rows[:MOST_ROWS], f"The first {MOST_ROWS:,} of {len(rows):,} rows; all are in -data.json beside this page."
