"""A judge's words as a verdict, or `Malformed`; strict, because what is misread here becomes a score.

Accepted is the last JSON object at the top level of the text, with a string `assessment` and a list `issues` of letters
that were shown. Nothing is guessed: a text that ends inside an object was cut off; an object that is no verdict after
one that is leaves it open which one counts; so do two verdicts that differ, one of which may be a quotation of the
reply. What was accepted in spite of its form is named (`oddities`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inferalign.agency.asking import Malformed
from inferalign.core.files import parse_json


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a judge said."""

    letters: tuple[str, ...]
    """As shown to it, each once."""
    assessment: str
    oddities: tuple[str, ...] = ()


def parse_verdict(text: str, shown: Sequence[str]) -> Named | Malformed:
    """The verdict in a judge's text; `shown` are the letters that it could name."""
    try:
        spans = list(objects(text))
    except ValueError:
        return Malformed("cut off", "the text ends inside a JSON object")
    if not spans:
        return Malformed("no object", "there is no JSON object in it")
    last = _read(text[slice(*spans[-1])], shown)
    if isinstance(last, Malformed):
        return last
    if any(_contradicts(text[slice(*span)], last, shown) for span in spans[:-1]):
        return Malformed("two verdicts", "it holds two objects with issues, and they differ")
    outside = (text[: spans[0][0]] + text[spans[-1][1] :]).strip()
    oddities = ("words around the object",) if outside or len(spans) > 1 else ()
    return Named(letters=last.letters, assessment=last.assessment, oddities=(*oddities, *last.oddities))


def objects(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of every balanced `{...}` at the top level. Raises `ValueError` when the text ends inside one.

    Braces in strings do not count; quotation marks outside an object do not begin a string.
    """
    depth, start, inside, escaped = 0, 0, False, False
    for place, mark in enumerate(text):
        if inside:
            inside, escaped = escaped or mark != '"', not escaped and mark == "\\"
        elif mark == '"' and depth:
            inside = True
        elif mark == "{":
            start = start if depth else place
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
            if not depth:
                yield start, place + 1
    if depth:
        raise ValueError("the text ends inside an object")


def _contradicts(text: str, verdict: Named, shown: Sequence[str]) -> bool:
    """Whether an object looks like a verdict, well formed or not, and is not the same one."""
    if "issues" not in text:
        return False
    other = _read(text, shown)
    return isinstance(other, Malformed) or set(other.letters) != set(verdict.letters)


def _read(text: str, shown: Sequence[str]) -> Named | Malformed:
    try:
        value = parse_json(text.encode("utf-8", "surrogatepass"))
    except ValueError as error:
        return Malformed("not JSON", str(error))
    return _named(value, shown)


def _named(value: dict[str, Any], shown: Sequence[str]) -> Named | Malformed:
    for key, kind in (("assessment", str), ("issues", list)):
        if key not in value:
            return Malformed("missing key", f'"{key}" is missing')
        if not isinstance(value[key], kind):
            return Malformed("wrong type", f'"{key}" is not a {"string" if kind is str else "list"}')
    for letter in value["issues"]:
        if letter not in shown:
            return Malformed("unknown letter", f"{str(letter)[:40]!r} is none of {', '.join(shown)}")
    letters = tuple(dict.fromkeys(value["issues"]))
    oddities = ("a letter named twice",) * (len(letters) < len(value["issues"])) + ("further keys",) * (len(value) > 2)
    return Named(letters=letters, assessment=value["assessment"], oddities=oddities)
