"""The scorer contract: one interface serves as search guide, reward and judge. Higher is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from inferalign.core.types import Completion, Prompt, RoleUsage, Score, TokenIds, Unscored

TRUTHS = ("oracle", "oracle-quality")
"""Scorers that know the sandbox's truth: judges, and guides only where somebody asks for the best there could be."""


class Scorer(Protocol):
    @property
    def name(self) -> str: ...

    def describe(self) -> Mapping[str, object]:
        """What a record must say of this scorer: its form, template hash, model."""
        ...

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        """One verdict a response, in order. Never raises for a response it cannot judge: that is `Unscored`."""
        ...


@runtime_checkable
class ContextScorer(Scorer, Protocol):
    """A scorer that judges a response inside a token context of its own model (RAIN's self-evaluation)."""

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        """The ids the judgement is made on, ending in the response's ids: where a search takes embeddings from."""
        ...

    def room(self, prompt: Prompt) -> int:
        """The most tokens a response may have before its judgement overflows the model's context (may be negative)."""
        ...
