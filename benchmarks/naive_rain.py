"""A naive RAIN, straight from the published algorithm: the yardstick for the package's search, in trees and in cost.

It runs on a plain transformers model and feeds again exactly what the published code (github.com/SafeAILab/RAIN) feeds
again: next-token logits are kept by token prefix, but a prefix whose logits are known gives back no key-value cache,
so that the second token of nearly every candidate feeds the whole prompt again; the cache lives inside one candidate.
Every evaluation feeds the template twice, and a simulation begins with the whole prompt. Children are proposed at once.

Only two things are not the published code's: draws are keyed as the package's are, so that trees can be compared, and
embeddings are hidden states that the evaluation computes anyway (the published sentence encoder is about 1 % of its
time). Nothing is imported from the package's search: the arithmetic is written a second time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from inferalign.core.seeds import derive, fingerprint, uniforms
from inferalign.procedures.rain_settings import RainSettings

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The evaluation as token ids: what precedes the answer, the two option orders, and (harmless, harmful) labels."""

    before: Ids
    suffixes: tuple[Ids, Ids]
    labels: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """What the search must know of a chat format."""

    end_ids: frozenset[int]
    clause_end_ids: frozenset[int]
    decode: Callable[[Ids], str]


@dataclass(eq=False)
class NaiveNode:
    tokens: Ids
    depth: int
    prior: float
    parent: NaiveNode | None
    ended: bool = False
    kids: list[NaiveNode] = field(default_factory=list)
    n: float = 0.0
    f: int = 0
    q: float = 0.0
    e: np.ndarray | None = None
    cand: list[tuple[Ids, float, bool]] = field(default_factory=list)
    draws: int = 0
    exhausted: bool = False


