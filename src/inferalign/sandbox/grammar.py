"""Clause templates and their exact inverse.

A grammar maps a kind of clause to templates with slots, and a slot to the words it takes. `write` fills a template;
`parse` finds kind, template and words again. A slot that occurs twice says one word twice; where two different words of
one kind are meant, the second carries a number (`{fact2}`).
Every clause ends in one of `,.?`, which occur nowhere else, so a reply falls apart into its clauses without guessing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

_SLOT = re.compile(r"\{(\w+?)(\d?)\}")
CLAUSE_END = re.compile(r"(?<=[,.?])")


@dataclass(frozen=True)
class Clause:
    """One clause: its kind, which of the kind's templates, and the word in each slot, in order of appearance."""

    kind: str
    template: int
    words: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, slot: str) -> str:
        """The word in a slot that this clause's template has."""
        return dict(self.words)[slot]

    def get(self, slot: str) -> str | None:
        return dict(self.words).get(slot)

    @property
    def atom(self) -> str:
        """The name of this way of saying it, as a piece of knowledge: see `knowledge`."""
        return f"{self.kind}:{self.template}"


class Grammar:
    """Templates by kind, words by slot. It writes "I" as it is written; it reads lower case only."""

    def __init__(self, kinds: Mapping[str, Sequence[str]], slots: Mapping[str, Sequence[str]]) -> None:
        self.kinds = {kind: tuple(templates) for kind, templates in kinds.items()}
        self.slots = {slot: tuple(words) for slot, words in slots.items()}

    def write(self, kind: str, rng: random.Random, /, **given: str) -> str:
        """A clause of `kind`: a template and its words at random, but for the words that are given.

        A template is drawn among those that have every given slot, so a given word is always said.
        """
        able = [t for t in self.kinds[kind] if all(f"{{{slot}}}" in t for slot in given)]
        return self.fill(prefer_first(able, rng), rng, **given)

    def fill(self, template: str, rng: random.Random, /, **given: str) -> str:
        """`template` with its slots filled, distinct words in numbered copies of one slot."""
        used: dict[str, list[str]] = {}

        def word(match: re.Match[str]) -> str:
            slot, copy = match[1], match[1] + match[2]
            before = used.setdefault(slot, [])
            chosen = given[copy] if copy in given else rng.choice([w for w in self.slots[slot] if w not in before])
            before.append(chosen)
            return chosen

        return _SLOT.sub(word, template)

    def parses(self, text: str) -> list[Clause]:
        """Every reading of one clause in lower case: at most one, if the grammar is unambiguous."""
        found = []
        for kind, i, slots, pattern in self._patterns:
            match = pattern.fullmatch(text)
            if match:
                found.append(Clause(kind, i, tuple(zip(slots, match.groups(), strict=True))))
        return found

    @cached_property
    def parse(self) -> Callable[[str], Clause | None]:
        """The one reading of a clause, or None; remembers what it has read."""

        @lru_cache(maxsize=65_536)
        def parse(text: str) -> Clause | None:
            found = self.parses(text)
            return found[0] if found else None

        return parse

    @cached_property
    def _patterns(self) -> list[tuple[str, int, tuple[str, ...], re.Pattern[str]]]:
        made = []
        for kind, templates in self.kinds.items():
            for i, template in enumerate(templates):
                slots = tuple(dict.fromkeys(name + copy for name, copy in _SLOT.findall(template)))
                made.append((kind, i, slots, re.compile(self._regex(template))))
        return made

    def _regex(self, template: str) -> str:
        parts = _SLOT.split(template)  # text, slot, copy, text, slot, copy, ... text
        out = re.escape(parts[0].lower())
        seen: list[str] = []
        for slot, copy, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            if slot + copy in seen:
                out += f"\\{seen.index(slot + copy) + 1}"
            else:
                seen.append(slot + copy)
                words = sorted(self.slots[slot], key=len, reverse=True)
                out += "(" + "|".join(re.escape(word.lower()) for word in words) + ")"
            out += re.escape(text.lower())
        return out


def prefer_first(templates: Sequence[str], rng: random.Random) -> str:
    """One of the templates, the first most often (weights 1, 1/2, 1/3, ...), as people have pet phrases.

    It gives each kind of clause a most likely beginning. With equal weights the most likely *word* would be the one
    that many kinds begin with, and greedy decoding would follow it whatever the most likely clause is.
    """
    (chosen,) = rng.choices(templates, [1 / (i + 1) for i in range(len(templates))])
    return chosen


def split_clauses(reply: str) -> tuple[list[str], str]:
    """The finished clauses of a reply, lower case, and what follows the last mark."""
    *clauses, rest = (part.strip() for part in CLAUSE_END.split(reply.strip().lower()))
    return clauses, rest


def render(clauses: Sequence[str]) -> str:
    """Clauses as text: one space between them, a capital letter at the start of each sentence."""
    out = ""
    for clause in clauses:
        starts = not out or out[-1] in ".?"
        out += (" " if out else "") + (clause[0].upper() + clause[1:] if starts else clause)
    return out
