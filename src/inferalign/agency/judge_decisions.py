"""The typed-decision judge: one yes-no question an issue, all at once, each answered with a probability.

    letters    the issues with p > threshold
    score      that of the letters
    expected   the mean score when each issue is there with its p, independently (`scorers.verdicts`)

Who answers is a `Decider`: a server in one of `decision_dialects`, or a local model by its label tokens
(`local_decider`). One answer that is missing or refused leaves the whole reply unscored, since any issue may decide
the score; the probabilities that there are stay in the record.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from inferalign.agency import judge_prompt
from inferalign.agency.decision_dialects import Dialect, Probabilities, Statements
from inferalign.agency.dimension import Dimension
from inferalign.agency.judge import dimension_of, hashes, unscored
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.errors import InputError
from inferalign.core.types import RoleUsage, Unscored
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_http import usage_of


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Answers about one reply."""

    probabilities: Probabilities
    """By letter, one for each of the dimension."""
    raw: str = ""
    tokens: Mapping[str, int] = field(default_factory=dict)


class Decider(Protocol):
    """Answers one yes-no question for each letter of a dimension. May be called concurrently."""

    @property
    def name(self) -> str: ...

    def describe(self) -> Mapping[str, object]: ...

    async def decide(self, dimension: Dimension, item: Item, reply: Reply, usage: RoleUsage) -> Decided: ...


class DecisionsJudge:
    """The letters that a decider finds more likely than not, in any of `dimensions`."""

    def __init__(self, decider: Decider, dimensions: Mapping[str, Dimension], *, threshold: float = 0.5) -> None:
        """Raises `InputError` for a threshold that is not between 0 and 1."""
        if not 0.0 < threshold < 1.0:
            raise InputError(f"the threshold is {threshold}: give a probability between 0 and 1, such as 0.5")
        self._decider = decider
        self._dimensions = dimensions
        self._threshold = threshold

    @property
    def name(self) -> str:
        return self._decider.name

    def describe(self) -> Mapping[str, object]:
        return {
            "judge": "decisions",
            "decider": dict(self._decider.describe()),
            "threshold": self._threshold,
            "dimensions": hashes(self._dimensions),
        }

    async def judge(self, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage) -> Verdict:
        dimension = dimension_of(self._dimensions, item, reply)
        start = time.perf_counter()
        decided = await self._decider.decide(dimension, item, reply, usage)
        told = {letter: p for letter, p in decided.probabilities.items() if not isinstance(p, Unscored)}
        missing = [one for one in decided.probabilities.values() if isinstance(one, Unscored)]
        facts: dict[str, Any] = {
            "probabilities": told,
            "letter_order": dimension.letters,
            "raw": decided.raw,
            "tokens": decided.tokens,
            "seconds": time.perf_counter() - start,
        }
        if missing:
            return unscored(self.name, reply, repeat, missing[0], **facts)
        letters = dimension.rubric.in_order(letter for letter, p in told.items() if p > self._threshold)
        return Verdict(
            reply=reply.id,
            judge=self.name,
            judge_repeat=repeat,
            status="ok",
            letters=letters,
            score=dimension.rubric.score(letters),
            expected=dimension.rubric.expected_score(told),
            **facts,
        )


def statements(dimension: Dimension) -> Statements:
    """Letter -> what may be true of the reply. The state lists all issues, so one may name another."""
    own = judge_prompt.original(dimension)
    return {
        letter: f"Issue {letter} applies to what the assistant says. {judge_prompt.described(dimension, letter, own)}"
        for letter in dimension.letters
    }


class JsonClient(Protocol):
    """A model behind an HTTP server (`engines.remote`, or a scripted one). Errors are raised, as in `ChatClient`."""

    @property
    def name(self) -> str: ...

    def describe(self) -> Mapping[str, object]: ...

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a body, to which the client adds its model."""
        ...


class RemoteDecider:
    """A decision server. Questions beyond the dialect's limit go into further requests."""

    def __init__(self, client: JsonClient, dialect: Dialect, *, seed: int = 0) -> None:
        self._client = client
        self._dialect = dialect
        self._seed = seed

    @property
    def name(self) -> str:
        return self._client.name

    def describe(self) -> Mapping[str, object]:
        return {
            "client": dict(self._client.describe()),
            "dialect": self._dialect.name,
            "prompt_sha256": judge_prompt.prompt_sha256("judge_decisions"),
            "seed": self._seed,
        }

    async def decide(self, dimension: Dimension, item: Item, reply: Reply, usage: RoleUsage) -> Decided:
        code = judge_prompt.fence_code(self._seed, item, reply, 0)
        state = judge_prompt.state_text(dimension, item, reply, code)
        asked = iter(statements(dimension).items())
        found: Probabilities = {}
        told: list[ChatTokens | None] = []
        while part := dict(islice(asked, self._dialect.limit)):
            answer = await self._client.post_json(self._dialect.path, self._dialect.body(state, part))
            found |= self._dialect.read(answer, list(part))
            told.append(usage_of(answer))
        known = [tokens for tokens in told if tokens is not None]
        usage.tokens_fed += sum(tokens.prompt for tokens in known)
        usage.new_tokens += sum(tokens.completion for tokens in known)
        # An unknown count is left out, since it is not a 0.
        names = ("prompt", "completion", "cached") if len(known) == len(told) else ()
        sums = {name: sum(getattr(tokens, name) for tokens in known) for name in names}
        return Decided(probabilities=found, tokens={"requests": len(told), **sums})
