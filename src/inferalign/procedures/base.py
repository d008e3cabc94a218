"""The procedure contract: prompt in, chosen response with all candidates, scores and usage out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from inferalign.core.errors import InputError
from inferalign.core.types import Piece, Prompt, Result

if TYPE_CHECKING:
    from pathlib import Path

    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat
    from inferalign.procedures.rain_settings import RainSettings
    from inferalign.scorers.base import Scorer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a procedure draws whole answers. Every field is a CLI flag and a TOML key."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int | None = None
    """Keep the k most probable tokens; none keeps all."""
    max_new_tokens: int = 256
    """Tokens an answer may have before it is cut."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}: give 0 (greedy) or more, such as --temperature 0.7")
        for flag, value in (("top-k", self.top_k), ("max-new-tokens", self.max_new_tokens)):
            if value is not None and value < 1:
                raise InputError(f"{flag} is {value}: give at least 1, such as --{flag} 64")


class Procedure(Protocol):
    @property
    def name(self) -> str:
        """The text form that makes it again: `sample`, `best-of-n:4`, `rain`."""
        ...

    def describe(self) -> Mapping[str, object]: ...

    async def __call__(self, prompt: Prompt) -> Result: ...


@runtime_checkable
class Streaming(Procedure, Protocol):
    """A procedure that has parts of its answer before it has the whole."""

    def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Pieces whose texts make up the answer's; the last one has the result."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a procedure may be made of; each takes what it needs."""

    text: str
    """The text form that asked for it."""
    engine: Engine
    chat: ChatFormat
    scorer: Scorer | None
    seed: int
    sampling: Sampling
    rain: RainSettings | None = None
    """Replaces the setting that the text form names."""
    encoder: str | None = None
    """A sentence-transformers model for a search's similarities; none takes the engine's hidden states."""
    trees: Path | None = None
    """A folder in which a search leaves its tree; none leaves none."""
