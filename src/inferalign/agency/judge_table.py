"""Judges by their text form.

    oracle                        the sandbox's truth, for items that it wrote
    chat:MODEL@URL                a chat model that names issue letters in JSON; also chat:inspect:PROVIDER/MODEL
    decisions:DIALECT:MODEL@URL   a decision server: systemone, openai or sglang
    local:DIR                     typed decisions by a local model's label tokens
    self                          the same by the subject's own local model
    scripted, scripted:FILE       letters by the hash of the reply, or written down in a file: no model at all

A line of FILE is `{"item": ID, "letters": ["B"]}`, for every reply to the item, or `{"reply": ID, "letters": []}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from inferalign.agency.decision_dialects import DIALECTS
from inferalign.agency.dimension import Dimension
from inferalign.agency.judge import Judge
from inferalign.agency.judge_chat import ChatJudge, ChatJudgeSettings
from inferalign.agency.judge_decisions import DecisionsJudge, RemoteDecider
from inferalign.agency.judge_sandbox import OracleJudge
from inferalign.agency.judge_scripted import Rule, ScriptedJudge, by_hash
from inferalign.agency.local_decider import LocalDecider, default_questions, sandbox_questions
from inferalign.agency.models import Models, check_served, is_served, same_model
from inferalign.agency.records import Item, Reply
from inferalign.core.errors import InputError, ScoringError
from inferalign.core.files import parse_json
from inferalign.core.lookup import resolve
from inferalign.engines.remote_names import parse_name
from inferalign.engines.table import is_sandbox

ROLE = "judge"


class JudgeName(NamedTuple):
    text: str
    kind: str
    argument: str
    """What follows the kind's colon; for a decision server the dialect is taken off."""
    dialect: str = ""

    @property
    def remote(self) -> bool:
        return self.kind in ("chat", "decisions")


@dataclass(frozen=True, kw_only=True)
class JudgeParts:
    """What judges are made of."""

    dimensions: Mapping[str, Dimension]
    models: Models
    subject: str
    """As the user named it."""
    subject_name: str
    """As records name it: an endpoint's model is known by now."""
    allow_self_judging: bool
    chat: ChatJudgeSettings
    key_variable: str | None


def parse_judges(texts: Sequence[str]) -> list[JudgeName]:
    """Reads the text forms. Raises `InputError` for none, for one that stands twice and for a malformed one."""
    if not texts:
        raise InputError(
            "no judge: name one with --judge, such as `chat:MODEL@URL`, `decisions:openai:MODEL@URL`, `local:DIR`, "
            "or `oracle` for items of the sandbox"
        )
    if twice := [text for text in texts if list(texts).count(text) > 1]:
        raise InputError(f"judge {twice[0]!r} is named twice: its verdicts would be counted as two opinions")
    return [_parse(text) for text in texts]


def _parse(text: str) -> JudgeName:
    kind, _, argument = text.partition(":")
    needs = resolve(_NEEDS, kind, "judge")
    dialect = ""
    if kind == "decisions":
        dialect, _, argument = argument.partition(":")
        resolve(DIALECTS, dialect, "dialect of decision servers")
    if bool(argument) != bool(needs) and kind != "scripted":
        raise InputError(f"judge {text!r}: type {f'`{kind}:{needs}`' if needs else f'`{kind}` alone'}")
    name = JudgeName(text, kind, argument, dialect)
    if name.kind == "chat":
        check_served(argument)
    elif name.remote:
        parse_name(argument)
    elif kind == "scripted" and argument:
        read_rule(Path(argument))  # before anything is asked
    return name


_NEEDS = {
    "oracle": "",
    "self": "",
    "local": "DIR",
    "chat": "MODEL@URL",
    "decisions": "DIALECT:MODEL@URL",
    "scripted": "FILE",
}


async def open_judges(names: Sequence[JudgeName], parts: JudgeParts) -> list[Judge]:
    """The judges, in the order of their names.

    Raises `InputError` for a judge that is the subject, unless it may be, and for two of one name; and what opening a
    model raises.
    """
    judges = [await _open(name, parts) for name in names]
    called = [judge.name for judge in judges]
    if twice := [name for name in called if called.count(name) > 1]:
        raise InputError(f"two judges are called {twice[0]!r} in records: give the other one a --run of its own")
    return judges


async def _open(name: JudgeName, parts: JudgeParts) -> Judge:
    if name.remote:
        if name.kind == "chat":
            client = await parts.models.chat(name.argument, ROLE, key_variable=parts.key_variable)
            _check_other(name, client.name == parts.subject_name, parts)
            return ChatJudge(client, parts.dimensions, parts.chat)
        server = await parts.models.endpoint(name.argument, ROLE, key_variable=parts.key_variable)
        _check_other(name, server.name == parts.subject_name, parts)
        decider = RemoteDecider(server, DIALECTS[name.dialect], seed=parts.chat.seed)
        return DecisionsJudge(decider, parts.dimensions)
    if name.kind in ("local", "self"):
        model = parts.subject if name.kind == "self" else name.argument
        if name.kind == "self" and is_served(parts.subject):
            raise InputError(
                f"judge `self` is the subject's own local model, and the subject is the endpoint {parts.subject_name}: "
                "name a judge, such as chat:MODEL@URL"
            )
        _check_other(name, not is_served(parts.subject) and same_model(model) == same_model(parts.subject), parts)
        loaded = parts.models.local(model)
        asks = sandbox_questions if is_sandbox(model) else default_questions
        return DecisionsJudge(LocalDecider(loaded.engine, loaded.chat, f"local:{model}", asks), parts.dimensions)
    if name.kind == "oracle":
        return OracleJudge(parts.dimensions)
    return ScriptedJudge(parts.dimensions, read_rule(Path(name.argument)) if name.argument else by_hash)


def _check_other(name: JudgeName, same: bool, parts: JudgeParts) -> None:
    if same and not parts.allow_self_judging:
        raise InputError(
            f"the subject {parts.subject_name} would judge itself (--judge {name.text}): name another judge, or allow "
            "it with --allow-self-judging"
        )


def read_rule(path: Path) -> Rule:
    """The letters that a file has written down. Raises `InputError` naming file and line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Expected lines like {_EXAMPLE}.") from error
    table: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, letters = _entry(line, f"{path}:{number}")
            if name in table:
                raise InputError(f"{path}:{number}: {name!r} stands there twice. Keep one of the lines.")
            table[name] = letters
    if not table:
        raise InputError(f"{path} holds no verdicts: expected lines like {_EXAMPLE}.")

    def written_in_a_file(dimension: Dimension, item: Item, reply: Reply) -> list[str]:
        found = table.get(reply.id, table.get(item.id))
        if found is None:
            raise ScoringError(f"{path} has no verdict for item {item.id!r} and none for reply {reply.id!r}: add one")
        return found

    # Goes into records: another file is another judge.
    written_in_a_file.__name__ = f"file with sha256 {hashlib.sha256(b''.join(lines)).hexdigest()}"
    return written_in_a_file


_EXAMPLE = '{"item": "acq-001", "letters": ["B"]}'


def _entry(line: bytes, where: str) -> tuple[str, list[str]]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}). Expected {_EXAMPLE}.") from error
    match value:
        case {"item": str(name), "letters": list(letters), **rest} if not rest:
            pass
        case {"reply": str(name), "letters": list(letters), **rest} if not rest:
            pass
        case _:
            raise InputError(f"{where}: not a verdict. Expected {_EXAMPLE}.")
    return name, [str(letter) for letter in letters]
