"""The procedure contract: prompt in, chosen response with all candidates, scores and usage out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from inferalign.core.types import Prompt, Result


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a procedure draws whole answers. Every field is a CLI flag and a TOML key."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int | None = None
    """Keep the k most probable tokens; none keeps all."""
    max_new_tokens: int = 256
    """Tokens an answer may have before it is cut."""


class Procedure(Protocol):
    @property
    def name(self) -> str:
        """The text form that makes it again: `sample`, `best-of-n:4`, `rain`."""
        ...

    def describe(self) -> Mapping[str, object]: ...

    async def __call__(self, prompt: Prompt) -> Result: ...
