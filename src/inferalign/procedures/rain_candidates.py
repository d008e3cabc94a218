"""Where RAIN's children come from: token sets proposed from a prefix (arXiv 2309.07124, appendix; published code).

A set of one token is one of the most probable tokens. A longer set is the greedy continuation or a draw from the
top-k distribution at each position; its probability is the product of the renormalised probabilities. Draw j after
the answer-so-far r has the seed (prompt, "candidate", fingerprint of prompt and r, j), so that it does not matter when
a search asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferalign.core.seeds import derive, fingerprint
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.base import Engine, Row
from inferalign.procedures.rain_answer import has_marker
from inferalign.procedures.rain_settings import RainSettings
from inferalign.procedures.rain_tree import Node, Proposal, attach, extend, extend_as_published

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat


@dataclass(frozen=True, kw_only=True)
class Proposer:
    """Proposes the children of the nodes of one prompt's tree. `room` is the most tokens its answer may have."""

    engine: Engine
    chat: ChatFormat
    settings: RainSettings
    seed: int
    prompt_id: str
    prompt_ids: TokenIds
    room: int
    usage: RoleUsage

    async def expand(self, node: Node, reply: TokenIds) -> None:
        """Give `node`, reached by `reply`, its first children."""
        count = self.settings.candidates
        if self.settings.set_length(node.depth) == 1:
            proposals = await self._most_probable(reply, count)
        else:
            proposals = await self._draw(node, reply, range(count), greedy=True)
        node.draws = count
        attach(node, proposals, self.settings)

    async def widen(self, node: Node, reply: TokenIds) -> int:
        """Look for one more child of `node`; returns how many were added."""
        if self.settings.widen_draws == 0:
            return await self._widen_as_published(node, reply)
        known = {proposal.key for proposal in node.proposals}
        draws = range(node.draws, node.draws + self.settings.widen_draws)
        if self.settings.set_length(node.depth) == 1:
            ranked = await self._ranked(reply, draws.stop)
            fresh = ranked[draws.start :]
        else:
            fresh = await self._sets(node, reply, draws, greedy=False)
        for used, (proposal, _) in enumerate(fresh, start=1):
            if proposal.key not in known:
                node.draws += used
                return extend(node, [*node.proposals, proposal], self.settings)
        node.draws, node.exhausted = draws.stop, True
        return 0

    async def _widen_as_published(self, node: Node, reply: TokenIds) -> int:
        if self.settings.set_length(node.depth) == 1:
            proposals = await self._most_probable(reply, len(node.children) + len(node.dropped) + 1)
        else:
            proposals = await self._draw(node, reply, range(node.draws, node.draws + 1), greedy=True)
            node.draws += 1
        return extend_as_published(node, proposals, self.settings)

    async def _most_probable(self, reply: TokenIds, count: int) -> list[Proposal]:
        return _merge(await self._ranked(reply, count))

    async def _ranked(self, reply: TokenIds, count: int) -> list[tuple[Proposal, TokenIds]]:
        """Single tokens by falling probability, without those under the floor."""
        top = await self.engine.top_tokens(self.prompt_ids + reply, count, self.usage)
        floor = top.logprobs[0] + (math.log(self.settings.min_ratio) if self.settings.min_ratio > 0 else -math.inf)
        return [
            self._cut(reply, (token,), (logprob,))
            for token, logprob in zip(top.token_ids, top.logprobs, strict=True)
            if logprob >= floor
        ]

    async def _draw(self, node: Node, reply: TokenIds, draws: range, *, greedy: bool) -> list[Proposal]:
        return _merge(await self._sets(node, reply, draws, greedy=greedy))

    async def _sets(
        self, node: Node, reply: TokenIds, draws: range, *, greedy: bool
    ) -> list[tuple[Proposal, TokenIds]]:
        """Token sets in one batch: with `greedy`, the greedy one first (it stands in for draw 0), then the draws."""
        prefix = self.prompt_ids + reply
        name = fingerprint(prefix)
        length = min(self.settings.set_length(node.depth), self.room - len(reply))
        numbers = [0, *(j for j in draws if j > 0)] if greedy else list(draws)
        rows = [
            Row(
                seed=derive(self.seed, self.prompt_id, "candidate", name, j),
                max_new_tokens=length,
                top_k=self.settings.candidate_top_k,
                greedy=j == 0,
            )
            for j in numbers
        ]
        drawn = await self.engine.sample(prefix, rows, self.usage)
        return [self._cut(reply, row.token_ids, row.logprobs) for row in drawn]

    def _cut(self, reply: TokenIds, tokens: TokenIds, logprobs: Sequence[float]) -> tuple[Proposal, TokenIds]:
        """The set without what follows the end of the answer, and the tokens that its probability stands for.

        Rows are not stopped by the engine: a set that ends must carry the probability of its end, too.
        """
        if not self.settings.cut_at_end:
            return Proposal(tokens, math.exp(sum(logprobs))), tokens
        for i, token in enumerate(tokens):
            drawn = tokens[: i + 1]
            if token in self.chat.end_ids:
                return Proposal(tokens[:i], math.exp(sum(logprobs[: i + 1])), ended=True), drawn
            if has_marker(self.chat, reply + drawn):
                # Kept whole: where the marker begins, in this set or before it, is cut from the answer.
                return Proposal(drawn, math.exp(sum(logprobs[: i + 1])), ended=True), drawn
        return Proposal(tokens, math.exp(sum(logprobs))), tokens


def _merge(drawn: Sequence[tuple[Proposal, TokenIds]]) -> list[Proposal]:
    """One proposal a set, in order of first appearance.

    The same tokens drawn twice count once, since a probability is the model's and not a frequency; two endings that
    leave the same set (two end-of-text tokens) are different events, whose probabilities add.
    """
    seen: set[TokenIds] = set()
    merged: dict[tuple[TokenIds, bool], Proposal] = {}
    for proposal, tokens in drawn:
        if tokens in seen:
            continue
        seen.add(tokens)
        old = merged.get(proposal.key)
        total = proposal.probability + (old.probability if old else 0.0)
        merged[proposal.key] = Proposal(proposal.token_ids, total, proposal.ended)
    return list(merged.values())
