"""Decisions as a file says them: TOML, several `[[decisions]]` of any kind. `prompts/decisions/*.toml` are examples.

name, conversation, preamble       as in a self-evaluation template
[[decisions]]                      name, kind ("yes-no", "choice" or "scale")
                                   options (choice), levels (scale, lowest first), good (optional; not for a scale)
[[decisions.phrasings]]            text, labels: a table from each option (or level) to its label
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError
from inferalign.core.lookup import did_you_mean, resolve
from inferalign.scorers.decisions import Choice, Decision, DecisionSet, Scale, YesNo
from inferalign.scorers.questions import Phrasing, read_prompt_file

REQUIRED: Mapping[str, Mapping[str, type]] = {
    "yes-no": {"name": str, "kind": str, "phrasings": list},
    "choice": {"name": str, "kind": str, "options": list, "phrasings": list},
    "scale": {"name": str, "kind": str, "levels": list, "phrasings": list},
}
"""Kind -> keys of its `[[decisions]]` entry."""
OPTIONAL: Mapping[str, Mapping[str, type]] = {"yes-no": {"good": str}, "choice": {"good": str}, "scale": {}}


def read_decisions(path: Path) -> DecisionSet:
    """Read a decision file. Raises `InputError` that names the file, the entry and the key that is wrong."""
    table, _ = read_prompt_file(path, "decision file", "decisions")
    try:
        return DecisionSet(
            name=table["name"],
            conversation=table["conversation"],
            preamble=table["preamble"],
            decisions=tuple(_decision(f"decisions[{i}]", entry) for i, entry in enumerate(table["decisions"])),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _decision(where: str, entry: Any) -> Decision:
    _check_keys(where, entry, {"kind": str}, None)
    kind = entry["kind"]
    required = resolve(REQUIRED, kind, f"kind of {where}")
    _check_keys(where, entry, required, OPTIONAL[kind])
    name, good = entry["name"], entry.get("good")
    if kind == "scale":
        levels = _items(where, entry, "levels", int)
        return Scale(name=name, levels=levels, phrasings=_phrasings(where, entry, tuple(map(str, levels))))
    if kind == "choice":
        options = _items(where, entry, "options", str)
        return Choice(name=name, options=options, phrasings=_phrasings(where, entry, options), good=good)
    return YesNo(name=name, phrasings=_phrasings(where, entry, ("yes", "no")), good=good)


def _phrasings(where: str, entry: Mapping[str, Any], options: tuple[str, ...]) -> tuple[Phrasing, ...]:
    found = []
    for i, phrasing in enumerate(entry["phrasings"]):
        here = f"{where}.phrasings[{i}]"
        _check_keys(here, phrasing, {"text": str, "labels": dict}, {})
        labels = phrasing["labels"]
        _check_keys(f"{here}.labels", labels, dict.fromkeys(options, str), {})
        found.append(Phrasing(text=phrasing["text"], labels=tuple(labels[option] for option in options)))
    return tuple(found)


def _items(where: str, entry: Mapping[str, Any], key: str, kind: type) -> tuple[Any, ...]:
    # Not isinstance: to Python, true is an int.
    if not all(type(item) is kind for item in entry[key]):
        raise InputError(f"{where}: key {key!r} is {entry[key]}; it must be a list of {kind.__name__}")
    return tuple(entry[key])


def _check_keys(where: str, table: Any, required: Mapping[str, type], optional: Mapping[str, type] | None) -> None:
    """Keys and their types; `optional` None lets any other key be."""
    if not isinstance(table, dict):
        raise InputError(f"{where} is {table!r}; it must be a table")
    known = {**required, **(optional or {})}
    for key, kind in known.items():
        if key in table and not isinstance(table[key], kind):
            raise InputError(f"{where}: key {key!r} is {table[key]!r}; it must be a {kind.__name__}")
        if key in required and key not in table:
            raise InputError(f"{where}: key {key!r} is missing; give {', '.join(required)}")
    unknown = [] if optional is None else sorted(set(table) - set(known))
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}.{did_you_mean(unknown[0], known)} Known: {', '.join(known)}"
        )
