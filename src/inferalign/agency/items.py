"""Items: simulated messages to an assistant, from the shipped bank or a user's own file, one JSON object a line.

    {"id": "my-1", "prompt": "...", "topic": "night shifts"}

A line has an `id`, a `prompt`, and the dimension's `extra_context` (in correct_misinformation the false sentence). It
may have a `cluster` or a `topic` (items that share one are not independent), a `form` ("regular" or "anchor") and a
`provenance`; other keys are kept there. `truth`, the bank's note for its authors, is left out: it is for nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from inferalign.agency.dimension import Dimension
from inferalign.agency.dimension_parts import QUOTED_FIELDS
from inferalign.agency.records import Item
from inferalign.core.errors import InputError
from inferalign.core.files import dump_json, write_bytes_atomic
from inferalign.core.lookup import did_you_mean
from inferalign.core.prompts import read_prompts
from inferalign.core.types import Prompt
from inferalign.scorers.verdicts import ISSUES

FORMS = ("regular", "anchor")
_OWN_KEYS = ("dimension", "cluster", "form", "provenance")
_NEVER_SHOWN = ("truth",)


def load_items(dimension: Dimension, path: str | Path | None = None) -> list[Item]:
    """The items of a file, in its order; without a path the shipped bank of one of the six dimensions.

    Raises `InputError` for a missing or empty file, a malformed line (with its number), an id that stands twice, a
    field that is missing or of the wrong type, and a sentence that should stand in the prompt and does not.
    """
    if path is None:
        if dimension.id not in ISSUES:
            raise InputError(
                f"no items of the dimension {dimension.id!r} are shipped: name a file with --items FILE.jsonl, "
                "or make one with inferalign agency build"
            )
        path = Path(str(files("inferalign.agency"))) / "items" / f"{dimension.id}.jsonl"
    return [_item(prompt, dimension, f"{path}: item {prompt.id!r}") for prompt in read_prompts(path)]


def load_item_file(dimensions: Mapping[str, Dimension], path: str | Path) -> list[Item]:
    """The items of a file that may hold several dimensions, each line naming its own; those of others are left out.

    With a single dimension a line need not name it. Raises as `load_items` does.
    """
    found = []
    for prompt in read_prompts(path):
        where = f"{path}: item {prompt.id!r}"
        if "dimension" not in prompt.meta and len(dimensions) > 1:
            raise InputError(f'{where} does not say of which dimension it is: give it a "dimension"')
        named = prompt.meta.get("dimension", next(iter(dimensions)))
        if not isinstance(named, str):
            raise InputError(f"{where}: dimension is {named!r}; expected a text")
        if named in dimensions:
            found.append(_item(prompt, dimensions[named], where))
    return found


def write_items(path: str | Path, items: Sequence[Item]) -> None:
    """Write items so that `load_items` gives them back."""
    write_bytes_atomic(Path(path), b"".join(dump_json(_line(item)) + b"\n" for item in items))


def _item(prompt: Prompt, dimension: Dimension, where: str) -> Item:
    if len(prompt.messages) != 1 or prompt.messages[0].role != "user":
        raise InputError(f'{where} is a conversation: give the user\'s message as "prompt"')
    facts = {key: value for key, value in prompt.meta.items() if key not in _NEVER_SHOWN}
    named = _text(facts, "dimension", where) if "dimension" in facts else dimension.id
    if named != dimension.id:
        raise InputError(f"{where} is of the dimension {named!r}, not of {dimension.id!r}: name its own dimension")
    extra = _extra(facts, prompt.text, dimension, where)
    form = facts.get("form", "regular")
    if form not in FORMS:
        raise InputError(f"{where}: form is {form!r}; expected {' or '.join(map(repr, FORMS))}")
    cluster = next((_text(facts, key, where) for key in ("cluster", "topic") if key in facts), "")
    kept = facts.get("provenance", {})
    if not isinstance(kept, dict):
        raise InputError(f"{where}: provenance is {kept!r}; expected an object")
    others = {key: value for key, value in facts.items() if key not in (*_OWN_KEYS, *_fields(dimension))}
    return Item(
        id=prompt.id,
        dimension=dimension.id,
        prompt=prompt.text,
        extra=extra,
        cluster=cluster,
        form=cast(Any, form),
        provenance={**others, **kept},
    )


def _extra(facts: Mapping[str, Any], prompt: str, dimension: Dimension, where: str) -> dict[str, str]:
    for name in dimension.extra_context:
        if name not in facts:
            raise InputError(
                f"{where}: key {name!r} is missing.{did_you_mean(name, facts)} {dimension.id} needs it for the judge."
            )
    extra = {name: _text(facts, name, where) for name in _fields(dimension) if name in facts}
    for name in QUOTED_FIELDS:
        if name in extra and extra[name] not in prompt:
            raise InputError(f"{where}: its {name} does not stand in its prompt, word for word")
    return extra


def _fields(dimension: Dimension) -> list[str]:
    return [name for name in dimension.generate.fields if name != "prompt"]


def _text(facts: Mapping[str, Any], key: str, where: str) -> str:
    value = facts[key]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} is {value!r}; expected a text")
    return value


def _line(item: Item) -> dict[str, Any]:
    line: dict[str, Any] = {"id": item.id, "dimension": item.dimension, "prompt": item.prompt, **item.extra}
    if item.cluster:
        line["cluster"] = item.cluster
    return line | {"form": item.form, "provenance": dict(item.provenance)}
