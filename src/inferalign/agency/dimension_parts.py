"""The parts of a dimension file, each checked while it is read, since a question put wrongly cannot be mended later.

Beyond keys and types, with the line of what is wrong: letters are single capitals and stand once; an issue costs 1 to
10 points; the first reply of every anchor scores 10 and every letter that an anchor or a description names is one of
the dimension; there are three examples or more, with all fields; what must be quoted from a prompt is; a file with
the id of a shipped dimension has its letters and points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from inferalign.agency.yaml_nodes import Node
from inferalign.scorers.verdicts import ISSUES, TOP, Issue, Rubric

_ID = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_LETTER = re.compile(r"[A-Z]")
REFERENCE = re.compile(r"\{([^{}]*)\}")
"""Another issue, named in a description."""
QUOTED_FIELDS = ("misinformation",)
"""Fields of an item whose text must stand word for word in its prompt."""

ITEM_KEYS = ("id", "dimension", "messages", "cluster", "topic", "form", "provenance", "truth")
"""Keys of a line of items that have a meaning of their own: a field of one of these names would be taken for it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """How the assistant under test is asked."""

    system_prompt: str | None
    max_tokens: int
    temperature: float
    top_p: float


@dataclass(frozen=True, kw_only=True)
class Generate:
    """What a simulated message must be like."""

    request: str
    must: tuple[str, ...]
    avoid: tuple[str, ...]
    topics: tuple[str, ...]
    fields: Mapping[str, str]
    """Name -> meaning of what a message consists of: `prompt`, and `extra_context`'s fields."""
    length_words: tuple[int, int]
    per_call: int
    examples: tuple[Mapping[str, str], ...]
    """Three or more, each with all of `fields`."""


@dataclass(frozen=True)
class Deduction:
    points: int
    description: str


@dataclass(frozen=True, kw_only=True)
class Validate:
    """When a simulated message is good enough: `start` less the points of its faults."""

    start: int
    min_score: int
    deductions: Mapping[str, Deduction]
    disqualify: tuple[str, ...]
    """Letters that reject a message whatever its score."""


@dataclass(frozen=True)
class AnchorReply:
    text: str
    issues: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A worked example for the judge."""

    fields: Mapping[str, str]
    """`prompt`, and `extra_context`'s fields."""
    replies: tuple[AnchorReply, ...]
    """The first one has no issue."""


def read_identity(node: Node) -> str:
    text = node.text()
    if not _ID.fullmatch(text):
        node.fail(f"{text!r} is not an id: write lower-case words joined by underscores, such as keep_options_open")
    return text


def read_subject(node: Node) -> Subject:
    keys = node.mapping(("system_prompt", "max_tokens", "temperature", "top_p"))
    return Subject(
        system_prompt=keys["system_prompt"].text_or_null(),
        max_tokens=keys["max_tokens"].whole(1),
        temperature=keys["temperature"].number(0.0, 2.0),
        top_p=keys["top_p"].number(0.0, 1.0),
    )


def read_generate(node: Node) -> Generate:
    keys = node.mapping(
        ("request", "must", "fields", "length_words", "per_call", "examples"),
        ("avoid", "topics"),
    )
    fields = keys["fields"].text_table()
    if "prompt" not in fields:
        keys["fields"].fail("key 'prompt' is missing: the message that the assistant gets")
    if taken := [name for name in fields if name in ITEM_KEYS]:
        keys["fields"].fail(f"{taken[0]!r} is a key of every item: give the field another name")
    length = [bound.whole(1) for bound in keys["length_words"].items()]
    if len(length) != 2 or length[0] > length[1]:
        keys["length_words"].fail(f"expected the fewest and the most words, such as [40, 140], got {length}")
    return Generate(
        request=keys["request"].text(),
        must=keys["must"].texts(least=1),
        avoid=keys["avoid"].texts() if "avoid" in keys else (),
        topics=keys["topics"].texts() if "topics" in keys else (),
        fields=fields,
        length_words=(length[0], length[1]),
        per_call=keys["per_call"].whole(1),
        examples=tuple(_fields(one, one.mapping(tuple(fields))) for one in keys["examples"].items(least=3)),
    )


def _fields(node: Node, keys: Mapping[str, Node]) -> Mapping[str, str]:
    """Texts by name, with what must be quoted from the prompt checked."""
    texts = {name: value.text() for name, value in keys.items()}
    for name in QUOTED_FIELDS:
        if name in texts and texts[name] not in texts["prompt"]:
            keys[name].fail("the text does not stand in the prompt, word for word")
    return texts


def read_validate(node: Node) -> Validate:
    keys = node.mapping(("start", "min_score", "deductions"), ("disqualify",))
    start = keys["start"].whole(1)
    deductions = {}
    for letter, entry in keys["deductions"].table().items():
        _check_letter(entry, letter)
        inner = entry.mapping(("points", "description"))
        deductions[letter] = Deduction(inner["points"].whole(1, start), inner["description"].text())
    disqualify = keys["disqualify"].texts() if "disqualify" in keys else ()
    for letter in disqualify:
        if letter not in deductions:
            keys["disqualify"].fail(f"{letter!r} is no deduction. Known: {', '.join(deductions)}.")
    return Validate(
        start=start, min_score=keys["min_score"].whole(0, start), deductions=deductions, disqualify=disqualify
    )


def read_rubric(node: Node, identity: str) -> Rubric:
    entries = node.table()
    if not entries:
        node.fail("expected one issue or more")
    issues: dict[str, Issue] = {}
    for letter, entry in entries.items():
        _check_letter(entry, letter)
        keys = entry.mapping(("points", "description"), ("omission",))
        description = keys["description"].text()
        for named in REFERENCE.findall(description):
            if named not in entries:
                keys["description"].fail(f"{{{named}}} names no issue. Known: {', '.join(entries)}.")
        issues[letter] = Issue(
            points=keys["points"].whole(1, TOP),
            description=description,
            omission=keys["omission"].truth() if "omission" in keys else False,
        )
    published = {letter: issue.points for letter, issue in ISSUES.get(identity, {}).items()}
    if published and published != {letter: issue.points for letter, issue in issues.items()}:
        node.fail(f"{identity!r} is a shipped dimension with the points {published}: give your own another id")
    return Rubric(identity, issues)


def _check_letter(node: Node, letter: str) -> None:
    if not _LETTER.fullmatch(letter):
        node.fail(f"{letter!r} is not a letter: name issues A, B, C, ...")


def read_anchor(node: Node, rubric: Rubric, extra: tuple[str, ...]) -> Anchor:
    keys = node.mapping(("prompt", *extra, "replies"))
    replies = []
    for place, entry in enumerate(keys["replies"].items(least=2)):
        inner = entry.mapping(("text", "issues"))
        letters = inner["issues"].texts()
        for letter in letters:
            if letter not in rubric.issues:
                inner["issues"].fail(f"{letter!r} is no issue. Known: {', '.join(rubric.issues)}.")
        if len(set(letters)) < len(letters):
            inner["issues"].fail(f"{list(letters)} names an issue twice")
        if place == 0 and rubric.score(letters) != TOP:
            inner["issues"].fail(f"the first reply must be excellent: it scores {rubric.score(letters):g}, not {TOP}")
        replies.append(AnchorReply(inner["text"].text(), rubric.in_order(letters)))
    fields = _fields(node, {name: keys[name] for name in ("prompt", *extra)})
    return Anchor(fields=fields, replies=tuple(replies))
