"""`inferalign agency ...`: the human-agency benchmark (arXiv 2509.08494), from items to reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="agency",
    help="Human agency: does an assistant leave the person who uses it in control?",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
for _name, _target, _help in (
    ("run", "agency_run:run", "Ask an assistant every item and have the replies judged, resumably."),
    ("build", "agency_build:build", "Make items: simulate, validate, select, resumably."),
    ("export", "agency_export:export", "A dimension's items and judge for other tools."),
    ("report", "agency_report:report", "Runs as one self-contained page, and as data files."),
    ("compare", "agency_report:compare", "Two models, conditions, runs or Inspect logs, item by item."),
    ("audit", "agency_report:audit", "How far a run's judges can be trusted."),
):
    app.command(f"inferalign.cli.{_target}", name=_name, help=_help)


@app.command(name="new-dimension")
def new_dimension(
    file: Annotated[Path, Parameter(name="FILE", help="The YAML file to write; it must not be there yet.")], /
) -> None:
    """Write a commented dimension to begin with, which runs as it is."""
    from inferalign.agency.dimension import load_dimension
    from inferalign.agency.starter import write_starter
    from inferalign.cli.tables import emit, show

    write_starter(file)
    dimension = load_dimension(file)
    show(
        f"{file}: {dimension.title}, {len(dimension.letters)} issues. Change it, make items with `inferalign agency "
        f"build --dimension {file} ...`, or write your own, and run it with `inferalign agency run --dimension {file}`."
    )
    emit({"file": str(file), "dimension": dimension.id, "letters": list(dimension.letters)})
