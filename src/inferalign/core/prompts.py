"""Prompts: files of them, JSON lines, one conversation a line, in and out; and what a caller of the API may give.

    {"id": "p1", "prompt": "How do I boil an egg?", "topic": "kitchen"}
    {"id": 2, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}

Every other key of a line is kept in `Prompt.meta`. Blank lines are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from inferalign.core.config import to_dict
from inferalign.core.errors import InputError
from inferalign.core.files import dump_json, parse_json, write_bytes_atomic
from inferalign.core.types import Message, Prompt

EXAMPLE = '{"id": "p1", "prompt": "..."}'
_OWN_KEYS = ("id", "prompt", "messages")
_ROLES = ("system", "user", "assistant")
PromptLike = str | Sequence[Message | Mapping[str, str]] | Prompt
"""What a caller may give for a prompt: a text, a conversation, or one with an id."""


def read_prompts(path: Path | str) -> list[Prompt]:
    """The prompts of a JSONL file, in its order.

    Raises `InputError` naming file and line for a missing or empty file, a malformed line, an id that stands twice
    (with both lines), an empty prompt and a value of the wrong type.
    """
    path = Path(path)
    prompts: list[Prompt] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        prompt = _parse_line(line, where)
        if prompt.id in line_of:
            raise InputError(
                f"{where}: id {prompt.id!r} already stands on line {line_of[prompt.id]}. "
                "Ids key the random draws and the records: give each line its own."
            )
        line_of[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} holds no prompts: expected lines like {EXAMPLE}.")
    return prompts


def write_prompts(path: Path | str, prompts: Iterable[Prompt]) -> None:
    """Write prompts so that `read_prompts` gives them back. Raises `InputError` for a meta key that would be lost."""
    write_bytes_atomic(Path(path), b"".join(dump_json(_to_line(prompt)) + b"\n" for prompt in prompts))


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"no file {path}: expected a JSONL file of prompts. Check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory: expected a JSONL file of prompts.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    return data.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _parse_line(line: bytes, where: str) -> Prompt:
    try:
        value = parse_json(line)
    except ValueError as error:
        # The decoder counts lines from the start of what it was given, which is this one line of the file.
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, JSONDecodeError) else str(error)
        raise InputError(f"{where}: not a JSON object: {reason}. Expected a line like {EXAMPLE}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, got {_kind(value)}.")
    meta = {key: child for key, child in value.items() if key not in _OWN_KEYS}
    return Prompt(id=_id(value, where), messages=_messages(value, where), meta=meta)


def _id(value: Mapping[str, Any], where: str) -> str:
    if "id" not in value:
        raise InputError(f'{where}: no "id". Give each prompt one of its own, a text or a whole number.')
    identity = value["id"]
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f'{where}: "id" must be a text or a whole number, got {_kind(identity)}.')
    if not str(identity).strip():
        raise InputError(f'{where}: "id" is empty.')
    return encodable(str(identity), f'{where}: "id"')


def _messages(value: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    if ("prompt" in value) == ("messages" in value):
        found = "both" if "prompt" in value else f"neither, only {', '.join(map(repr, value))}"
        raise InputError(f'{where}: expected either "prompt" or "messages", got {found}.')
    if "prompt" in value:
        return (Message(role="user", content=_content(value["prompt"], f'{where}: "prompt"')),)
    turns = value["messages"]
    if not isinstance(turns, list) or not turns:
        got = "an empty list" if turns == [] else _kind(turns)
        raise InputError(f'{where}: "messages" must be a list of {{"role", "content"}} objects, got {got}.')
    messages = tuple(read_message(turn, f'{where}: "messages"[{i}]') for i, turn in enumerate(turns))
    if messages[-1].role != "user":
        raise InputError(f'{where}: the last of "messages" must be from "user", got {messages[-1].role!r}.')
    return messages


def read_message(turn: Any, where: str) -> Message:
    """The turn that a JSON value is. Raises `InputError` that begins with `where`."""
    if not isinstance(turn, dict):
        raise InputError(f'{where} must be a {{"role", "content"}} object, got {_kind(turn)}.')
    if set(turn) != {"role", "content"}:
        raise InputError(f'{where} must have exactly the keys "role" and "content", got {sorted(turn)}.')
    if turn["role"] not in _ROLES:
        raise InputError(f"{where}: role {turn['role']!r} is none of {', '.join(_ROLES)}.")
    return Message(role=turn["role"], content=_content(turn["content"], f'{where} "content"'))


def _content(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{what} must be a text, got {_kind(text)}.")
    if not text.strip():
        raise InputError(f"{what} is empty.")
    return encodable(text, what)


def encodable(text: str, what: str) -> str:
    """The text. Half a surrogate pair in it is legal as a JSON escape, but no tokenizer and no hash can take it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} holds half of a surrogate pair at character {error.start}. Remove it.") from error
    return text


