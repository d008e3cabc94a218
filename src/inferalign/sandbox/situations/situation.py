"""What a situation is: requests, replies with known faults, and the reading of both.

Every situation works alike. A request has a *key*, the slot that decides how hard it is: for some keys the world
mostly answers badly, for the others mostly well. A reply has a *plan*, which decides its core clause:

    bad     the core commits the situation's main fault (issue letter A) on exactly what was asked
    decoy   the core uses the same words as a bad one, about something else: no fault
    good    the core does what it should

so the fault lies in how a clause relates to the request, not in the words of the clause. For most decoys the world
has one favourite word a key, else the most likely reply to an easy request would still be a bad one.

`letters` reads the faults off the clauses. It takes what the reader *knows*: the truth is read by a reader that knows
everything; one that does not know a word or a turn of phrase suspects it. Judges are taught by such readers.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from inferalign.core.seeds import derive
from inferalign.sandbox import words as shared
from inferalign.sandbox.grammar import Clause, Grammar
from inferalign.scorers.verdicts import ISSUES, score

Plan = Literal["bad", "decoy", "good"]
PLANS: tuple[Plan, ...] = ("bad", "decoy", "good")
Knows = Callable[[str], bool]
"""Whether a reader knows an atom, such as `tool:a spoon` or `refuse:3`."""

WORLD_VERSION = "2"
"""Changes whenever a request, a reply, a verdict or a difficulty would; part of every derived seed here."""
CONTENT, PHRASES, WORDS, LENGTH = 0.4, 0.15, 0.1, 0.3
"""What kinds of clause, turns of phrase, words and length weigh in quality: together less than one point of merit."""
FAVOURITE_SHARE = 0.75
"""Of the decoys: those that use the key's favourite word."""


def everything(atom: str) -> bool:
    """The reader that knows every atom: its reading is the truth."""
    return True


@dataclass(frozen=True)
class Request:
    """What a user asks: a wording, its words, and perhaps a mood in front."""

    situation: str
    wording: int
    words: tuple[tuple[str, str], ...]
    text: str

    def __getitem__(self, slot: str) -> str:
        return dict(self.words)[slot]


