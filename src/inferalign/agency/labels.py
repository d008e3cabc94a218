"""Labels that people gave to replies, read from JSON lines and set beside the judges' verdicts.

    {"reply": "acq-001/model-a/default/0", "annotator": "p7", "letters": ["B", "D"]}
    {"item": "acq-002", "annotator": "p7", "score": 6}

A line names a reply by its id, or an item, when the table has one reply to it. It gives either the issues that the
annotator found (an empty list: none) or a score from 0 to 10. Other keys are refused; blank lines are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferalign.agency.table import Floats, Table
from inferalign.core.errors import InputError
from inferalign.core.files import parse_json
from inferalign.core.lookup import did_you_mean
from inferalign.scorers import verdicts
from inferalign.scorers.verdicts import TOP

EXAMPLE = '{"reply": "...", "annotator": "p7", "letters": ["B"]}'
_KEYS = ("reply", "item", "annotator", "letters", "score")
ScoreLetters = Callable[[str, Sequence[str]], float]
"""(dimension, letters) -> score; raises `InputError` for what it does not know."""


@dataclass(frozen=True, kw_only=True)
class Label:
    where: str
    """File and line, for messages."""
    reply: str | None
    item: str | None
    """Given when `reply` is not."""
    annotator: str
    letters: tuple[str, ...] | None
    score: float | None
    """Given when `letters` is not."""


@dataclass(frozen=True, kw_only=True)
class HumanScores:
    """Labels in the table's rows. NaN, and None, where an annotator gave none."""

    annotators: tuple[str, ...]
    scores: Floats
    """[R, annotators]"""
    letters: Mapping[tuple[int, int], frozenset[str]]
    """(row of the reply, column of the annotator) -> issues, where letters were given."""

    @property
    def mean(self) -> Floats:
        """Each reply's score over its annotators, NaN without one. [R]"""
        known = ~np.isnan(self.scores)
        count = known.sum(axis=1)
        total = np.where(known, self.scores, 0.0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def named(self, letter: str) -> Floats:
        """1 where an annotator found the issue, 0 where not, NaN without letters. [R, annotators]"""
        found: NDArray[np.float64] = np.full(self.scores.shape, np.nan)
        for place, letters in self.letters.items():
            found[place] = letter in letters
        return found


def read_labels(path: Path | str) -> list[Label]:
    """The labels of a JSONL file, in its order.

    Raises `InputError` naming file and line for a missing or empty file and for a line that is no label.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise InputError(f"no file {path}: expected lines like {EXAMPLE}. Check the path.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    labels = [_label(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not labels:
        raise InputError(f"{path} holds no labels: expected lines like {EXAMPLE}.")
    return labels


def human_scores(table: Table, labels: Sequence[Label], score: ScoreLetters = verdicts.score) -> HumanScores:
    """Labels joined to the table; letters are scored by the points of the reply's dimension.

    Raises `InputError` naming file and line for a reply or item that the table lacks, an item with several replies, a
    letter that the dimension lacks, and a second label of one reply by one annotator.
    """
    rows = {str(name): row for row, name in enumerate(table.reply_id)}
    of_item: dict[str, list[int]] = {}
    for row, name in enumerate(table.item_id[table.reply_item].tolist()):
        of_item.setdefault(name, []).append(row)
    annotators = tuple(sorted({label.annotator for label in labels}))
    columns = {name: column for column, name in enumerate(annotators)}
    scores = np.full((table.reply_id.size, len(annotators)), np.nan)
    letters: dict[tuple[int, int], frozenset[str]] = {}
    dimensions = table.reply_dimension
    for label in labels:
        place = _row(table, rows, of_item, label), columns[label.annotator]
        if not np.isnan(scores[place]):
            raise InputError(
                f"{label.where}: {label.annotator} labelled {table.reply_id[place[0]]} before. Keep one of the lines."
            )
        if label.letters is None:
            scores[place] = label.score
            continue
        try:
            scores[place] = score(str(dimensions[place[0]]), label.letters)
        except InputError as error:
            raise InputError(f"{label.where}: {error}") from error
        letters[place] = frozenset(label.letters)
    return HumanScores(annotators=annotators, scores=scores, letters=letters)


def _row(table: Table, rows: Mapping[str, int], of_item: Mapping[str, Sequence[int]], label: Label) -> int:
    if label.reply is not None:
        if label.reply not in rows:
            raise InputError(f"{label.where}: no reply {label.reply!r} in the run.{did_you_mean(label.reply, rows)}")
        return rows[label.reply]
    found = of_item.get(label.item or "", ())
    if len(found) != 1:
        have = "no reply" if not found else f"{len(found)} replies, such as {str(table.reply_id[found[0]])!r}"
        raise InputError(f'{label.where}: the run has {have} to item {label.item!r}: name one by "reply".')
    return found[0]


def _label(line: bytes, where: str) -> Label:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}). Expected {EXAMPLE}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: not an object. Expected {EXAMPLE}.")
    for key in value:
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key {key!r}.{did_you_mean(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    for one, other in (("reply", "item"), ("letters", "score")):
        if (one in value) == (other in value):
            raise InputError(f'{where}: expected either "{one}" or "{other}", as in {EXAMPLE}.')
    for key in ("reply", "item", "annotator"):
        if not (isinstance(value.get(key, "-"), str) and value.get(key, "-")):
            raise InputError(f'{where}: "{key}" is {value[key]!r}: expected a text that is not empty.')
    if "annotator" not in value:
        raise InputError(f'{where}: no "annotator": say who gave the label, as in {EXAMPLE}.')
    return Label(
        where=where,
        reply=value.get("reply"),
        item=value.get("item"),
        annotator=value["annotator"],
        letters=_letters(value["letters"], where) if "letters" in value else None,
        score=_score(value["score"], where) if "score" in value else None,
    )


def _letters(value: Any, where: str) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(isinstance(letter, str) for letter in value)):
        raise InputError(f'{where}: "letters" is {value!r}: expected a list such as ["B", "D"], or [].')
    if len(set(value)) < len(value):
        raise InputError(f'{where}: "letters" names an issue twice: {value!r}.')
    return tuple(value)


def _score(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and 0 <= value <= TOP):
        raise InputError(f'{where}: "score" is {value!r}: expected a number from 0 to {TOP}.')
    return float(value)
