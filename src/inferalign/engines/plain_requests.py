"""What an engine is asked, and the slow and certain way to answer: whole sequences, one at a time, nothing kept.

It is for models that packed passes (`tree_requests`) do not suit, and what they are held against (`packed_check`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol

import torch

from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.drafts import Draft
from inferalign.engines.draws import pick
from inferalign.engines.packed import Fed, Feed


class Requests(Protocol):
    """Generators that end with their answer. `RoleUsage` is charged what each one costs."""

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        """Next-token logits after each prefix, `[len(prefixes), vocab]`."""
        ...

    def grow(self, prefix: TokenIds, drafts: Sequence[Draft], usage: RoleUsage) -> Generator[Feed, Fed, None]:
        """Draw every draft to its end."""
        ...

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        """Last-layer states of `prefix[start:]`, `[n, hidden]`."""
        ...


class PlainRequests:
    """Every request by whole sequences, one at a time: nothing is kept, nothing is shared, nothing can go wrong."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        yield from ()
        return self.all_logits(prefixes, usage)

    def hidden(self, prefix: TokenIds, start: int, usage: RoleUsage) -> Generator[Feed, Fed, torch.Tensor]:
        yield from ()
        states: torch.Tensor = self._run(prefix, usage, hidden=True).hidden_states[-1][0, start:]
        return states

    def grow(self, prefix: TokenIds, drafts: Sequence[Draft], usage: RoleUsage) -> Generator[Feed, Fed, None]:
        yield from ()
        while active := [draft for draft in drafts if draft.stop is None]:
            logits = self.all_logits([prefix + tuple(draft.drawn) for draft in active], usage)
            found = pick(logits, [draft.row for draft in active], [draft.number() for draft in active])
            for draft, (token, logprob) in zip(active, found, strict=True):
                draft.add(token, logprob)
            usage.new_tokens += len(active)

    def all_logits(self, prefixes: Sequence[TokenIds], usage: RoleUsage) -> torch.Tensor:
        return torch.stack([self._run(prefix, usage).logits[0, -1].float() for prefix in prefixes])

    def _run(self, prefix: TokenIds, usage: RoleUsage, *, hidden: bool = False) -> Any:
        usage.tokens_fed += len(prefix)
        usage.forward_calls += 1
        ids = torch.tensor([prefix], device=self._model.device)
        return self._model(input_ids=ids, use_cache=False, output_hidden_states=hidden)
