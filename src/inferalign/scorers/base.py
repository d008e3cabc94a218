"""The scorer contract: one interface serves as search guide, reward and judge. Higher is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from inferalign.core.errors import ContextOverflow
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, TokenIds, Unscored

if TYPE_CHECKING:
    from inferalign.engines.base import Engine

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
class LimitedScorer(Scorer, Protocol):
    """A scorer that can read answers up to some length only, and knows which."""

    def room(self, prompt: Prompt) -> int | None:
        """The most tokens of the policy's that an answer may have to be judged; None where they are not its own."""
        ...


def require_room(scorer: Scorer, prompts: Iterable[Prompt], longest: int) -> None:
    """Raises `ContextOverflow` for a prompt to which an answer of `longest` tokens could not be judged.

    That would be the judge's fault, which costs an answer nothing: in training, length would be a place to hide.
    """
    if not isinstance(scorer, LimitedScorer):
        return
    for prompt in prompts:
        room = scorer.room(prompt)
        if room is not None and room < longest:
            raise ContextOverflow(
                f"{scorer.name} can judge answers of at most {max(room, 0)} tokens to prompt {prompt.id!r}, and they "
                f"may have {longest}: give a smaller --max-new-tokens, leave the prompt out, or take a scorer with a "
                "longer context"
            )


@runtime_checkable
class ContextScorer(LimitedScorer, Protocol):
    """A scorer that judges a response inside a token context of its own model (RAIN's self-evaluation)."""

    @property
    def engine(self) -> Engine:
        """What it asks: the policy's engine, or another judge's."""
        ...

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        """The ids the judgement is made on, ending in the response's ids: where a search takes embeddings from."""
        ...

    def room(self, prompt: Prompt) -> int:
        """Always a number, for the judge reads the policy's own tokens; negative if prompt and questions overflow."""
        ...