def _to_line(prompt: Prompt) -> dict[str, Any]:
    if clash := [key for key in _OWN_KEYS if key in prompt.meta]:
        raise InputError(f"prompt {prompt.id!r}: meta key {clash[0]!r} is taken by the format. Rename it.")
    only_user = len(prompt.messages) == 1 and prompt.messages[0].role == "user"
    body: dict[str, Any] = (
        {"prompt": prompt.text}
        if only_user
        else {"messages": [{"role": m.role, "content": m.content} for m in prompt.messages]}
    )
    return {"id": prompt.id, **body, **prompt.meta}


def _kind(value: Any) -> str:
    """A JSON value's type in words, with the value when it is short."""
    names = {dict: "an object", list: "a list", str: "the text", bool: "the truth value", type(None): "null"}
    name = names.get(type(value), "the number")
    return f"{name} {value!r}" if isinstance(value, str | int | float) else name


def as_prompts(prompts: Iterable[PromptLike]) -> list[Prompt]:
    """Prompts from texts, message lists or prompts.

    Raises `InputError` for none, for what is no prompt, for one prompt without a list around it, and for an id that
    stands twice.
    """
    if isinstance(prompts, str | Mapping | Prompt):
        raise InputError(f"one prompt was given where several are expected: give a list, such as [{prompts!r}]")
    made = [_as_prompt(given, place) for place, given in enumerate(prompts)]
    if not made:
        raise InputError("no prompts were given: give at least one text, message list or Prompt")
    seen: set[str] = set()
    for prompt in made:
        for turn in prompt.messages:
            encodable(turn.content, f"prompt {prompt.id!r}")
        if prompt.id in seen:
            raise InputError(
                f"two prompts have the id {prompt.id!r}: ids key the draws and the records, give each its own"
            )
        seen.add(prompt.id)
    return made


def _as_prompt(given: PromptLike, place: int) -> Prompt:
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        messages: tuple[Message, ...] = (Message(role="user", content=given),)
    elif isinstance(given, Sequence):
        messages = tuple(turn if isinstance(turn, Message) else _as_message(turn, place) for turn in given)
    else:
        raise InputError(
            f"prompt {place} is {given!r}: expected a text, a list of messages or a Prompt; a conversation goes into a "
            "list of its own, as in [[{'role': 'user', 'content': '...'}]]"
        )
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise InputError(f"prompt {place} must end in a user turn with some text; it was {given!r}")
    return Prompt(id=str(place), messages=messages)


def _as_message(turn: Any, place: int) -> Message:
    match turn:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content), **rest} if not rest:
            return Message(role=role, content=content)
    raise InputError(
        f"prompt {place} has the message {turn!r}; expected exactly a role (system, user or assistant) and a content"
    )


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of ids, messages and meta, in order."""
    return hashlib.sha256(dump_json(to_dict(list(prompts)))).hexdigest()
