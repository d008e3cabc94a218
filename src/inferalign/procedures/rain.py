"""RAIN (arXiv 2309.07124): a frozen model searches, judges its own partial answers, rewinds, and commits.

The loop on an engine and a guide; the arithmetic is in rain_tree, the candidates in rain_candidates. An inner
iteration goes down the tree, continues the leaf to the end of a clause, has the guide score the text so far, and
credits the value back to the root. The outer loop commits the most visited child and searches on from there.
A leaf's children are proposed only when a later iteration comes back to it: draws are keyed by their prefix, so the
tree is the same and fewer are proposed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

from inferalign.core.errors import ContextOverflow, InputError, ScoringError
from inferalign.core.seeds import derive, fingerprint
from inferalign.core.types import Candidate, Completion, Prompt, Result, Score, StopReason, TokenIds, Unscored, Usage
from inferalign.engines.base import Engine, Row
from inferalign.procedures.base import Parts, Sampling
from inferalign.procedures.rain_candidates import Proposer
from inferalign.procedures.rain_embedding import HiddenStates, SentenceEncoder, SuffixEmbedding
from inferalign.procedures.rain_settings import DEFAULT, SETTINGS, RainSettings
from inferalign.procedures.rain_tree import (
    Node,
    backup,
    best_child,
    drop_child,
    make_root,
    select_child,
    wants_widening,
)
from inferalign.scorers.base import ContextScorer, Scorer

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat


class Rain:
    """The procedure `rain` (or `rain:paper`): `await rain(prompt)` gives one searched answer."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        guide: Scorer,
        *,
        seed: int,
        sampling: Sampling,
        settings: RainSettings = DEFAULT,
        name: str = "rain",
        encoder: SentenceEncoder | None = None,
    ) -> None:
        self.engine = engine
        self.chat = chat
        self.guide = guide
        self.seed = seed
        self.max_new_tokens = sampling.max_new_tokens
        self.settings = settings
        self.encoder = encoder
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def describe(self) -> Mapping[str, object]:
        return {
            "procedure": self.name,
            "settings": asdict(self.settings),
            "max_new_tokens": self.max_new_tokens,
            "guide": self.guide.describe(),
            "embedding": self.encoder.name if self.encoder else "engine hidden states, centred on the context",
        }

    async def __call__(self, prompt: Prompt) -> Result:
        """Raises `ContextOverflow` when no token fits, `ScoringError` when no continuation could be judged."""
        started = perf_counter()
        search = Search(self, prompt)
        completion = await search.run()
        verdict = await search.judge(completion.token_ids, completion.stop)
        return Result(
            prompt=prompt,
            candidates=(Candidate(completion=completion, score=verdict),),
            chosen=0,
            usage=search.usage,
            seconds=perf_counter() - started,
            trace=search.trace(),
        )


