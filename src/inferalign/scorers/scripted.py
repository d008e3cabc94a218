"""Scorers whose verdicts are written down or computed from the text: for tests, benchmarks and the negative control."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from inferalign.core.errors import ScoringError
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, TokenIds, Unscored
from inferalign.scorers.base import ContextScorer

if TYPE_CHECKING:
    from inferalign.engines.base import Engine

Verdict = Score | Unscored


class ScriptedScorer:
    """Verdicts in the order of a list, or by a function of prompt and response. Strict: an empty list is an error."""

    name = "scripted"

    def __init__(self, script: Sequence[Verdict] | Callable[[Prompt, Completion], Verdict]) -> None:
        self._rule = script if callable(script) else None
        self._left = [] if callable(script) else list(script)
        self.requests: list[tuple[Prompt, Completion]] = []

    def describe(self) -> Mapping[str, object]:
        return {"scorer": self.name}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Verdict]:
        return [self._next(prompt, response) for response in responses]

    def _next(self, prompt: Prompt, response: Completion) -> Verdict:
        self.requests.append((prompt, response))
        if self._rule:
            return self._rule(prompt, response)
        if not self._left:
            raise ScoringError(
                f"the scripted scorer has no verdict left for request {len(self.requests)} (prompt {prompt.id!r}, "
                f"response {response.text!r}): script one more"
            )
        return self._left.pop(0)


class Replaced:
    """A context scorer that does its whole work and then has each value replaced by a rule of value and text."""

    def __init__(self, inner: ContextScorer, rule: Callable[[float, str], float], name: str) -> None:
        self.inner = inner
        self.rule = rule
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def describe(self) -> Mapping[str, object]:
        return {"scorer": self.name, "rule": self.rule.__name__, "inner": self.inner.describe()}

    @property
    def engine(self) -> Engine:
        return self.inner.engine

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        return self.inner.context(prompt, token_ids)

    def room(self, prompt: Prompt) -> int:
        return self.inner.room(prompt)

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Verdict]:
        verdicts = await self.inner.score(prompt, responses, usage)
        return [
            Score(self.rule(verdict.value, response.text)) if isinstance(verdict, Score) else verdict
            for verdict, response in zip(verdicts, responses, strict=True)
        ]


def text_number(text: str) -> int:
    """A 64-bit number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def hash_vote(value: float, text: str) -> float:
    """-1, 0 or 1 by the text's hash, whatever the value: votes that every implementation agrees on."""
    return float(text_number(text) % 3 - 1)


def shuffled(inner: ContextScorer, name: str) -> Replaced:
    """The negative control of a search: at the cost of `inner`, verdicts that know nothing of the text."""
    return Replaced(inner, coin, name)


def flipped(inner: ContextScorer, name: str, share: float) -> Replaced:
    """The verdicts of `inner`, turned over on that share of the texts: balanced accuracy b becomes (1 - 2 share) b +
    share.

    Verdicts alone, -1 and 1: how sure `inner` is knows the truth, too, and would lead a search whatever the sign. The
    coin is the text's hash: asked again, the judge says the same again.
    """

    def turned_verdict(value: float, text: str) -> float:
        verdict = 1.0 if value > 0 else -1.0
        return -verdict if text_number(text) < share * 2**64 else verdict

    return Replaced(inner, turned_verdict, name)


def coin(value: float, text: str) -> float:
    """-1 or 1 by the text's hash, whatever the value. Its size would tell, too: a judge is surer of what is bad."""
    return 1.0 if text_number(text) % 2 else -1.0
