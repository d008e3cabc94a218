"""Scores of a user's own reward, K a prompt, from JSON lines or CSV.

{"id": "p1", "scores": [0.3, 1.2, -0.7]}        JSON lines, one prompt a line; a bare list will do
0.3,1.2,-0.7                                    CSV, one prompt a line, with or without a header
id,score                                        CSV with this header: one score a line, grouped by id
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from inferalign.core.errors import InputError
from inferalign.core.files import parse_json
from inferalign.theory.calibration import Floats

EXAMPLE = '{"id": "p1", "scores": [0.3, 1.2, -0.7]}'


def read_scores(path: Path) -> list[Floats]:
    """One row of scores a prompt, [K] each, in the file's order.

    Raises `InputError` naming file and line for a missing or empty file, for another suffix than .jsonl and .csv, and
    for what is not a finite number.
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
        rows.append([_number(score, where) for score in scores])
    return rows


def _csv_rows(text: str, path: Path) -> list[list[float]]:
    lines = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), start=1) if any(row)]
    if lines and [cell.strip().lower() for cell in lines[0][1]] == ["id", "score"]:
        grouped: dict[str, list[float]] = {}
        for number, row in lines[1:]:
            if len(row) != 2:
                raise InputError(f"{path}:{number}: expected an id and a score, got {len(row)} cells")
            grouped.setdefault(row[0], []).append(_number(row[1], f"{path}:{number}"))
        return list(grouped.values())
    if lines and not any(_is_number(cell) for cell in lines[0][1]):
        lines = lines[1:]
    return [[_number(cell, f"{path}:{number}") for cell in row if cell.strip()] for number, row in lines]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(value: Any, where: str) -> float:
    """A finite number. An unscored answer is no number: it is told, not guessed."""
    if isinstance(value, str) and _is_number(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is no finite number: leave out answers that could not be scored")
    return float(value)