class Search:
    """The search of one prompt; single use."""

    def __init__(self, rain: Rain, prompt: Prompt) -> None:
        self.engine, self.chat, self.guide, self.settings = rain.engine, rain.chat, rain.guide, rain.settings
        self.seed, self.prompt, self.max_new_tokens = rain.seed, prompt, rain.max_new_tokens
        self.usage = Usage()
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
        self.embedding: SuffixEmbedding = rain.encoder or HiddenStates(self.engine, self._context)
        self.verdicts: dict[tuple[TokenIds, bool], Score | Unscored] = {}
        self._counts: Counter[str] = Counter()
        self._histogram: Counter[str] = Counter()
        self._children: list[int] = []
        self._commits: list[dict[str, Any]] = []
        self._last_unscored = "nothing was evaluated"

    def _room(self) -> int:
        """Tokens the answer may have: asked for, left in the model's context, and left beside the guide's template."""
        context = self.engine.context_length
        room = context - len(self.prompt_ids)
        needs = f"the prompt takes {len(self.prompt_ids)}"
        if isinstance(self.guide, ContextScorer):
            judged = self.guide.room(self.prompt)
            if judged < room:
                room, needs = judged, f"the judge's question about it takes {context - judged}"
        if room < 1:
            raise ContextOverflow(
                f"prompt {self.prompt.id!r} leaves no room for an answer: the model's context has {context} tokens and "
                f"{needs}: shorten the prompt or use a model with a longer context"
            )
        return min(self.max_new_tokens, room)

    def _context(self, reply: TokenIds) -> TokenIds:
        return (
            self.guide.context(self.prompt, reply) if isinstance(self.guide, ContextScorer) else self.prompt_ids + reply
        )

    async def run(self) -> Completion:
        """Commit token sets until the answer ends."""
        while (stop := self.finished()) is StopReason.PARTIAL:
            await self.commit(await self.deliberate())
        return self._answer(stop)

    async def commit(self, iterations: int) -> None:
        """Make the most visited child of the root part of the answer, and search on from it."""
        if self.root.pending:
            await self.expand(self.root, self.committed)
        child = best_child(self.root)
        if child is None:
            raise ScoringError(
                f"RAIN found no continuation of prompt {self.prompt.id!r} that its guide {self.guide.name!r} could "
                f"judge; the last reason: {self._last_unscored}. Try another --scorer or another --procedure"
            )
        self._commits.append(
            {
                "tokens": len(child.token_ids),
                "visits": child.own_visits,
                "value": child.value,
                "iterations": iterations,
                "children": len(self.root.children),
            }
        )
        self.committed += child.token_ids
        self.root = make_root(self.root, child, self.settings)

    async def deliberate(self) -> int:
        """Inner iterations before one commit; returns how many there were (paper, algorithm 1; budget as published)."""
        settings, already = self.settings, self.root.own_visits
        budget = max(settings.max_iterations - already, settings.extra_iterations)
        for done in range(1, budget + 1):
            await self.iterate()
            best = best_child(self.root)
            if best and best.own_visits > settings.min_visits and best.value > settings.stop_value:
                self._counts["early_stops"] += 1
                return done
        return budget

    async def iterate(self) -> None:
        self._counts["iterations"] += 1
        node, reply = self.root, self.committed
        while True:
            if node.pending:
                await self.expand(node, reply)
            if not node.children:
                break
            if wants_widening(node, self.settings):
                self._counts["widenings"] += await self.proposer.widen(node, reply)
            node = select_child(node, self.settings.exploration)
            reply += node.token_ids
        await self._evaluate(node, reply)

    async def expand(self, node: Node, reply: TokenIds) -> None:
        await self.proposer.expand(node, reply)
        self._counts["expansions"] += 1
        self._children.append(len(node.children))

    async def _evaluate(self, leaf: Node, reply: TokenIds) -> None:
        """Simulate, judge and back up; a leaf that cannot be judged leaves the tree and credits nobody."""
        tail, ended = ((), True) if leaf.ended else await self._simulate(reply)
        text = reply + tail
        verdict = await self.judge(text, StopReason.END if ended else StopReason.PARTIAL)
        if isinstance(verdict, Score):
            self._histogram[f"{round(verdict.value * 4) / 4:+.2f}"] += 1
            backup(leaf, verdict.value, await self._embeddings(leaf, text), self.settings)
        else:
            self._counts[f"unscored_{verdict.blame}"] += 1
            self._last_unscored = verdict.reason
            if leaf.parent is not None:
                drop_child(leaf)
                return
        # A node whose children all left the tree has proposals already, and is not given the same ones again.
        leaf.pending = not leaf.proposals and not self._closed(leaf, reply)

    def _closed(self, leaf: Node, reply: TokenIds) -> bool:
        """Whether nothing can follow: an ended set, a full answer, or, as published, an end inside the last set."""
        if leaf.ended or len(reply) >= self.room:
            return True
        return not self.settings.cut_at_end and (self._has_end(leaf.token_ids) or self._has_marker(reply))

    async def _simulate(self, reply: TokenIds) -> tuple[TokenIds, bool]:
        """The model's own continuation to the end of a clause (published code), and whether the answer ended in it."""
        prefix = self.prompt_ids + reply
        if prefix[-1] in self.chat.clause_end_ids or len(reply) >= self.room:
            return (), False
        row = Row(
            seed=derive(self.seed, self.prompt.id, "simulate", fingerprint(prefix)),
            max_new_tokens=self.room - len(reply),
            stop_ids=self.chat.end_ids,
            pause_ids=self.chat.clause_end_ids,
            stop_strings=self.chat.stop_strings,
        )
        (tail,) = await self.engine.sample(prefix, [row], self.usage.generator)
        return tail.token_ids, tail.stop is StopReason.END

    async def judge(self, reply: TokenIds, stop: StopReason) -> Score | Unscored:
        """The guide's verdict on an answer so far, asked once for each."""
        key = (reply, stop is StopReason.PARTIAL)
        if key not in self.verdicts:
            self._counts["evaluations"] += 1
            ids = self._without_ends(reply)
            completion = Completion(token_ids=ids, text=self.chat.decode(ids), stop=stop)
            (self.verdicts[key],) = await self.guide.score(self.prompt, [completion], self.usage.evaluator)
        return self.verdicts[key]

    async def _embeddings(self, leaf: Node, text: TokenIds) -> list[Any]:
        """One unit vector a node of the leaf's path: from its first token to the end of `text`, without end tokens."""
        kept = [i for i, token in enumerate(text) if token not in self.chat.end_ids]
        position, starts = len(self.committed), []
        for node in leaf.path():
            starts.append(sum(i < position for i in kept))
            position += len(node.token_ids)
        return await self.embedding.suffixes(tuple(text[i] for i in kept), starts, self.usage.embedder)

    def finished(self) -> StopReason:
        """Why the committed answer is finished; PARTIAL when it is not."""
        if self.root.ended or self._has_end(self.committed) or self._has_marker(self.committed):
            return StopReason.END
        if len(self.committed) >= self.room:
            return StopReason.LENGTH if self.room == self.max_new_tokens else StopReason.CONTEXT
        return StopReason.PARTIAL

    def _has_end(self, tokens: TokenIds) -> bool:
        return any(token in self.chat.end_ids for token in tokens)

    def _has_marker(self, tokens: TokenIds) -> bool:
        if not self.chat.stop_strings:
            return False
        text = self.chat.decode(tokens)
        return any(marker in text for marker in self.chat.stop_strings)

    def _without_ends(self, reply: TokenIds) -> TokenIds:
        """As published, only the end-of-text tokens themselves go: what was drawn after them is judged, too."""
        return tuple(token for token in reply if token not in self.chat.end_ids)

    def _answer(self, stop: StopReason) -> Completion:
        """What was committed, without what follows its end: an end token or the marker of the next user turn."""
        ids = self.committed
        for i, token in enumerate(ids):
            if token in self.chat.end_ids:
                ids = ids[:i]
                break
        text = self.chat.decode(ids)
        starts = [text.index(marker) for marker in self.chat.stop_strings if marker in text]
        while starts and len(self.chat.decode(ids)) > min(starts):
            ids = ids[:-1]
        return Completion(token_ids=ids, text=self.chat.decode(ids), stop=stop)

    def trace(self) -> dict[str, Any]:
        """Search facts for the record; `children` are distinct children an expansion gave (spec: watch for few)."""
        return {
            "iterations": self._counts["iterations"],
            "evaluations": self._counts["evaluations"],
            "expansions": self._counts["expansions"],
            "widenings": self._counts["widenings"],
            "early_stops": self._counts["early_stops"],
            "unscored": {blame: self._counts[f"unscored_{blame}"] for blame in ("response", "judge")},
            "children": sum(self._children) / len(self._children) if self._children else None,
            "values": dict(sorted(self._histogram.items(), key=lambda item: float(item[0]))),
            "commits": self._commits,
        }


def make(parts: Parts, setting: str) -> Rain:
    """The search that `rain` or `rain:paper` names; a self-judge is read in the form that its setting wants."""
    from inferalign.scorers.self_eval import SelfEval

    guide, sampling, settings = parts.scorer, parts.sampling, parts.rain or SETTINGS[setting]
    if guide is None:
        raise InputError(f"{parts.text} needs a guide to search by and got none: give --scorer self")
    if sampling.temperature != 1.0 or sampling.top_k is not None:
        raise InputError(
            f"{parts.text} draws its candidates by its own settings; it was given temperature {sampling.temperature} "
            f"and top-k {sampling.top_k}: leave out --temperature and --top-k"
        )
    return Rain(
        parts.engine,
        parts.chat,
        guide.with_form(settings.form) if isinstance(guide, SelfEval) else guide,
        seed=parts.seed,
        sampling=sampling,
        settings=settings,
        name=parts.text,
        encoder=SentenceEncoder(parts.encoder, parts.chat.decode) if parts.encoder else None,
    )
