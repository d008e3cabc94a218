"""`inferalign agency run`: an assistant under test, its judges, and the means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from inferalign.agency.requests import EndpointFlags, RunRequest
from inferalign.engines.table import ModelOptions

if TYPE_CHECKING:
    from rich.table import Table

    from inferalign.agency.analysis import Summary
    from inferalign.agency.estimate import Forecast

SHOWN_REASONS = 3
"""Of each judge, the commonest; `metrics.json` has all."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Everything that `agency run` takes."""

    what: Annotated[RunRequest, Parameter(name="*")]
    dry_run: bool = False
    """Say what would be asked and what it would cost, and ask nothing."""
    endpoint: Annotated[EndpointFlags, Parameter(name="*")] = field(default_factory=EndpointFlags)
    engine: Annotated[ModelOptions, Parameter(name="*")] = field(default_factory=ModelOptions)


def run(options: RunOptions) -> None:
    """Ask an assistant every item and have the replies judged, resumably."""
    from inferalign.agency.benchmark import carry_out, prepare
    from inferalign.agency.outcome import headline
    from inferalign.agency.run import Stages
    from inferalign.cli.generate import at_once
    from inferalign.cli.progress import StageBars
    from inferalign.cli.tables import emit, show

    prepared = prepare(options.what, options.endpoint, options.engine)
    sizes = {"items": len(prepared.material.items), "replies": prepared.replies, "verdicts": prepared.verdicts}
    if options.dry_run:
        rows = prepared.forecast()
        show(forecast_table(rows))
        emit({"dry_run": True, **sizes, "calls": [asdict(row) for row in rows]})
        return
    bars = StageBars({"replies": prepared.replies, "verdicts": prepared.verdicts})
    try:
        with at_once(), bars:
            metrics, means = asyncio.run(carry_out(prepared, Stages(bars["replies"], bars["verdicts"])))
    except (KeyboardInterrupt, asyncio.CancelledError):
        done = f"{bars['replies'].finished} replies and {bars['verdicts'].finished} verdicts"
        raise KeyboardInterrupt(done) from None
    show(means_table(means))
    for judge, reasons in metrics["unscored"].items():
        for reason, count in list(reasons.items())[:SHOWN_REASONS]:
            show(f"{judge}: {count} unscored: {reason}")
    brief = {
        f"{summary.arm} {summary.dimension}": None if summary.percent.mean is None else round(summary.percent.mean, 2)
        for summary in headline(means)
    }
    kept = ("items", "replies", "due", "verdicts", "cost")
    emit({"run": str(options.what.run), **{key: metrics[key] for key in kept}, "percent": brief})


def means_table(means: Mapping[str, Sequence[Summary]]) -> Table:
    """One row a judge, arm and dimension."""
    from rich.table import Table

    from inferalign.cli.tables import short

    table = Table(
        title="Scores in percent of 10, mean [95 % interval over clusters of items]",
        title_justify="left",
        caption="unscored: replies without a score (no reply, its own fault, the judge's fault, not judged); "
        "bounds: the mean if each of them were worth 0, and if 10",
        caption_justify="left",
    )
    for column in ("judge", "subject (condition)", "dimension", "score", "items", "unscored", "bounds"):
        table.add_column(column)
    for judge, summaries in means.items():
        for summary in summaries:
            counts = summary.counts
            parts = (counts.no_reply, counts.blamed_reply, counts.blamed_judge, counts.not_judged)
            low, high = (10 * bound for bound in summary.bounds)
            table.add_row(
                judge,
                str(summary.arm),
                cell_name(summary),
                short(summary.percent, 1.0),
                str(summary.percent.n),
                "0" if not counts.unscored else f"{counts.unscored} ({', '.join(map(str, parts))})",
                "" if not counts.unscored else f"{low:.1f} to {high:.1f}",
            )
        table.add_section()
    return table


def cell_name(summary: Summary) -> str:
    """An overall mean over some of the dimensions must not pass for one over all."""
    found, missing = len(summary.dimensions), len(summary.left_out)
    return f"{summary.dimension} ({found} of {found + missing} dimensions)" if missing else summary.dimension


def forecast_table(rows: Sequence[Forecast], answers: str = "answers of about 150 words") -> Table:
    """One row a role and model; `answers` says what is assumed of them."""
    from rich.table import Table

    table = Table(
        title="Calls to endpoints, before anything is asked",
        title_justify="left",
        caption=f"tokens from the lengths of the texts, at 4 characters each, with {answers} and "
        "without hidden reasoning; at most: every answer as long as it may be; repairs and repeated calls come on top",
        caption_justify="left",
    )
    for column in ("role", "model"):
        table.add_column(column)
    for column in ("calls", "tokens in", "tokens out", "at most", "USD", "at most"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row.calls, row.prompt_tokens, row.completion_tokens, row.completion_most)
        costs = ("unknown" if cost is None else f"{cost:.2f}" for cost in (row.cost, row.cost_most))
        table.add_row(row.role, row.model, *(f"{number:,}" for number in numbers), *costs)
    if not rows:
        table.add_row("none", "local models and scripted judges only", *("0",) * 4, *("-",) * 2)
    return table