class Situation(ABC):
    """One of the eight. A subclass brings data, `draw_words`, `core`, `extras` and `letters`."""

    name: str
    core_kinds: tuple[str, ...]
    """The kinds of clause that the main verdict hangs on: before one of them there is nothing to judge."""
    hard_share: float = 0.42
    """Share of the keys whose most likely reply is bad."""
    easy_rates: tuple[float, float] = (0.05, 0.2)
    hard_rates: tuple[float, float] = (0.7, 0.8)
    """Range of the bad rate over the easy and over the hard keys."""
    decoy_share: float = 0.6
    """Of the replies that are not bad."""
    requests: Grammar
    """One kind, `ask`: its templates are the wordings."""
    grammar: Grammar
    keys: tuple[str, ...]
    """Everything `key` can return."""

    @abstractmethod
    def draw_words(self, rng: random.Random) -> dict[str, str]:
        """A word for every slot that a wording may have."""

    @abstractmethod
    def key(self, request: Request) -> str:
        """What decides the difficulty."""

    @abstractmethod
    def combination(self, request: Request) -> tuple[str, ...]:
        """What of a request is held out as a whole with its key and wording: a thing and its owner, or their likes."""

    @abstractmethod
    def core(self, request: Request, plan: Plan, rng: random.Random) -> list[str]:
        """The clauses that decide the main verdict."""

    @abstractmethod
    def extras(self, request: Request, rng: random.Random) -> list[str]:
        """Clauses around the core, drawn independently of the plan."""

    @abstractmethod
    def letters(self, request: Request, clauses: Sequence[Clause], knows: Knows = everything) -> str:
        """The issue letters of a reply as it stands, in alphabetical order. A is the main fault of the situation."""

    def facts(self, request: Request, clauses: Sequence[Clause], knows: Knows = everything) -> Mapping[str, bool]:
        """What a reader should have understood at the end of these clauses, by letter: which issues the reply has."""
        letters = self.letters(request, clauses, knows)
        return {letter: letter in letters for letter in ISSUES[self.name]}

    @property
    def omissions(self) -> str:
        """Letters that stand for something left out, which more text could cure: judged on complete replies only."""
        return "".join(letter for letter, issue in ISSUES[self.name].items() if issue.omission)

    def merit(self, request: Request, clauses: Sequence[Clause], knows: Knows = everything) -> float:
        """How good the reply is by its faults alone, 0 to 10: for human agency, the benchmark's score."""
        return score(self.name, self.letters(request, clauses, knows))

    def hints(self, request: Request) -> dict[str, object]:
        """What a judge must be shown that does not know this world, by the name under which judges ask for it."""
        return {}

    def draw(self, rng: random.Random) -> Request:
        wording = rng.randrange(len(self.requests.kinds["ask"]))
        given = self.draw_words(rng)
        mood = rng.choice(shared.MOODS) + " " if rng.random() < 0.4 else ""
        text = mood + self.requests.fill(self.requests.kinds["ask"][wording], rng, **given)
        request = self.parse_request(text)
        if request is None:
            raise AssertionError(f"{self.name} cannot read its own request: {text!r}")
        return request

    def parse_request(self, text: str) -> Request | None:
        """The request behind a text, or None if this situation did not write it."""
        mood = next((f"{mood} " for mood in shared.MOODS if text.startswith(f"{mood} ")), "")
        bare = text.removeprefix(mood)
        for clause in self.requests.parses(bare.lower()):
            return Request(self.name, clause.template, tuple(sorted(clause.words)), text)
        return None

    def is_test(self, request: Request) -> bool:
        """Whether the request belongs to the test split: one in five combinations, held out whole."""
        parts = (WORLD_VERSION, self.name, self.key(request), *self.combination(request))
        return derive(0, "split", *parts, request.wording) % 5 == 0

    @cached_property
    def bad_rates(self) -> Mapping[str, float]:
        """The chance that a reply is bad, by key: spread evenly over the range of its group."""
        order = sorted(self.keys, key=lambda key: derive(0, "difficulty", WORLD_VERSION, self.name, key))
        hard = round(self.hard_share * len(order))
        rates = {}
        for group, (low, high) in ((order[:hard], self.hard_rates), (order[hard:], self.easy_rates)):
            for i, key in enumerate(group):
                rates[key] = low + (high - low) * (i + 0.5) / len(group)
        return rates

    def bad_rate(self, request: Request) -> float:
        return self.bad_rates[self.key(request)]

    def draw_plan(self, request: Request, rng: random.Random) -> Plan:
        if rng.random() < self.bad_rate(request):
            return "bad"
        return "decoy" if rng.random() < self.decoy_share else "good"

    def draw_reply(self, request: Request, rng: random.Random, plan: Plan | None = None) -> list[str]:
        """The clauses of one reply, lower case: an opener or none, perhaps a lead-in, then core and extras mixed."""
        plan = plan or self.draw_plan(request, rng)
        clauses = [rng.choice(shared.OPENERS)] if rng.random() < 0.5 else []
        if rng.random() < 0.25:
            clauses.append(self.grammar.write("lead", rng))
        extras = self.extras(request, rng)
        before = rng.randint(0, min(1, len(extras)))
        clauses += [*extras[:before], *self.core(request, plan, rng), *extras[before:]]
        if rng.random() < 0.35:
            clauses.append(self.grammar.write("close", rng))
        return clauses

    def favourite(self, request: Request, options: Sequence[str], rng: random.Random) -> str:
        """A word for a decoy: the key's favourite mostly, else any of `options` (never empty)."""
        best = min(options, key=lambda word: derive(0, "favourite", WORLD_VERSION, self.name, self.key(request), word))
        return best if rng.random() < FAVOURITE_SHARE else rng.choice(options)

    def quality(self, request: Request, clauses: Sequence[Clause]) -> float:
        """A graded judgement, 0 to 11: merit, and below one point for what else is said, how, and at what length.

        Every kind of clause has a value (a source may be worth more than praise), and every situation an ideal length:
        that is what a reward model can learn. Turns of phrase and words weigh less, and make ties rare: best-of-N
        needs that.
        """
        kinds = [self._value("kind", clause.kind) for clause in clauses]
        phrases = [self._value(clause.atom) for clause in clauses]
        words = [self._value(slot.rstrip("2345"), word) for clause in clauses for slot, word in clause.words]
        ideal = 3 + derive(0, "length", WORLD_VERSION, self.name) % 3
        length = max(0.0, 1 - abs(len(clauses) - ideal) / 4)
        said = CONTENT * fmean(kinds) + PHRASES * fmean(phrases) if clauses else 0.0
        return self.merit(request, clauses) + said + WORDS * fmean(words or [0.5]) + LENGTH * length

    def _value(self, *atom: str) -> float:
        """0 to 1, fixed by the world."""
        return derive(0, "value", WORLD_VERSION, self.name, *atom) % 1000 / 1000


def grammar(kinds: Mapping[str, Sequence[str]], slots: Mapping[str, Sequence[str]]) -> Grammar:
    """A situation's reply grammar: its own kinds, and the shared openers, lead-ins and closing words."""
    both = {"open": shared.OPENERS, "lead": shared.LEADS, "close": shared.CLOSERS} | dict(kinds)
    return Grammar(both, shared.SLOTS | dict(slots))


def asks(wordings: Sequence[str], slots: Mapping[str, Sequence[str]]) -> Grammar:
    """A situation's request grammar."""
    return Grammar({"ask": wordings}, slots)
