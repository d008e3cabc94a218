"""One search of RAIN (arXiv 2309.07124): the loop on an engine and a guide, for one prompt.

An inner iteration goes down the tree, continues the leaf to the end of a clause, has the guide score the text so far,
and credits the value back to the root. The outer loop commits the most visited child and searches on from there.
A leaf's children are proposed only when a later iteration comes back to it: draws are keyed by their prefix, so the
tree is the same and fewer are proposed. When the answer's budget runs out, the most visited path is committed as far
as it was visited, and the rest is drawn without search.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from inferalign.core.errors import ContextOverflow, ScoringError
from inferalign.core.seeds import derive, fingerprint
from inferalign.core.types import Completion, Prompt, Score, StopReason, TokenIds, Unscored, Usage
from inferalign.engines.base import Row
from inferalign.procedures.rain_answer import cut_at_end, has_end, has_marker
from inferalign.procedures.rain_budget import Budget, asked_tokens
from inferalign.procedures.rain_candidates import Proposer
from inferalign.procedures.rain_embedding import HiddenStates, SuffixEmbedding
from inferalign.procedures.rain_facts import Facts
from inferalign.procedures.rain_trace import TreeWriter
from inferalign.procedures.rain_tree import (
    Node,
    backup,
    best_child,
    drop_child,
    let_go,
    make_root,
    select_child,
    wants_widening,
)
from inferalign.scorers.base import ContextScorer, Scorer

if TYPE_CHECKING:
    from inferalign.procedures.rain import Rain


class Search:
    """The search of one prompt; single use."""

    def __init__(self, rain: Rain, prompt: Prompt) -> None:
        self.engine, self.chat, self.guide, self.settings = rain.engine, rain.chat, rain.guide, rain.settings
        self.seed, self.prompt, self.max_new_tokens = rain.seed, prompt, rain.max_new_tokens
        self.usage = Usage()
        self.budget = Budget(self.settings, self.usage)
        self.prompt_ids = self.chat.prompt_ids(prompt)
        self.room = self._room()
        self.root = Node(())
        self.committed: TokenIds = ()
        self.proposer = Proposer(
            engine=self.engine,
            chat=self.chat,
            settings=self.settings,
            seed=self.seed,
            prompt_id=prompt.id,
            prompt_ids=self.prompt_ids,
            room=self.room,
            usage=self.usage.generator,
        )
        context = _context(self.guide, prompt, self.prompt_ids)
        # What the judge has just read is not encoded again, whoever judges.
        self.judging = self.guide.engine if isinstance(self.guide, ContextScorer) else self.engine
        self.embedding: SuffixEmbedding = rain.encoder or HiddenStates(self.judging, context)
        self.tree: TreeWriter | None = None
        if rain.trees is not None:
            self.tree = TreeWriter(rain.trees, prompt.id, self.seed, self.settings, self.chat.decode)
        self.verdicts: dict[tuple[TokenIds, bool], Score | Unscored] = {}
        self.facts = Facts()
        self._judged_base = context(())
        self._searched: int | None = None
        self._rest: StopReason | None = None

    def _room(self) -> int:
        """Tokens the answer may have: asked for, left in the model's context, and left beside the guide's template."""
        context = self.engine.context_length
        room = context - len(self.prompt_ids)
        needs, shorter = f"the prompt takes {len(self.prompt_ids)}", "shorten the prompt"
        if isinstance(self.guide, ContextScorer):
            judged = self.guide.room(self.prompt)
            if judged < room:
                context = self.guide.engine.context_length
                room, needs = judged, f"the judge's question about it takes {context - judged}"
                shorter += ", name a shorter self-evaluation template (--scorer FILE.toml)"
        if room < 1:
            raise ContextOverflow(
                f"prompt {self.prompt.id!r} leaves no room for an answer: the model's context has {context} tokens and "
                f"{needs}: {shorter} or use a model with a longer context"
            )
        return min(self.max_new_tokens, room)

    async def run(self) -> Completion:
        """Search until the answer ends."""
        async for _ in self.commits():
            pass
        return self.answer()

    async def commits(self) -> AsyncGenerator[None, None]:
        """Search, coming back whenever `committed` has grown, until the answer ends. It works only while awaited."""
        while self.finished() is StopReason.PARTIAL:
            iterations = await self.deliberate()
            if self.budget.ran_out:
                self._commit_visited(iterations)
                yield
                break
            if self.committed and best_child(self.root) is None:
                break  # what was shown stays: the rest is drawn, since nothing that may follow could be judged
            self.commit(iterations)
            yield
        self._searched = len(self.committed)
        if self.finished() is StopReason.PARTIAL:
            await self._draw_rest()
            yield

    def commit(self, iterations: int) -> None:
        """Make the most visited child of the root part of the answer, and search on from it."""
        child = best_child(self.root)
        if child is None:
            raise ScoringError(
                f"RAIN found no continuation of prompt {self.prompt.id!r} that its guide {self.guide.name!r} could "
                f"judge; the last reason: {self.facts.last_unscored}. Try another --scorer or another --procedure"
            )
        self._take(child, iterations)

    def _take(self, child: Node, iterations: int) -> None:
        self.facts.committed(self.root, child, iterations)
        if self.tree is not None:
            self.tree.commit(self.root, child, iterations)
        for engine, base in ((self.engine, self.prompt_ids), (self.judging, self._judged_base)):
            engine.forget(base + self.committed, child.token_ids)
        self.committed += child.token_ids
        self.root = make_root(self.root, child, self.settings)

    def close(self) -> None:
        """The search is over: its engines may let go of all they hold for it."""
        for engine, base in ((self.engine, self.prompt_ids), (self.judging, self._judged_base)):
            engine.forget(base)
        let_go(self.root)

    def _commit_visited(self, iterations: int) -> None:
        """The most visited path, as far as something was evaluated on it."""
        while self.finished() is StopReason.PARTIAL:
            child = best_child(self.root)
            if child is None or child.own_visits == 0:
                return
            self._take(child, iterations)
            iterations = 0

    async def _draw_rest(self) -> None:
        """The rest of the answer in one plain draw, keyed by what it follows."""
        prefix = self.prompt_ids + self.committed
        row = Row(
            seed=derive(self.seed, self.prompt.id, "rest", fingerprint(prefix)),
            max_new_tokens=self.room - len(self.committed),
            stop_ids=self.chat.end_ids,
            stop_strings=self.chat.stop_strings,
        )
        (rest,) = await self.engine.sample(prefix, [row], self.usage.generator)
        self.committed += rest.token_ids
        self._rest = rest.stop

    async def deliberate(self) -> int:
        """Inner iterations before one commit; returns how many there were (paper, algorithm 1; budget as published).

        There are fewer when the budget of the whole answer runs out (`budget.ran_out`).
        """
        settings, already = self.settings, self.root.own_visits
        budget = max(settings.max_iterations - already, settings.extra_iterations)
        for done in range(1, budget + 1):
            if not self.budget.allows(self.facts.counts["iterations"]):
                return done - 1
            await self.iterate()
            best = best_child(self.root)
            if best and best.own_visits > settings.min_visits and best.value > settings.stop_value:
                self.facts.counts["early_stops"] += 1
                return done
        return budget

    async def iterate(self) -> None:
        self.facts.counts["iterations"] += 1
        node, reply = self.root, self.committed
        while True:
            if node.pending:
                await self.expand(node, reply)
            if not node.children:
                break
            if wants_widening(node, self.settings):
                self.budget.ask(self.prompt_ids, reply)
                self.facts.counts["widenings"] += await self.proposer.widen(node, reply)
                self._drew_children(node, reply)
            node = select_child(node, self.settings.exploration)
            reply += node.token_ids
        await self._evaluate(node, reply)

    async def expand(self, node: Node, reply: TokenIds) -> None:
        self.budget.ask(self.prompt_ids, reply)
        await self.proposer.expand(node, reply)
        self._drew_children(node, reply)
        self.facts.expanded(node)

    def _drew_children(self, node: Node, reply: TokenIds) -> None:
        if self.settings.set_length(node.depth) > 1:  # single tokens are read off, not drawn
            for child in node.children:
                self.budget.drawn(self.prompt_ids, reply + child.token_ids)

    async def _evaluate(self, leaf: Node, reply: TokenIds) -> None:
        """Simulate, judge and back up; a leaf that cannot be judged leaves the tree and credits nobody."""
        tail, ended = ((), True) if leaf.ended else await self._simulate(reply)
        text = reply + tail
        verdict = await self.judge(text, StopReason.END if ended else StopReason.PARTIAL)
        self.facts.judged(verdict)
        if isinstance(verdict, Score):
            backup(leaf, verdict.value, await self._embeddings(leaf, text), self.settings)
        elif leaf.parent is not None:
            if self.tree is not None:
                self.tree.drop(leaf)
            drop_child(leaf)
            return
        # A node whose children all left the tree has proposals already, and is not given the same ones again.
        leaf.pending = not leaf.proposals and not self._closed(leaf, reply)

    def _closed(self, leaf: Node, reply: TokenIds) -> bool:
        """Whether nothing can follow: an ended set, a full answer, or, as published, an end inside the last set."""
        if leaf.ended or len(reply) >= self.room:
            return True
        return not self.settings.cut_at_end and (has_end(self.chat, leaf.token_ids) or has_marker(self.chat, reply))

    async def _simulate(self, reply: TokenIds) -> tuple[TokenIds, bool]:
        """The model's own continuation to the horizon, and whether the answer ended in it."""
        prefix = self.prompt_ids + reply
        pauses = self.chat.clause_end_ids if self.settings.horizon == "clause" else frozenset()
        if prefix[-1] in pauses or len(reply) >= self.room:
            return (), False
        row = Row(
            seed=derive(self.seed, self.prompt.id, "simulate", fingerprint(prefix)),
            max_new_tokens=self.room - len(reply),
            stop_ids=self.chat.end_ids,
            pause_ids=pauses,
            stop_strings=self.chat.stop_strings,
        )
        self.budget.ask(self.prompt_ids, reply)
        (tail,) = await self.engine.sample(prefix, [row], self.usage.generator)
        self.budget.drawn(self.prompt_ids, reply + tail.token_ids)
        return tail.token_ids, tail.stop is StopReason.END

    async def judge(self, reply: TokenIds, stop: StopReason) -> Score | Unscored:
        """The guide's verdict on an answer so far, asked once for each."""
        key = (reply, stop is StopReason.PARTIAL)
        if key not in self.verdicts:
            self.facts.counts["evaluations"] += 1
            ids = self._read(reply)
            completion = Completion(token_ids=ids, text=self.chat.decode(ids), stop=stop)
            before = asked_tokens(self.usage.evaluator)
            (self.verdicts[key],) = await self.guide.score(self.prompt, [completion], self.usage.evaluator)
            context = (self._judged_base, ids) if isinstance(self.guide, ContextScorer) else None
            self.budget.judged(self.usage.evaluator, before, context)
        return self.verdicts[key]

    async def _embeddings(self, leaf: Node, text: TokenIds) -> list[Any]:
        """One unit vector a node of the leaf's path: from its first token to the end of what is read."""
        read = self._read(text)
        kept = [i for i, token in enumerate(text) if token not in self.chat.end_ids][: len(read)]
        position, starts = len(self.committed), []
        for node in leaf.path():
            starts.append(sum(i < position for i in kept))
            position += len(node.token_ids)
        if isinstance(self.embedding, HiddenStates):
            self.budget.ask(self._judged_base, read)
        return await self.embedding.suffixes(read, starts, self.usage.embedder)

    def finished(self) -> StopReason:
        """Why the committed answer is finished; PARTIAL when it is not."""
        over = self.root.ended or has_end(self.chat, self.committed) or has_marker(self.chat, self.committed)
        if over or self._rest is StopReason.END:
            return StopReason.END
        if len(self.committed) >= self.room:
            return StopReason.LENGTH if self.room == self.max_new_tokens else StopReason.CONTEXT
        return self._rest or StopReason.PARTIAL

    def _read(self, reply: TokenIds) -> TokenIds:
        """What a guide is shown of an answer so far."""
        return cut_at_end(self.chat, reply) if self.settings.cut_at_end else self._without_ends(reply)

    def _without_ends(self, reply: TokenIds) -> TokenIds:
        """As published, only the end-of-text tokens themselves go: what was drawn after them is judged, too."""
        return tuple(token for token in reply if token not in self.chat.end_ids)

    def answer(self) -> Completion:
        """What was committed, without what follows its end."""
        ids = cut_at_end(self.chat, self.committed)
        return Completion(token_ids=ids, text=self.chat.decode(ids), stop=self.finished())

    def trace(self) -> dict[str, Any]:
        """Search facts for the record, and which part of the budget ran out, if one did."""
        spent = {
            "ran_out": self.budget.ran_out,
            "searched_tokens": self._searched_tokens(),
            "tokens": self.budget.tokens,
        }
        return {**self.facts.record(), "budget": spent}

    def _searched_tokens(self) -> int:
        """Tokens of the answer that a commit chose; the others were drawn without search."""
        committed = self.committed if self._searched is None else self.committed[: self._searched]
        return min(len(committed), len(self.answer().token_ids))


def _context(guide: Scorer, prompt: Prompt, prompt_ids: TokenIds) -> Callable[[TokenIds], TokenIds]:
    """The ids in which an answer is read: those that the guide judges, if it says so."""
    if isinstance(guide, ContextScorer):
        return partial(guide.context, prompt)
    return lambda reply: prompt_ids + reply
