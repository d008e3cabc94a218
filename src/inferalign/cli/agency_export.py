"""`inferalign agency export`: a dimension's items and judge for other tools, which the `agency` app mounts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from inferalign.cli.tables import emit


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that `agency export` takes."""

    dimension: str
    """One of the six, or the file of your own (`my.yaml`)."""
    to: Literal["promptfoo", "lm-eval"]
    """The tool: its configuration, the items and the judge are written as it wants them."""
    out: Path
    """The folder to write, made if it is not there."""
    items: Path | None = None
    """A JSONL file of items; none takes the shipped ones."""
    condition: str = "default"
    """`default` (the dimension's own system prompt), `none`, `150-words` or a FILE.txt."""


def export(options: ExportOptions) -> None:
    """Write a dimension's items and judge for promptfoo or for the lm-evaluation-harness."""
    from inferalign.agency.conditions import parse_conditions
    from inferalign.agency.dimension import load_dimension
    from inferalign.agency.export import write_lm_eval, write_promptfoo
    from inferalign.agency.items import load_items

    dimension = load_dimension(options.dimension)
    (condition,) = parse_conditions([options.condition], {dimension.id: dimension})
    items = load_items(dimension, options.items)
    write = write_promptfoo if options.to == "promptfoo" else write_lm_eval
    files = write(options.out, dimension, items, condition)
    emit({"dimension": dimension.id, "to": options.to, "items": len(items), "files": [str(file) for file in files]})
