"""The shipped fake: an engine that answers what it was told to, and refuses what it was not.

Everything is given as a list, used up in order, or as a function of the request. Every request is kept in `requests`.
Nothing is drawn, so seeds, temperatures and filters of a row have no effect; its stop rules do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from inferalign.core.errors import ContextOverflow, EngineError
from inferalign.core.types import Determinism, RoleUsage, StopReason, TokenIds
from inferalign.engines.base import Continuation, LabelLogprobs, Row, TopTokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
Q = TypeVar("Q")

Continuations = Mapping[TokenIds, Sequence[TokenIds]] | Sequence[TokenIds] | Callable[[TokenIds, Row], TokenIds]
"""Token ids by prefix, in order, or by a function. A script's tokens include the one that ends or pauses it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call: the method's name, the prefixes it was given, and its rows, labels or starts."""

    method: str
    prefixes: tuple[TokenIds, ...]
    detail: tuple[object, ...] = ()


class ScriptedEngine:
    """Raises `EngineError`, naming the request, when a script has run out or was not given."""

    name = "scripted"
    determinism = Determinism.EXACT

    def __init__(
        self,
        continuations: Continuations = (),
        *,
        labels: Sequence[Sequence[float]] | Callable[[TokenIds, Sequence[int]], Sequence[float]] = (),
        tops: Sequence[TopTokens] | Callable[[TokenIds, int], TopTokens] = (),
        embeddings: Sequence[Sequence[float]] | Callable[[TokenIds, int], Sequence[float]] = (),
        context_length: int = 4096,
    ) -> None:
        """`labels`: natural-log probabilities a prefix. `embeddings`: one vector a start."""
        by_prefix = {k: iter(v) for k, v in continuations.items()} if isinstance(continuations, Mapping) else None
        self._by_prefix = by_prefix
        self._continue = _script(() if isinstance(continuations, Mapping) else continuations)
        self._labels = _script(labels)
        self._tops = _script(tops)
        self._embeddings = _script(embeddings)
        self.context_length = context_length
        self.requests: list[Request] = []

    def describe(self) -> Mapping[str, object]:
        return {"engine": self.name, "context_length": self.context_length}

    async def sample(self, prefix: TokenIds, rows: Sequence[Row], usage: RoleUsage) -> list[Continuation]:
        request = self._note("sample", (prefix,), tuple(rows), usage)
        if len(prefix) >= self.context_length:
            raise ContextOverflow(
                f"a prefix of {len(prefix)} tokens fills the context of {self.context_length}: shorten it"
            )
        answers = []
        for row in rows:
            if self._by_prefix is None:
                script = self._continue(request, prefix, row)
            else:
                script = _next(self._by_prefix.get(prefix, iter(())), request)
            answers.append(_cut(script, row, self.context_length - len(prefix)))
            usage.new_tokens += len(answers[-1].token_ids)
        return answers

    async def top_tokens(self, prefix: TokenIds, k: int, usage: RoleUsage) -> TopTokens:
        return self._tops(self._note("top_tokens", (prefix,), (k,), usage), prefix, k)

    async def label_logprobs(
        self, prefixes: Sequence[TokenIds], labels: Sequence[int], usage: RoleUsage
    ) -> list[LabelLogprobs]:
        request = self._note("label_logprobs", tuple(prefixes), tuple(labels), usage)
        answers = []
        for prefix in prefixes:
            logprobs = tuple(self._labels(request, prefix, labels))
            if len(logprobs) != len(labels):
                raise EngineError(
                    f"the script gives {len(logprobs)} log-probabilities for {len(labels)} labels: {request}"
                )
            answers.append(LabelLogprobs(logprobs=logprobs, mass=float(np.exp(logprobs).sum())))
        return answers

    async def embed(self, prefix: TokenIds, starts: Sequence[int], usage: RoleUsage) -> NDArray[np.float32]:
        request = self._note("embed", (prefix,), tuple(starts), usage)
        return np.asarray([self._embeddings(request, prefix, start) for start in starts], dtype=np.float32)

    def forget(self, prefix: TokenIds, keep: TokenIds | None = None) -> None:
        """A script keeps nothing."""

    def _note(
        self, method: str, prefixes: tuple[TokenIds, ...], detail: tuple[object, ...], usage: RoleUsage
    ) -> Request:
        request = Request(method=method, prefixes=prefixes, detail=detail)
        self.requests.append(request)
        usage.forward_calls += 1
        return request


def _script(given: Sequence[T] | Callable[..., T]) -> Callable[..., T]:
    """`(request, *arguments) -> answer`, by the function that was given or from the list in order."""
    if callable(given):
        function = given
        return lambda request, *arguments: function(*arguments)
    answers = iter(given)
    return lambda request, *arguments: _next(answers, request)


def _next(answers: Iterator[T], request: Request) -> T:
    try:
        return next(answers)
    except StopIteration:
        raise EngineError(f"the script has no answer left for {request}: give ScriptedEngine more of them") from None


def _cut(script: TokenIds, row: Row, room: int) -> Continuation:
    """The script as far as the row's rules let it; one that ends by itself has ended its answer."""
    kept: TokenIds = ()
    stop = StopReason.END
    for i, token in enumerate(script):
        if i == row.max_new_tokens or i == room:
            stop = StopReason.LENGTH if i == row.max_new_tokens else StopReason.CONTEXT
            break
        if token in row.stop_ids:
            break
        kept += (token,)
        if token in row.pause_ids:
            stop = StopReason.PARTIAL
            break
    else:
        if len(kept) == row.max_new_tokens:
            stop = StopReason.LENGTH
    return Continuation(token_ids=kept, stop=stop, logprobs=(0.0,) * len(kept))
