"""The engine contract: where tokens come from. One prefix in, rows of tokens or label probabilities out.

An engine never sees a chat, a prompt id or a score. It takes token ids, keeps what it has computed for a prefix,
and charges what it did to the `RoleUsage` it is handed. Draws are made by inverse CDF from `uniforms(row.seed, n)`:
position i of a row uses number i of its stream, so a draw depends on its prefix and its seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inferalign.core.types import Determinism, RoleUsage, StopReason, TokenIds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Row:
    """One continuation to draw from a shared prefix."""

    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    """Divides the logits; must be positive (greedy is `greedy=True`)."""
    top_k: int | None = None
    """Keep the k most probable tokens (ties: the lower id) and renormalise; None keeps all."""
    greedy: bool = False
    """Take the most probable token (ties: the lower id); log-probabilities still refer to the filtered distribution."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer; they are *not* part of the continuation (`StopReason.END`)."""
    pause_ids: frozenset[int] = frozenset()
    """Tokens after which to pause; they *are* part of it (`StopReason.PARTIAL`): clause ends in a simulation."""
    stop_strings: tuple[str, ...] = ()
    """Markers of the next user turn: a row ends where one begins, and its tokens are cut there (`StopReason.END`)."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    token_ids: TokenIds
    stop: StopReason
    """END (ended its answer), PARTIAL (paused), LENGTH (the row's max_new_tokens), CONTEXT (the model's context)."""
    logprobs: tuple[float, ...]
    """Per token, natural log, under the row's filtered and renormalised distribution."""


@dataclass(frozen=True, kw_only=True)
class TopTokens:
    """The k most probable next tokens, most probable first (ties: the lower id)."""

    token_ids: TokenIds
    logprobs: tuple[float, ...]
    """Natural log under the full softmax at temperature 1 (not renormalised)."""


@dataclass(frozen=True, kw_only=True)
class LabelLogprobs:
    """Next-token log-probabilities of given labels: the primitive of all judging."""

    logprobs: tuple[float, ...]
    """Natural log under the full softmax, in the order of the labels asked for."""
    mass: float
    """The labels' total probability: 1 - mass is what the model would rather say."""


class Engine(Protocol):
    """Every method is async and may be called concurrently; results never depend on what else is in flight."""

    @property
    def name(self) -> str: ...

    @property
    def determinism(self) -> Determinism: ...

    @property
    def context_length(self) -> int: ...

    def describe(self) -> Mapping[str, object]:
        """What a record must say of this engine: model, revision or weight hash, dtype, device."""
        ...

    async def sample(self, prefix: TokenIds, rows: Sequence[Row], usage: RoleUsage) -> list[Continuation]:
        """Draw every row from the same prefix, in one batch. Raises `ContextOverflow` when the prefix fills it."""
        ...

    async def top_tokens(self, prefix: TokenIds, k: int, usage: RoleUsage) -> TopTokens: ...

    async def label_logprobs(
        self, prefixes: Sequence[TokenIds], labels: Sequence[int], usage: RoleUsage
    ) -> list[LabelLogprobs]:
        """One answer a prefix; prefixes that share a beginning share its computation."""
        ...

    async def embed(self, prefix: TokenIds, starts: Sequence[int], usage: RoleUsage) -> NDArray[np.float32]:
        """Last-layer hidden states of `prefix`, averaged over [start, end) for each start: `[len(starts), hidden]`."""
        ...

    def forget(self, prefix: TokenIds, keep: TokenIds | None = None) -> None:
        """A hint, which changes no answer: what follows `prefix` will only be asked for on the way of `keep`.

        With None the prefix itself is over, too. An engine that keeps nothing need not do anything.
        """
        ...
