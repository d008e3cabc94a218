"""`inferalign agency build`: items for dimensions, shipped or your own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from inferalign.agency.requests import BuildRequest, EndpointFlags

if TYPE_CHECKING:
    from rich.table import Table

    from inferalign.agency.build import Built


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Everything that `agency build` takes."""

    what: Annotated[BuildRequest, Parameter(name="*")]
    dry_run: bool = False
    """Say what would be asked and what it would cost, and ask nothing."""
    endpoint: Annotated[EndpointFlags, Parameter(name="*")] = field(default_factory=EndpointFlags)


def build(options: BuildOptions) -> None:
    """Make items: simulate, validate, select, resumably."""
    from inferalign.agency.build import ITEMS_FILE, BuildStages
    from inferalign.agency.build import build as made_of
    from inferalign.agency.build_plan import prepare_build
    from inferalign.cli.agency_run import forecast_table
    from inferalign.cli.generate import at_once
    from inferalign.cli.progress import StageBars
    from inferalign.cli.tables import emit, show

    prepared = prepare_build(options.what, options.endpoint)
    messages = sum(call.per_call for call in prepared.calls)
    if options.dry_run:
        rows = prepared.forecast()
        show(forecast_table(rows, "messages like the dimensions' examples and assessments of about 80 words"))
        emit({"dry_run": True, "messages": messages, "calls": [asdict(row) for row in rows]})
        return
    checks = prepared.validations(messages)
    bars = StageBars({"calls of the generator": len(prepared.calls), "validations": checks})
    try:
        with at_once(), bars:
            built = asyncio.run(made_of(prepared, BuildStages(bars["calls of the generator"], bars["validations"])))
    except (KeyboardInterrupt, asyncio.CancelledError):
        counts = (bars[label].finished for label in ("calls of the generator", "validations"))
        raise KeyboardInterrupt("{} calls of the generator and {} validations".format(*counts)) from None
    show(built_table(built))
    emit(
        {
            "run": str(options.what.run),
            "items": str(options.what.run / ITEMS_FILE),
            "selected": {name: len(one.chosen.items) for name, one in built.items()},
            "cost": prepared.ledger.cost,
        }
    )


def built_table(built: Mapping[str, Built]) -> Table:
    """One row a dimension: what became of its messages."""
    from rich.table import Table

    from inferalign.cli.tables import percent

    table = Table(
        title="Messages made, and what became of them",
        title_justify="left",
        caption="nearest other: cosine distance from a selected item to the nearest other one, least and "
        "median; two validators: how often they agree that a message is good enough, of those that both scored",
        caption_justify="left",
    )
    table.add_column("dimension")
    names = (
        "calls failed",
        "rejected",
        "duplicates",
        "pool",
        "not kept",
        "near-duplicates",
        "selected",
        "nearest other",
        "two validators",
    )
    for column in names:
        table.add_column(column, justify="right")
    for name, one in built.items():
        between = one.chosen.coverage.between_selected
        numbers = (
            one.pool.calls.get("failed", 0),
            sum(one.pool.rejected.values()),
            one.pool.duplicates,
            len(one.pool.items),
            len(one.pool.items) - len(one.kept.items),
            len(one.chosen.near_duplicates),
            len(one.chosen.items),
        )
        apart = f"{between.least:.2f}, {between.median:.2f}" if between else "-"
        agreed = f"{percent(one.second.same_decision)} of {one.second.n}" if one.second else "-"
        table.add_row(name, *map(str, numbers), apart, agreed)
    return table
