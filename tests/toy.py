"""A plain engine for tests: every request is computed from nothing, by whatever next-token function it is given.

It is the contract of engines/base.py written as directly as possible, with no store and no batching, so that
procedures can be tested without a model and other engines can be compared with it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache

import numpy as np

from inferalign.core.errors import ContextOverflow
from inferalign.core.seeds import uniforms
from inferalign.core.types import Determinism, Message, Prompt, RoleUsage, StopReason, TokenIds
from inferalign.engines.base import Continuation, LabelLogprobs, Row, TopTokens

Forward = Callable[[TokenIds], tuple[np.ndarray, np.ndarray]]
"""Token ids `[T]` to the last position's logits `[vocab]` and the hidden states `[T, hidden]`."""

END = 3
LETTERS = "abcdefghij ,.AB("


class PlainEngine:
    name = "plain"
    determinism = Determinism.EXACT

    def __init__(self, forward: Forward, decode: Callable[[TokenIds], str], context_length: int = 4096) -> None:
        self.forward = lru_cache(maxsize=None)(forward)
        self.decode = decode
        self.context_length = context_length

    def describe(self) -> Mapping[str, object]:
        return {"engine": self.name}

    async def sample(self, prefix: TokenIds, rows: Sequence[Row], usage: RoleUsage) -> list[Continuation]:
        if len(prefix) >= self.context_length:
            raise ContextOverflow("full")
        return [self._row(prefix, row, usage) for row in rows]

    def _row(self, prefix: TokenIds, row: Row, usage: RoleUsage) -> Continuation:
        tokens: TokenIds = ()
        logprobs: list[float] = []
        for u in uniforms(row.seed, row.max_new_tokens):
            if len(prefix) + len(tokens) >= self.context_length:
                return Continuation(token_ids=tokens, stop=StopReason.CONTEXT, logprobs=tuple(logprobs))
            logits = self.forward(prefix + tokens)[0].astype(np.float64) / row.temperature
            usage.forward_calls += 1
            usage.new_tokens += 1
            ranked = np.lexsort((np.arange(len(logits)), -logits))[: row.top_k]
            kept = np.sort(ranked)
            p = np.exp(logits[kept] - logits[ranked[0]])
            p /= p.sum()
            drawn = min(int(np.searchsorted(np.cumsum(p), u, side="right")), len(p) - 1)
            i = int(np.searchsorted(kept, ranked[0])) if row.greedy else drawn
            token = int(kept[i])
            if token in row.stop_ids:
                return Continuation(token_ids=tokens, stop=StopReason.END, logprobs=tuple(logprobs))
            tokens += (token,)
            logprobs.append(math.log(p[i]))
            text = self.decode(tokens) if row.stop_strings else ""
            if marker := next((m for m in row.stop_strings if m in text), None):
                while len(self.decode(tokens)) > text.index(marker):
                    tokens = tokens[:-1]
                return Continuation(token_ids=tokens, stop=StopReason.END, logprobs=tuple(logprobs[: len(tokens)]))
            if token in row.pause_ids:
                return Continuation(token_ids=tokens, stop=StopReason.PARTIAL, logprobs=tuple(logprobs))
        return Continuation(token_ids=tokens, stop=StopReason.LENGTH, logprobs=tuple(logprobs))

    async def top_tokens(self, prefix: TokenIds, k: int, usage: RoleUsage) -> TopTokens:
        usage.forward_calls += 1
        logprobs = self._logprobs(prefix)
        order = np.lexsort((np.arange(len(logprobs)), -logprobs))[:k]
        return TopTokens(token_ids=tuple(map(int, order)), logprobs=tuple(map(float, logprobs[order])))

    async def label_logprobs(
        self, prefixes: Sequence[TokenIds], labels: Sequence[int], usage: RoleUsage
    ) -> list[LabelLogprobs]:
        usage.forward_calls += len(prefixes)
        answers = []
        for prefix in prefixes:
            chosen = self._logprobs(prefix)[list(labels)]
            answers.append(LabelLogprobs(logprobs=tuple(map(float, chosen)), mass=float(np.exp(chosen).sum())))
        return answers

    async def embed(self, prefix: TokenIds, starts: Sequence[int], usage: RoleUsage) -> np.ndarray:
        usage.forward_calls += 1
        hidden = self.forward(prefix)[1]
        return np.stack([hidden[start:].mean(axis=0) for start in starts]).astype(np.float32)

    def forget(self, prefix: TokenIds, keep: TokenIds | None = None) -> None:
        """Nothing is kept."""

    def _logprobs(self, prefix: TokenIds) -> np.ndarray:
        logits = self.forward(prefix)[0].astype(np.float64)
        shifted = logits - logits.max()
        return shifted - math.log(np.exp(shifted).sum())


class CharChat:
    """One token a character, ids as in ASCII; id 3 ends an answer."""

    end_ids = frozenset({END})
    clause_end_ids = frozenset(map(ord, ",.?:;\n"))
    start_ids: TokenIds = ()
    unsettled_ids = frozenset({END})

    def __init__(self, stop_strings: tuple[str, ...] = ()) -> None:
        self.stop_strings = stop_strings

    def prompt_ids(self, prompt: Prompt) -> TokenIds:
        return self.render(prompt.messages) if prompt.token_ids is None else prompt.token_ids

    def render(self, messages: Sequence[Message]) -> TokenIds:
        return self.encode("".join(f"[{m.role[0]}]{m.content}" for m in messages) + "[a]")

    def encode(self, text: str) -> TokenIds:
        return tuple(text.encode())

    def decode(self, ids: TokenIds) -> str:
        return bytes(ids).decode()

    def label_ids(self, tail: str, labels: Sequence[str]) -> TokenIds:
        assert all(len(label) == 1 for label in labels)
        return tuple(ord(label) for label in labels)


def ngram_forward(
    ids: TokenIds, *, order: int = 2, sharpness: float = 2.0, end: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A made-up language over LETTERS: logits and hidden states depend on the last `order` tokens by hash."""
    logits = np.full(128, -30.0)
    alphabet = [ord(letter) for letter in LETTERS] + [END]
    logits[alphabet] = sharpness * _noise(ids[-order:], len(alphabet))
    logits[END] += end
    hidden = np.stack([np.concatenate([_noise(ids[max(0, i - 1) : i + 1], 8), [5.0]]) for i in range(len(ids))])
    return logits, hidden


@cache
def _noise(ids: TokenIds, n: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(repr(tuple(ids)).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(n)


def a_prompt(text: str = "tell me", name: str = "p1") -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content=text),))
