"""The words every layer shares: prompts, completions, scores and what they cost.

Token ids are the truth on the search path; text is a view of them and is never encoded back.
This module knows no engine, no scorer and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

TokenIds = tuple[int, ...]
Role = Literal["generator", "evaluator", "embedder"]
ROLES: tuple[Role, ...] = ("generator", "evaluator", "embedder")


class Determinism(StrEnum):
    """What an engine promises about repeating a request."""

    EXACT = "exact"
    """The same request gives the same draw, whatever the batch, the order or the resume point."""
    SEEDED = "seeded"
    """Draws are seeded, but arithmetic may differ between runs (reduced precision, GPU kernels)."""
    NONE = "none"
    """Nothing is promised (most HTTP servers)."""


class StopReason(StrEnum):
    """Why a completion ended."""

    END = "end"
    """The model ended its answer: an end-of-text token, or the marker of the next user turn."""
    LENGTH = "length"
    """`max_new_tokens` was reached."""
    CONTEXT = "context"
    """The model's context is full."""
    PARTIAL = "partial"
    """Not ended: a prefix of an answer, as a search sees it."""


@dataclass(frozen=True, kw_only=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation that ends in a user turn. `id` is unique in its file and keys every random draw."""

    id: str
    messages: tuple[Message, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    token_ids: TokenIds | None = None
    """The conversation as it was already rendered, for one that came as token ids; None: the chat format renders it."""

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer, or the beginning of one (`stop == PARTIAL`). `token_ids` exclude the end-of-text token."""

    token_ids: TokenIds
    text: str
    stop: StopReason
    logprob: float | None = None
    """Natural-log probability under the distribution that it was drawn from; None when the engine cannot tell."""


@dataclass(frozen=True)
class Score:
    """A judgement that was made. Higher is better."""

    value: float


@dataclass(frozen=True)
class Unscored:
    """A judgement that could not be made. It is counted and shown, and is never a number."""

    reason: str
    blame: Literal["response", "judge"]
    """`response`: the text itself cannot be judged. `judge`: timeout, refusal, malformed verdict."""


@dataclass(kw_only=True)
class RoleUsage:
    """What one role cost. `forward_calls` is a float: a call shared by several prompts is charged by its rows."""

    tokens_fed: int = 0
    """Tokens that went through the model (prefill and decode)."""
    tokens_reused: int = 0
    """Tokens of a request's prefix whose keys and values were already held."""
    new_tokens: int = 0
    """Tokens sampled."""
    forward_calls: float = 0.0


@dataclass(kw_only=True)
class Usage:
    """The ledger of one prompt, by role."""

    generator: RoleUsage = field(default_factory=RoleUsage)
    evaluator: RoleUsage = field(default_factory=RoleUsage)
    embedder: RoleUsage = field(default_factory=RoleUsage)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One answer a procedure looked at, with the guide's score of it, if it was scored."""

    completion: Completion
    score: Score | Unscored | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a procedure returns for one prompt. `candidates[chosen]` is the response."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    chosen: int
    usage: Usage
    seconds: float
    """Wall time from start to end; with several prompts in flight, the time spent waiting for the others is in it."""
    trace: Mapping[str, Any] = field(default_factory=dict)
    """Search facts worth keeping (iterations, commits, distinct children, votes); JSON values only."""

    @property
    def response(self) -> Completion:
        return self.candidates[self.chosen].completion


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer that is on its way. The texts of all pieces, put together, are the answer's text."""

    text: str
    token_ids: TokenIds
    result: Result | None = None
    """On the last piece, and on no other: everything about the whole answer."""
