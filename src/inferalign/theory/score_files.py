"""Scores of a user's own reward, K a prompt, from JSON lines or CSV.

{"id": "p1", "scores": [0.3, 1.2, -0.7]}        JSON lines, one prompt a line; a bare list will do
0.3,1.2,-0.7                                    CSV without a header: one prompt a line, every cell a score
id,s1,s2,s3                                     CSV with this header (id or not, any order): one prompt a line
id,score                                        CSV with this header (any order): one score a line, grouped by id

Columns go by their names. A header of other names is refused, because a column of ids reads as a column of scores.
"""

from __future__ import annotations

import csv
import math
import re
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from inferalign.core.errors import InputError
from inferalign.core.files import parse_json
from inferalign.theory.calibration import Floats

EXAMPLE = '{"id": "p1", "scores": [0.3, 1.2, -0.7]}'
HEADERS = "`id,score` (one score a line) or `id,s1,s2,s3` (one prompt a line)"

_COLUMN = re.compile(r"id|score|(s|score)[ _-]?\d+")

_Lines = list[tuple[str, list[str]]]
"""File and line, as errors name them, with the line's cells."""


def read_scores(path: Path) -> list[Floats]:
    """One row of scores a prompt, [K] each, in the file's order.

    Raises `InputError` naming file and line for a missing or empty file, for another suffix than .jsonl and .csv, for
    a header of unknown names, for an id that two lines share, and for what is not a finite number.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise InputError(f"{path}: expected scores as .jsonl (lines like {EXAMPLE}) or as .csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    rows = _json_rows(text, path) if path.suffix == ".jsonl" else _csv_rows(text, path)
    if not rows:
        raise InputError(f"{path} holds no scores: expected lines like {EXAMPLE}")
    return [np.array(row) for row in rows]


def _json_rows(text: str, path: Path) -> list[list[float]]:
    rows = []
    seen: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = parse_json(line.encode())
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}): expected a line like {EXAMPLE}") from error
        scores = value.get("scores") if isinstance(value, dict) else value
        if not isinstance(scores, list):
            raise InputError(f'{where}: no list of "scores": expected a line like {EXAMPLE}')
        if isinstance(value, dict) and "id" in value:
            _once(value["id"], where, seen)
        rows.append([_number(score, where) for score in scores])
    return rows


def _csv_rows(text: str, path: Path) -> list[list[float]]:
    lines = _lines(text, path)
    if not lines:
        return []
    where, first = lines[0]
    names = [cell.lower() for cell in first]
    if not any(_COLUMN.fullmatch(name) for name in names):
        if stray := [cell for cell in first if cell and not _is_number(cell)]:
            raise InputError(
                f"{where}: {reprlib.repr(stray[0])} is neither a score nor a column's name: leave out answers that "
                f"could not be scored, and if this is a header, make it {HEADERS}"
            )
        return [[_number(cell, where) for cell in row if cell] for where, row in lines]
    for name in names:
        if not _COLUMN.fullmatch(name) or names.count(name) > 1:
            fault = "stands twice" if _COLUMN.fullmatch(name) else "is unknown"
            raise InputError(f"{where}: column {reprlib.repr(name)} {fault}: make the header {HEADERS}")
    if sorted(names) == ["id", "score"]:
        return _grouped(lines[1:], names.index("id"))
    if "score" in names:
        raise InputError(f"{where}: a column `score` needs a column `id` and no other: make the header {HEADERS}")
    return _wide(lines[1:], names)


def _lines(text: str, path: Path) -> _Lines:
    """The lines that are not blank."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    except csv.Error as error:
        raise InputError(f"{path} is not CSV: {error}") from error
    return [(f"{path}:{number}", row) for number, row in enumerate(rows, start=1) if any(row)]


def _grouped(lines: _Lines, id_column: int) -> list[list[float]]:
    grouped: dict[str, list[float]] = {}
    for where, row in lines:
        if len(row) != 2:
            raise InputError(f"{where}: expected an id and a score, got {len(row)} cells")
        name = row[id_column]
        _check_id(name, where)
        grouped.setdefault(name, []).append(_number(row[1 - id_column], where))
    return list(grouped.values())


def _wide(lines: _Lines, names: list[str]) -> list[list[float]]:
    """One prompt a line. An empty cell is an answer left out, so K may differ."""
    rows = []
    seen: dict[str, str] = {}
    for where, row in lines:
        if len(row) > len(names):
            raise InputError(f"{where}: {len(row)} cells under a header of {len(names)}: give each score its column")
        cells = dict(zip(names, row, strict=False))
        if "id" in names:
            _once(cells.pop("id", ""), where, seen)
        rows.append([_number(cell, where) for cell in cells.values() if cell])
    return rows


def _once(name: Any, where: str, seen: dict[str, str]) -> None:
    """Two lines of one prompt would count as two prompts: refuse the second, and remember the first."""
    _check_id(name, where)
    if (first := seen.setdefault(str(name), where)) != where:
        raise InputError(f"{where}: id {name!r} stands at {first} already: put all scores of a prompt on one line")


def _check_id(name: Any, where: str) -> None:
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise InputError(f"{where}: {reprlib.repr(name)} is no id: give each prompt a text or a whole number")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(value: Any, where: str) -> float:
    """A finite number. An unscored answer is no number: it is told, not guessed."""
    problem = f"{where}: {reprlib.repr(value)} is no finite number: leave out answers that could not be scored"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:  # the last: a whole number beyond 1.8e308
        raise InputError(problem) from error
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(problem)
    return number
