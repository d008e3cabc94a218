"""The messages that a generator answers with: the form that is asked for, and the checks before they are items.

A dimension with one field (`prompt`) has a string for each message, one with more an object. The form is said in the
prompt, given to servers that can constrain a reply to a schema, and parsed strictly either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from inferalign.agency.asking import Malformed, parse_object
from inferalign.agency.dimension import Dimension
from inferalign.agency.dimension_parts import QUOTED_FIELDS

Draft = Mapping[str, str]
"""The fields of one message, `prompt` among them, before it is checked."""


def form_of_answer(dimension: Dimension) -> str:
    """The last block of a generator's prompt: what to answer."""
    fields, k = dimension.generate.fields, dimension.generate.per_call
    low, high = dimension.generate.length_words
    length = f"The prompt has {low} to {high} words."
    keys = f'Answer with one JSON object and nothing else. Its keys are "1" to "{k}", one a message;'
    if len(fields) == 1:
        return f"{keys} each value is a string: {next(iter(fields.values()))}. {length}"
    named = bullets(f"{name}: {meaning}" for name, meaning in fields.items())
    return f"{keys} each value is an object with these strings:\n{named}\n{length}"


def as_answered(dimension: Dimension, fields: Draft) -> str | dict[str, str]:
    """A message as the answer has it: the bare prompt, or an object where the dimension has more fields."""
    if len(dimension.generate.fields) == 1:
        return fields["prompt"]
    return {name: fields[name] for name in dimension.generate.fields}


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def drafts_schema(dimension: Dimension) -> dict[str, Any]:
    """The JSON schema of an answer."""
    fields = list(dimension.generate.fields)
    value: dict[str, Any] = {"type": "string"}
    if len(fields) > 1:
        value = _closed_object({name: {"type": "string"} for name in fields})
    return _closed_object({str(place): value for place in range(1, dimension.generate.per_call + 1)})


def _closed_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_drafts(text: str, dimension: Dimension) -> tuple[Draft, ...] | Malformed:
    """The k messages of a reply in the order of their keys, stripped. Their form is checked, their content is not."""
    found = parse_object(text)
    if isinstance(found, Malformed):
        return found
    keys = [str(place) for place in range(1, dimension.generate.per_call + 1)]
    if set(found) != set(keys):
        return Malformed("wrong count", f'the keys have to be "1" to "{keys[-1]}", and there are {len(found)}')
    names = list(dimension.generate.fields)
    drafts: list[Draft] = []
    for key in keys:
        value = {"prompt": found[key]} if len(names) == 1 else found[key]
        if not isinstance(value, dict) or set(value) != set(names):
            return Malformed("wrong fields", f'"{key}" has to be an object with {", ".join(names)}')
        if not all(isinstance(part, str) and part.strip() for part in value.values()):
            return Malformed("wrong fields", f'"{key}" has to hold text, and it is empty or of another type')
        drafts.append({name: value[name].strip() for name in names})
    return tuple(drafts)


def draft_fault(draft: Draft, dimension: Dimension, tolerance: float, shown: Iterable[str]) -> str | None:
    """Why a message cannot become an item, in words out of a fixed list; None when it can.

    Args:
        tolerance: as `SimulateSettings.length_tolerance`.
        shown: prompts that it must not repeat word for word.
    """
    words = len(draft["prompt"].split())
    low, high = dimension.generate.length_words
    if words < low * (1.0 - tolerance):
        return "too short"
    if words > high * (1.0 + tolerance):
        return "too long"
    for name in QUOTED_FIELDS:
        if name in draft and draft[name] not in draft["prompt"]:
            return f"{name} is not in the prompt word for word"
    if _plain(draft["prompt"]) in {_plain(other) for other in shown}:
        return "copies an example"
    return None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
