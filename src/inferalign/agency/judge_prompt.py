"""What a judge is shown: goal, issues without their points, worked examples, and the conversation behind fences.

Two things guard the verdict. Letters are shown in a drawn order, so that a liking for the first issue or for the
letter A averages out; the draw depends on the item and the repeat alone, so all models are judged alike. And the
fences carry a code that is derived from the very text they enclose, so no reply can hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

from inferalign.agency.dimension import Dimension
from inferalign.agency.dimension_parts import REFERENCE
from inferalign.agency.records import Item, Reply
from inferalign.core.files import dump_json
from inferalign.core.seeds import derive


@dataclass(frozen=True)
class Lettering:
    """The letters under which a judge sees the issues: `shown[i]` stands for the dimension's `order[i]`."""

    shown: tuple[str, ...]
    order: tuple[str, ...]

    def show(self, letter: str) -> str:
        return self.shown[self.order.index(letter)]

    def real(self, shown: str) -> str:
        return self.order[self.shown.index(shown)]


def original(dimension: Dimension) -> Lettering:
    """Every issue under its own letter, as published."""
    return Lettering(dimension.letters, dimension.letters)


def shuffled(dimension: Dimension, item: Item, *, seed: int, repeat: int) -> Lettering:
    """A drawn order: another one for each item and repeat, the same for every reply to the item."""

    def draw(letter: str) -> int:
        return derive(seed, "letters", dimension.id, item.id, repeat, letter)

    return Lettering(dimension.letters, tuple(sorted(dimension.letters, key=draw)))


def chat_prompt(dimension: Dimension, item: Item, reply: Reply, lettering: Lettering, code: str) -> str:
    """The one message that a chat judge answers."""
    return template("judge_chat").substitute(
        goal=dimension.goal,
        issues=issue_list(dimension, lettering),
        examples="\n\n".join(_examples(dimension, lettering)),
        nonce=code,
        material=material(dimension, item, reply, code),
        letters=", ".join(lettering.shown),
    )


def state_text(dimension: Dimension, item: Item, reply: Reply, code: str) -> str:
    """What a decision model reads before its questions; every issue under its own letter."""
    return template("judge_decisions").substitute(
        goal=dimension.goal,
        issues=issue_list(dimension, original(dimension)),
        nonce=code,
        material=material(dimension, item, reply, code),
    )


def issue_list(dimension: Dimension, lettering: Lettering) -> str:
    return "\n".join(f"{shown}: {described(dimension, shown, lettering)}" for shown in lettering.shown)


def described(dimension: Dimension, shown: str, lettering: Lettering) -> str:
    """The description of the issue behind a shown letter, with the issues that it names under their shown letters."""
    text = dimension.rubric.issues[lettering.real(shown)].description
    return REFERENCE.sub(lambda match: lettering.show(match[1]), text)


def _examples(dimension: Dimension, lettering: Lettering) -> Iterator[str]:
    for number, anchor in enumerate(dimension.anchors, start=1):
        lines = [f"Example {number}"]
        for name in dimension.extra_context:
            lines.append(f"{_meaning(dimension, name)}:\n{anchor.fields[name]}")
        lines.append(f"User:\n{anchor.fields['prompt']}")
        for place, reply in enumerate(anchor.replies, start=1):
            letters = sorted(lettering.show(letter) for letter in reply.issues)
            lines.append(f"Reply {place}:\n{reply.text}\nIssues of reply {place}: {dump_json(letters).decode()}")
        yield "\n".join(lines)


def material(dimension: Dimension, item: Item, reply: Reply, code: str) -> str:
    """Extra context and all turns, each between fences."""
    parts = [_fenced(_meaning(dimension, name), item.extra[name], code) for name in dimension.extra_context]
    turns = {"user": 0, "assistant": 0}
    for message in reply.conversation:
        if message.role == "system":
            continue
        turns[message.role] += 1
        parts.append(_fenced(f"{message.role.upper()}, turn {turns[message.role]}", message.content, code))
    return "\n".join(parts)


def fence_code(seed: int, item: Item, reply: Reply, repeat: int) -> str:
    """16 hexadecimal digits that stand nowhere in the conversation; the same for the same call."""
    texts = [*item.extra.values(), *(message.content for message in reply.conversation)]
    digest = hashlib.sha256(dump_json(texts)).hexdigest()
    for attempt in range(1000):
        code = f"{derive(seed, 'fence', reply.id, repeat, digest, attempt):016x}"
        if not any(code in text for text in texts):
            return code
    raise AssertionError("a thousand drawn codes all stand in one conversation")


def prompt_sha256(name: str) -> str:
    """Of the template, for records."""
    return hashlib.sha256(_template_text(name).encode()).hexdigest()


def template(name: str) -> Template:
    return Template(_template_text(name))


@cache
def _template_text(name: str) -> str:
    return (files("inferalign.agency") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


def _meaning(dimension: Dimension, name: str) -> str:
    return f"{name} ({dimension.generate.fields[name]})"


def _fenced(heading: str, text: str, code: str) -> str:
    return f"===== {code} begin: {heading} =====\n{text}\n===== {code} end ====="


def letters_of(lettering: Lettering, shown: Sequence[str], dimension: Dimension) -> tuple[str, ...]:
    """Shown letters as the dimension's own, in its order."""
    return dimension.rubric.in_order(lettering.real(letter) for letter in shown)
