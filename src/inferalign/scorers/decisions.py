"""Typed decisions about a response: yes or no, one of several options, or a level of a scale, each with probabilities.

A local model answers by its next token. Every option has a label that is one token, and a decision may have several
phrasings (options in other orders, labels exchanged), so that a liking for a letter or for what comes first cancels:

    P_k(option)  probability of its label in phrasing k, under the full softmax
    mass         mean over k of sum_option P_k(option): 1 - mass is what the model would rather say
    P(option)    mean over k of P_k(option) / sum_option P_k(option): every phrasing weighs the same, whatever its mass
    margin       mean over k of P_k(good) - sum of P_k(the others), in [-1, 1]; near 0 where the labels have no mass

The margin of a two-option decision in both orders is RAIN's self-evaluation (arXiv 2309.07124, section 3.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from inferalign.core.config import to_dict
from inferalign.core.errors import InputError
from inferalign.core.files import dump_json
from inferalign.core.lookup import resolve
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, TokenIds, Unscored
from inferalign.engines.base import Engine
from inferalign.scorers.questions import Conversation, Phrasing, Questions, Reading

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat


@dataclass(frozen=True, kw_only=True)
class YesNo:
    name: str
    phrasings: tuple[Phrasing, ...]
    """Labels in the order yes, no."""
    good: str | None = None
    """The option that a good response gets; None where neither is better."""

    @property
    def options(self) -> tuple[str, ...]:
        return ("yes", "no")

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Choice:
    name: str
    options: tuple[str, ...]
    phrasings: tuple[Phrasing, ...]
    """Labels in the order of `options`, in whatever order the text puts them."""
    good: str | None = None
    """The option that a good response gets; None where none is better."""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Scale:
    name: str
    levels: tuple[int, ...]
    """Lowest first. Higher is better where the scale is a score."""
    phrasings: tuple[Phrasing, ...]
    """Labels in the order of `levels`."""

    @property
    def options(self) -> tuple[str, ...]:
        """The levels, written."""
        return tuple(map(str, self.levels))

    def __post_init__(self) -> None:
        if list(self.levels) != sorted(set(self.levels)):
            raise InputError(f"decision {self.name!r} has the levels {list(self.levels)}: give each once, lowest first")
        _check(self)


Decision = YesNo | Choice | Scale


def _check(decision: Decision) -> None:
    """Raises `InputError` for a decision that cannot be asked."""
    where, options = f"decision {decision.name!r}", decision.options
    if len(options) < 2 or len(set(options)) < len(options):
        raise InputError(f"{where} has the options {list(options)}: give two or more, each once")
    if not decision.phrasings:
        raise InputError(f"{where} has no phrasing: give one, or several that are averaged")
    for phrasing in decision.phrasings:
        if len(phrasing.labels) != len(options):
            raise InputError(
                f"{where} has {len(options)} options and a phrasing with the labels {list(phrasing.labels)}: "
                "give one label an option"
            )
    if not isinstance(decision, Scale) and decision.good is not None:
        resolve(dict.fromkeys(options), decision.good, f"good option of {where}")


@dataclass(frozen=True)
class Answer:
    """What a model said to one decision about one response."""

    decision: Decision
    reading: Reading
    """`[phrasing][option]`: probabilities of the labels under the full softmax; no phrasing has a mass of 0."""

    @property
    def mass(self) -> float:
        """Mean probability of all labels of a phrasing together."""
        return sum(map(sum, self.reading)) / len(self.reading)

    @cached_property
    def probabilities(self) -> Mapping[str, float]:
        """By option, in the decision's order; they sum to 1."""
        shares = [[p / sum(labels) for p in labels] for labels in self.reading]
        means = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
        return dict(zip(self.decision.options, means, strict=True))

    @property
    def flips(self) -> bool:
        """Whether no option is a most probable one in every phrasing (ties count for all that are tied)."""
        likeliest = [{i for i, p in enumerate(labels) if p == max(labels)} for labels in self.reading]
        return not set.intersection(*likeliest)

    @property
    def label(self) -> str:
        """The most probable option (ties: the earlier one). With `flips` it says little."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def yes(self) -> float:
        """The probability of yes. Raises `InputError` unless the decision is a `YesNo`."""
        if not isinstance(self.decision, YesNo):
            raise InputError(f"decision {self.decision.name!r} has no yes: take its `probabilities`")
        return self.probabilities["yes"]

    @property
    def expected(self) -> float:
        """The mean level. Raises `InputError` unless the decision is a `Scale`."""
        if not isinstance(self.decision, Scale):
            raise InputError(f"decision {self.decision.name!r} has no levels: take its `probabilities`")
        return sum(level * self.probabilities[str(level)] for level in self.decision.levels)

    @property
    def margin(self) -> float:
        """The good option against the others, in [-1, 1]. Raises `InputError` when the decision has no good option."""
        good = _good(self.decision)
        return sum(2.0 * labels[good] - sum(labels) for labels in self.reading) / len(self.reading)


def _good(decision: Decision) -> int:
    """The place of the good option."""
    if isinstance(decision, Scale) or decision.good is None:
        raise InputError(f"decision {decision.name!r} names no good option: give it one (good = ...) to score by it")
    return decision.options.index(decision.good)


@dataclass(frozen=True, kw_only=True)
class DecisionSet:
    """Decisions that are asked together, and how the conversation is shown before them."""

    name: str
    conversation: Conversation
    preamble: str
    """Instruction and worked examples; empty for `chat`, so that judging shares the generation's prefix."""
    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        names = [decision.name for decision in self.decisions]
        if not names or len(set(names)) < len(names):
            raise InputError(f"{self.name!r} has the decisions {names}: give one or more, each under its own name")
        if self.conversation == "chat" and self.preamble:
            raise InputError(f"{self.name!r} asks within the chat, where no preamble is shown: empty the preamble")

    def only(self, name: str) -> DecisionSet:
        """The same with a single decision. Raises `UnknownName`."""
        return replace(self, decisions=(resolve({one.name: one for one in self.decisions}, name, "decision"),))

    @property
    def sha256(self) -> str:
        """Of all that is asked, wherever it came from."""
        return hashlib.sha256(dump_json(to_dict(self))).hexdigest()