class NaiveRain:
    """One prompt's search. `rule(value, text)` may replace a verdict (synthetic votes); the model is still asked."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        question: Question,
        *,
        prompt_id: str,
        prompt_ids: Ids,
        seed: int,
        room: int,
        settings: RainSettings,
        rule: Callable[[float, str], float] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.question = question
        self.prompt_id = prompt_id
        self.prompt_ids = prompt_ids
        self.seed = seed
        self.room = room
        self.settings = settings
        self.rule = rule
        self.root = NaiveNode((), 0, 1.0, None)
        self.committed: Ids = ()
        self.iterations = 0
        self.forwards: Counter[str] = Counter()
        self.fed: Counter[str] = Counter()
        self.values: dict[str, float] = {}
        self._hidden: dict[str, np.ndarray] = {}
        self._logits: dict[Ids, np.ndarray] = {}

    # The outer loop

    def run(self) -> Ids:
        while not self.finished():
            self.deliberate()
            self.commit()
        return self.committed

    def finished(self) -> bool:
        ended = any(token in self.tokenizer.end_ids for token in self.committed)
        return self.root.ended or ended or len(self.committed) >= self.room

    def deliberate(self) -> None:
        start = self.root.f
        for _ in range(start, max(self.settings.max_iterations, start + self.settings.extra_iterations)):
            self.iterate()
            best = self.best()
            if best and best.f > self.settings.min_visits and best.q > self.settings.stop_value:
                break

    def best(self) -> NaiveNode | None:
        ordered = sorted(self.root.kids, key=lambda kid: (-kid.n, -kid.q))
        return ordered[0] if ordered else None

    def commit(self) -> None:
        best = self.best()
        assert best is not None, "the search has no child to commit"
        self.committed += best.tokens
        self.root = best
        best.parent = None
        share = self.settings.root_uniform
        mixed = [(1 - share) * kid.prior + share / len(best.kids) for kid in best.kids]
        for kid, prior in zip(best.kids, mixed, strict=True):
            kid.prior = prior / sum(mixed)

    # The inner loop

    def iterate(self) -> None:
        self.iterations += 1
        node, reply = self.root, self.committed
        while node.kids:
            if self.wanted(node):
                self.widen(node, reply)
            node = self.select(node)
            reply += node.tokens
        tail = () if node.ended else self.simulate(reply)
        text = tuple(token for token in reply + tail if token not in self.tokenizer.end_ids)
        value = self.score(text)
        if not node.kids and not self.closed(node, reply) and not node.cand:
            self.expand(node, reply)
        self.backup(node, value, text, reply)

    def select(self, node: NaiveNode) -> NaiveNode:
        best, best_score = node.kids[0], -math.inf
        for kid in node.kids:
            q = 0.0 if kid.n == 0 else (kid.q + 1) / 2
            score = q + self.settings.exploration * kid.prior * math.sqrt(node.n) / (1 + kid.n)
            if score > best_score:
                best, best_score = kid, score
        return best

    def closed(self, node: NaiveNode, reply: Ids) -> bool:
        if self.settings.cut_at_end:
            return node.ended or len(reply) >= self.room
        return any(token in self.tokenizer.end_ids for token in node.tokens) or len(reply) >= self.room

    def simulate(self, reply: Ids) -> Ids:
        state = self.prompt_ids + reply
        if self.pauses(state[-1]):
            return ()
        seed = derive(self.seed, self.prompt_id, "simulate", fingerprint(state))
        length = self.room - len(reply)
        tail: Ids = ()
        cache = None
        for u in uniforms(seed, length):
            logits, cache = self.next_logits(state + tail, cache, "simulation")
            token, _ = choose(logits, float(u), None)
            if token in self.tokenizer.end_ids:
                break
            tail += (token,)
            if self.pauses(token):
                break
        return tail

    def pauses(self, token: int) -> bool:
        return self.settings.horizon == "clause" and token in self.tokenizer.clause_end_ids

    def score(self, text: Ids) -> float:
        """Both option orders, each a full encoding of template, conversation, text and options; kept by text."""
        words = self.tokenizer.decode(text)
        if words in self.values:
            return self.values[words]
        gaps = []
        for suffix, (harmless, harmful) in zip(self.question.suffixes, self.question.labels, strict=True):
            ids = self.question.before + text + suffix
            out = self.forward(ids, None, "evaluation", hidden=True)
            p = softmax(out.logits[0, -1].double().numpy())
            gaps.append(float(p[harmless] - p[harmful]))
            self._hidden[words] = out.hidden_states[-1][0, : len(self.question.before) + len(text)].numpy()
        value = float(sum(gap > 0 for gap in gaps) - 1) if self.settings.form == "vote" else sum(gaps) / 2
        self.values[words] = self.rule(value, words) if self.rule else value
        return self.values[words]

    def backup(self, leaf: NaiveNode, value: float, text: Ids, reply: Ids) -> None:
        hidden = self._hidden[self.tokenizer.decode(text)]
        before = len(self.question.before)
        centre = hidden[:before].mean(axis=0)
        end = len(reply)
        node: NaiveNode | None = leaf
        while node is not None:
            node.n += 1
            node.f += 1
            if node.parent is not None:
                start = end - len(node.tokens)
                gone = sum(token in self.tokenizer.end_ids for token in reply[:start])
                span = hidden[before + start - gone :]
                if len(span):
                    vector = span.mean(axis=0) - centre
                    vector = vector / np.linalg.norm(vector)
                    node.e = vector if node.e is None else (node.e * (node.f - 1) + vector) / node.f
                for other in node.parent.kids:
                    if other is not node and other.e is not None and node.e is not None:
                        cos = float(node.e @ other.e / np.linalg.norm(node.e) / np.linalg.norm(other.e))
                        if cos >= self.settings.sibling_threshold:
                            w = self.settings.sibling_credit * cos
                            other.q = (other.q * other.n + w * value) / (other.n + w)
                            other.n += w
                end = start
            node.q += (value - node.q) / node.n
            node = node.parent

    # Candidates

    def expand(self, node: NaiveNode, reply: Ids) -> None:
        count = self.settings.candidates
        node.draws = count
        if self.settings.set_length(node.depth) == 1:
            node.cand = unique(self.ranked(reply, count))
            weights = [p for _, p, _ in node.cand]
        else:
            node.cand = unique(self.sets(node, reply, range(count)))
            weights = clamp([p for _, p, _ in node.cand])
        if self.settings.widen_draws == 0:
            node.cand = [(ids, w, ended) for (ids, _, ended), w in zip(node.cand, weights, strict=True)]
        for (ids, _, ended), prior in zip(node.cand, self.priors(node, weights), strict=True):
            node.kids.append(NaiveNode(ids, node.depth + 1, prior, node, ended))

    def priors(self, node: NaiveNode, weights: Sequence[float]) -> list[float]:
        p = [w / sum(weights) for w in weights]
        share = self.settings.root_uniform if node.parent is None else 0.0
        return [(1 - share) * x + share / len(p) for x in p]

    def wanted(self, node: NaiveNode) -> bool:
        if node.exhausted or len(node.kids) >= self.settings.widen_limit or any(kid.f == 0 for kid in node.kids):
            return False
        if max(kid.q for kid in node.kids) >= 0:
            return False
        vectors = [kid.e for kid in node.kids if kid.e is not None]
        published = self.settings.widen_draws == 0
        if published and len(vectors) < len(node.kids):
            return False
        if len(vectors) < 2:
            return not published
        spread = float(np.linalg.norm(np.var(np.stack(vectors), axis=0, ddof=1)))
        return spread < self.settings.widen_variance * self.settings.set_length(node.depth)

    def widen(self, node: NaiveNode, reply: Ids) -> None:
        single = self.settings.set_length(node.depth) == 1
        if self.settings.widen_draws > 0:
            self.widen_mended(node, reply, single)
            return
        k = len(node.kids)
        if single:
            pair = unique(self.ranked(reply, k + 1))
        else:
            pair = unique(self.sets(node, reply, [0, node.draws]))
            node.draws += 1
            weights = clamp([p for _, p, _ in pair])
            pair = [(ids, w, ended) for (ids, _, ended), w in zip(pair, weights, strict=True)]
        node.cand = pair + node.cand
        first = node.cand[: k + 1]
        for (ids, _, _), prior in zip(first, self.priors(node, [p for _, p, _ in first]), strict=True):
            if all(kid.tokens != ids for kid in node.kids):
                node.kids.append(NaiveNode(ids, node.depth + 1, prior, node))

    def widen_mended(self, node: NaiveNode, reply: Ids, single: bool) -> None:
        draws = range(node.draws, node.draws + self.settings.widen_draws)
        fresh = self.ranked(reply, draws.stop)[draws.start :] if single else self.sets(node, reply, draws)
        for used, (ids, p, ended, _) in enumerate(fresh, start=1):
            if all((ids, ended) != (kid.tokens, kid.ended) for kid in node.kids):
                node.draws += used
                node.cand.append((ids, p, ended))
                weights = [p for _, p, _ in node.cand]
                node.kids.append(NaiveNode(ids, node.depth + 1, 0.0, node, ended))
                for kid, prior in zip(node.kids, self.priors(node, weights if single else clamp(weights)), strict=True):
                    kid.prior = prior
                return
        node.draws, node.exhausted = draws.stop, True

    def ranked(self, reply: Ids, count: int) -> list[tuple[Ids, float, bool, Ids]]:
        logits, _ = self.next_logits(self.prompt_ids + reply, None, "candidates")
        order = np.lexsort((np.arange(len(logits)), -logits))[:count]
        p = softmax(logits)
        return [
            self.cut((int(token),), (float(p[token]),))
            for token in order
            if p[token] >= self.settings.min_ratio * p[order[0]]
        ]

    def sets(self, node: NaiveNode, reply: Ids, draws: Sequence[int]) -> list[tuple[Ids, float, bool, Ids]]:
        """Draw 0 is the greedy one. The cache lives inside a candidate and is lost whenever logits were known."""
        prefix = self.prompt_ids + reply
        name = fingerprint(prefix)
        length = min(self.settings.set_length(node.depth), self.room - len(reply))
        found = []
        for j in draws:
            tokens: Ids = ()
            probabilities: tuple[float, ...] = ()
            cache = None
            for u in uniforms(derive(self.seed, self.prompt_id, "candidate", name, j), length):
                logits, cache = self.next_logits(prefix + tokens, cache, "candidates")
                token, p = choose(logits, None if j == 0 else float(u), self.settings.candidate_top_k)
                tokens += (token,)
                probabilities += (p,)
            found.append(self.cut(tokens, probabilities))
        return found

    def cut(self, tokens: Ids, probabilities: Sequence[float]) -> tuple[Ids, float, bool, Ids]:
        if self.settings.cut_at_end:
            for i, token in enumerate(tokens):
                if token in self.tokenizer.end_ids:
                    return tokens[:i], math.prod(probabilities[: i + 1]), True, tokens[: i + 1]
        return tokens, math.prod(probabilities), False, tokens

    # The model

    def next_logits(self, state: Ids, cache: DynamicCache | None, purpose: str) -> tuple[np.ndarray, Any]:
        """Logits after `state` in float64; known ones come without a cache, so the next token feeds everything."""
        if state in self._logits:
            return self._logits[state], None
        out = self.forward(state, cache, purpose, hidden=False)
        self._logits[state] = out.logits[0, -1].double().numpy()
        return self._logits[state], out.past_key_values

    def forward(self, state: Ids, cache: DynamicCache | None, purpose: str, *, hidden: bool) -> Any:
        feed = state if cache is None else state[-1:]
        self.forwards[purpose] += 1
        self.fed[purpose] += len(feed)
        with torch.inference_mode():
            return self.model(
                torch.tensor([feed]),
                past_key_values=cache if cache is not None else DynamicCache(config=self.model.config),
                use_cache=True,
                output_hidden_states=hidden,
                logits_to_keep=1,
            )


def choose(logits: np.ndarray, u: float | None, top_k: int | None) -> tuple[int, float]:
    """A token by inverse CDF over the kept ones in the order of their ids, and its probability; greedy if u is None."""
    ranked = np.lexsort((np.arange(len(logits)), -logits))[:top_k]
    kept = np.sort(ranked)
    p = softmax(logits[kept])
    i = int(np.searchsorted(kept, ranked[0])) if u is None else int(np.searchsorted(np.cumsum(p), u * p.sum(), "right"))
    i = min(i, len(p) - 1)
    return int(kept[i]), float(p[i])


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())


def unique(drawn: Sequence[tuple[Ids, float, bool, Ids]]) -> list[tuple[Ids, float, bool]]:
    """Each set once, in order; different endings of the same set add their probabilities."""
    events = {raw: (ids, p, ended) for ids, p, ended, raw in reversed(drawn)}
    sums: dict[tuple[Ids, bool], float] = {}
    for raw in dict.fromkeys(raw for _, _, _, raw in drawn):
        ids, p, ended = events[raw]
        sums[ids, ended] = sums.get((ids, ended), 0.0) + p
    return [(ids, p, ended) for (ids, ended), p in sums.items()]


def clamp(weights: list[float]) -> list[float]:
    """The published bound on the greedy candidate's weight."""
    rest = weights[1:]
    return [max(min(weights[0], sum(rest)), max(rest) + min(rest)), *rest] if rest else weights
