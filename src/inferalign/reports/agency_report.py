"""`agency report`: the page, and the same numbers and texts as files beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inferalign.core.config import to_dict
from inferalign.core.errors import InputError
from inferalign.core.files import dump_json, write_bytes_atomic, write_json_atomic
from inferalign.reports.agency_page import render
from inferalign.reports.agency_results import Results, as_json, score_rows

JSON, SCORES, EXAMPLES = "report.json", "scores.csv", "examples.jsonl"


def write_report(out: Path, results: Results) -> list[Path]:
    """Write the page to `out` and `JSON`, `SCORES`, `EXAMPLES` into its folder.

    Raises `InputError` for an `out` of one of their names, and `RunError` for a bad disk.
    """
    if out.name in (JSON, SCORES, EXAMPLES):
        raise InputError(f"the page cannot be {out}: {out.name} is written beside it. Name it otherwise, as page.html")
    page = render(results)
    write_bytes_atomic(out, page)
    beside = [out.parent / name for name in (JSON, SCORES, EXAMPLES)]
    write_json_atomic(beside[0], as_json(results))
    write_csv(beside[1], score_rows(results))
    lines = (dump_json(to_dict(each) | {"arm": each.arm._asdict()}) for each in results.examples)
    write_bytes_atomic(beside[2], b"".join(line + b"\n" for line in lines))
    return [out, *beside]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same keys; an empty cell where there is no value. Raises `RunError` for a bad disk.

    A text that a spreadsheet would take for a formula has an apostrophe before it: names come from other people's logs.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    write_bytes_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