class DecisionJudge:
    """Asks `engine`'s model all decisions of a set about responses to a prompt."""

    def __init__(self, engine: Engine, chat: ChatFormat, asked: DecisionSet) -> None:
        """Raises `ModelError` when a label is not one token of this tokenizer after its text."""
        self.engine = engine
        self.chat = chat
        self.asked = asked
        self._questions = Questions(
            engine, chat, asked.conversation, asked.preamble, [decision.phrasings for decision in asked.decisions]
        )

    def describe(self) -> Mapping[str, object]:
        return {
            "decisions": self.asked.name,
            "decisions_sha256": self.asked.sha256,
            "engine": self.engine.describe(),
        }

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        """What every decision about a response of these ids follows."""
        return self._questions.context(prompt, token_ids)

    def room(self, prompt: Prompt) -> int:
        """The most tokens a response may have for every decision to fit the context (may be negative)."""
        return self._questions.room(prompt)

    async def ask(
        self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage
    ) -> list[dict[str, Answer | Unscored]]:
        """By decision, for each response in order; all in one request to the engine.

        `Unscored`, blame judge: the decision does not fit the model's context, or its labels have no probability.
        """
        readings = await self._questions.ask(prompt, responses, usage)
        return [
            {
                decision.name: _answer(decision, reading)
                for decision, reading in zip(self.asked.decisions, of_response, strict=True)
            }
            for of_response in readings
        ]


def _answer(decision: Decision, reading: Reading | Unscored) -> Answer | Unscored:
    if isinstance(reading, Unscored):
        return reading
    if not all(map(sum, reading)):
        return Unscored(f"the model gave the labels of decision {decision.name!r} no probability", blame="judge")
    return Answer(decision, reading)


class DecisionScorer:
    """One decision as a guide, a reward or a judge: the mean level of a scale, the margin of the good option else."""

    def __init__(self, engine: Engine, chat: ChatFormat, asked: DecisionSet, decision: str) -> None:
        """Raises `UnknownName`, `InputError` for a decision without a good option, `ModelError` for its labels."""
        self.engine = engine
        self.judge = DecisionJudge(engine, chat, asked.only(decision))
        (self._decision,) = self.judge.asked.decisions
        if not isinstance(self._decision, Scale):
            _good(self._decision)

    @property
    def name(self) -> str:
        return f"decision:{self._decision.name}"

    def describe(self) -> Mapping[str, object]:
        return {"scorer": self.name, **self.judge.describe()}

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        return self.judge.context(prompt, token_ids)

    def room(self, prompt: Prompt) -> int:
        return self.judge.room(prompt)

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        return [self._value(answers[self._decision.name]) for answers in await self.judge.ask(prompt, responses, usage)]

    def _value(self, answer: Answer | Unscored) -> Score | Unscored:
        if isinstance(answer, Unscored):
            return answer
        return Score(answer.expected if isinstance(self._decision, Scale) else answer.margin)
