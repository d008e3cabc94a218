"""Where RAIN's similarities come from: an embedding of each suffix of the text that was just evaluated.

The paper encodes text with a sentence encoder (all-MiniLM-L6-v2). Without one, the engine's own last-layer hidden
states serve: the mean over the suffix's tokens inside the context the guide judges, so that nothing is encoded again.
In large models such means crowd in one direction, so the mean over the context before the answer is subtracted. Both
kinds are scaled to unit length, as the published code's are, which keeps the widening threshold on one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import ModelError
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.base import Engine
from inferalign.procedures.rain_tree import Vector


class SuffixEmbedding(Protocol):
    async def suffixes(self, reply: TokenIds, starts: Sequence[int], usage: RoleUsage) -> list[Vector | None]:
        """Unit vectors of `reply[start:]` for each start; None for an empty suffix."""
        ...


class HiddenStates:
    """The engine's own states. `context` gives the ids in which an answer is read, ending in the answer's ids."""

    def __init__(self, engine: Engine, context: Callable[[TokenIds], TokenIds]) -> None:
        self._engine = engine
        self._context = context
        self._centre: Vector | None = None

    async def suffixes(self, reply: TokenIds, starts: Sequence[int], usage: RoleUsage) -> list[Vector | None]:
        if self._centre is None:
            self._centre = (await self._engine.embed(self._context(()), [0], usage))[0]
        ids = self._context(reply)
        before = len(ids) - len(reply)
        filled = [before + start for start in starts if start < len(reply)]
        if not filled:
            return [None] * len(starts)
        rows = iter(await self._engine.embed(ids, filled, usage) - self._centre)
        return [_unit(next(rows)) if start < len(reply) else None for start in starts]


class SentenceEncoder:
    """Any sentence-transformers model, by directory or hub id: the paper's choice. It reads decoded text."""

    def __init__(self, name: str, decode: Callable[[TokenIds], str]) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise ModelError(
                f"the sentence encoder {name!r} needs a library that is not installed: pip install "
                "sentence-transformers, or leave the encoder out to use the model's own hidden states"
            ) from error
        try:
            self._model: Any = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load the sentence encoder {name!r}: {error}. Give a sentence-transformers directory or hub "
                "id, or leave it out to use the model's own hidden states"
            ) from error
        self._decode = decode
        self.name = name

    async def suffixes(self, reply: TokenIds, starts: Sequence[int], usage: RoleUsage) -> list[Vector | None]:
        texts = [self._decode(reply[start:]) for start in starts if start < len(reply)]
        if not texts:
            return [None] * len(starts)
        usage.forward_calls += 1
        rows = iter(np.asarray(self._model.encode(texts), dtype=np.float32))
        return [_unit(next(rows)) if start < len(reply) else None for start in starts]


def _unit(vector: NDArray[np.float32]) -> Vector:
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm > 0 else vector
