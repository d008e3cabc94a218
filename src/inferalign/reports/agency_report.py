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


def write_report(out: Path, results: Results) -> list[Path]:
    """Write the page to `out`, and beside it, named after it, `-data.json`, `-scores.csv` and `-examples.jsonl`.

    No file of a run has such a name. Raises `InputError` for an `out` that is a folder, and `RunError` for a bad disk.
    """
    if not out.name or out.is_dir():
        raise InputError(f"the page cannot be {out}, which is a folder. Name a file in it, as {out / 'report.html'}")
    data, scores, examples = (out.with_name(out.stem + end) for end in ("-data.json", "-scores.csv", "-examples.jsonl"))
    write_bytes_atomic(out, render(results))
    write_json_atomic(data, as_json(results))
    write_csv(scores, score_rows(results))
    lines = (dump_json(to_dict(each) | {"arm": each.arm._asdict()}) for each in results.examples)
    write_bytes_atomic(examples, b"".join(line + b"\n" for line in lines))
    return [out, data, scores, examples]


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
