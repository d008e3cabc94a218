"""The tree of RAIN (arXiv 2309.07124, section 3): selection, backup, sibling credit, priors, widening test, re-rooting.

Pure arithmetic on nodes whose edges are token sets. It knows no engine, no scorer, no text and no clock, so that each
rule can be worked by hand in a test. Values lie in [-1, 1]; embeddings are unit vectors `[dim]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inferalign.core.types import TokenIds
from inferalign.procedures.rain_settings import RainSettings

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Proposal:
    """A candidate token set with its raw probability (not normalised over the candidates)."""

    token_ids: TokenIds
    probability: float
    ended: bool = False
    """The answer ends after these tokens."""

    @property
    def key(self) -> tuple[TokenIds, bool]:
        return self.token_ids, self.ended


@dataclass(eq=False)
class Node:
    token_ids: TokenIds
    depth: int = 0
    prior: float = 1.0
    ended: bool = False
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: float = 0.0
    """Own visits plus fractional credit from similar siblings (n in the paper)."""
    own_visits: int = 0
    """Visits through this node only: early stop and the mean embedding count these."""
    value: float = 0.0
    """Mean value, weighted as `visits` counts."""
    embedding: Vector | None = None
    """Mean over own visits of the embedding of the text from this set to the end of the simulation."""
    pending: bool = False
    """Evaluated, and its children are not proposed yet: a search that never returns here need not propose them."""
    proposals: list[Proposal] = field(default_factory=list)
    """What its children were made from, most recent first in the published rule of widening."""
    draws: int = 0
    """Candidate draws made here, so that widening goes on where the expansion stopped."""
    dropped: set[TokenIds] = field(default_factory=set)
    """Sets of children that could not be judged and left."""
    exhausted: bool = False
    """A widening found nothing new, and looking again would only spend draws (mended rule only)."""

    def path(self) -> list[Node]:
        """The nodes from below the root down to this one."""
        nodes: list[Node] = []
        node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


def select_child(node: Node, exploration: float) -> Node:
    """PUCT with the parent's visits: Q + c p sqrt(n_parent) / (1 + n); ties go to the first child.

    Q is (value + 1) / 2, and 0, the worst, for a child that was never visited (as in the published code).
    """

    def score(child: Node) -> float:
        q = (child.value + 1.0) / 2.0 if child.visits > 0 else 0.0
        return q + exploration * child.prior * math.sqrt(node.visits) / (1.0 + child.visits)

    return max(node.children, key=score)


def best_child(node: Node) -> Node | None:
    """The most visited child, then the one of larger value, then the first: what a commit takes."""
    return max(node.children, key=lambda child: (child.visits, child.value), default=None)


def backup(leaf: Node, value: float, embeddings: Sequence[Vector | None], settings: RainSettings) -> None:
    """Credit `value` to every node from the leaf to the root, and a share of it to similar siblings on the way.

    `embeddings` has one row for each node of `leaf.path()`: the text from that node's first token to the end of the
    evaluated text (None when that is empty). Means of siblings are compared, not the new text (spec of the code).
    """
    for node, embedding in zip(leaf.path(), embeddings, strict=True):
        _visit(node)
        if embedding is not None:
            old = node.embedding
            node.embedding = embedding if old is None else old + (embedding - old) / np.float32(node.own_visits)
        _credit_siblings(node, value, settings)
        node.value += (value - node.value) / node.visits
    root = _root(leaf)
    _visit(root)
    root.value += (value - root.value) / root.visits


def _visit(node: Node) -> None:
    node.own_visits += 1
    node.visits += 1.0


def _credit_siblings(node: Node, value: float, settings: RainSettings) -> None:
    assert node.parent is not None
    for sibling in node.parent.children:
        if sibling is node or sibling.embedding is None or node.embedding is None:
            continue
        similarity = cosine(node.embedding, sibling.embedding)
        if similarity >= settings.sibling_threshold:
            weight = settings.sibling_credit * similarity
            total = sibling.visits + weight
            sibling.value = (sibling.value * sibling.visits + weight * value) / total
            sibling.visits = total


def cosine(a: Vector, b: Vector) -> float:
    scale = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0


def wants_widening(node: Node, settings: RainSettings) -> bool:
    """Whether a search dissatisfied with every child should look for another (paper, section 3.1, dynamic expansion).

    All children visited, all values negative, fewer than the limit, and embeddings that vary little. The norm is that
    of the unbiased variance per dimension. One child has none: the published code never widens there (nan), ours does.
    """
    children = node.children
    if not children or node.exhausted or len(children) >= settings.widen_limit:
        return False
    if any(child.own_visits == 0 for child in children):
        return False
    if max(child.value for child in children) >= 0:
        return False
    embeddings = [child.embedding for child in children if child.embedding is not None]
    if settings.widen_draws == 0 and len(embeddings) < max(2, len(children)):
        return False
    if len(embeddings) < 2:
        return True
    variance = np.stack(embeddings).var(axis=0, ddof=1)
    return float(np.linalg.norm(variance)) < settings.widen_variance * settings.set_length(node.depth)


def clamp_greedy(probabilities: Sequence[float]) -> list[float]:
    """Keep the first (greedy) candidate between the sum of the others and their largest plus smallest (published)."""
    if len(probabilities) < 2:
        return list(probabilities)
    others = probabilities[1:]
    return [max(min(probabilities[0], sum(others)), max(others) + min(others)), *others]


def normalise(probabilities: Sequence[float]) -> list[float]:
    """Divide by the sum; a sum that underflowed to 0 gives the uniform distribution."""
    total = sum(probabilities)
    return [p / total for p in probabilities] if total > 0 else [1.0 / len(probabilities)] * len(probabilities)


def mix_uniform(priors: Sequence[float], share: float) -> list[float]:
    """The root's exploration mix: (1 - share) p + share / n."""
    return [(1.0 - share) * p + share / len(priors) for p in priors]


def attach(node: Node, proposals: Sequence[Proposal], settings: RainSettings) -> None:
    """Make one child of each proposal; priors are normalised, and mixed with the uniform if `node` is the root."""
    for proposal, prior in zip(proposals, _priors(node, proposals, settings), strict=True):
        _add_child(node, proposal, prior)
    # The published widening reads the clamped list again; the mended one starts from the model's probabilities.
    node.proposals = _clamped(node, proposals, settings) if settings.widen_draws == 0 else list(proposals)
    node.pending = False


def extend(node: Node, proposals: Sequence[Proposal], settings: RainSettings) -> int:
    """The mended widening: priors of old and new children come from the whole new list. Returns how many are new."""
    known = {proposal.key for proposal in node.proposals}
    priors = _priors(node, proposals, settings)
    prior_of = {proposal.key: prior for proposal, prior in zip(proposals, priors, strict=True)}
    for child in node.children:
        child.prior = prior_of[child.token_ids, child.ended]
    for proposal in proposals:
        if proposal.key not in known:
            _add_child(node, proposal, prior_of[proposal.key])
    node.proposals = list(proposals)
    return len(proposals) - len(known)


def extend_as_published(node: Node, proposals: Sequence[Proposal], settings: RainSettings) -> int:
    """The published widening: newer proposals go before the older ones, and the first k+1 of all are looked at.

    Those first k+1 are normalised, and the ones that are not yet children are added; priors of the present children
    stay, so that they no longer sum to 1. `proposals` is the new greedy and sampled pair, or, for sets of one token,
    the k+1 most probable; k counts dropped children, too. Returns how many are new.
    """
    before = len(node.children)
    everything = [*_clamped(node, proposals, settings), *node.proposals]
    first = everything[: before + len(node.dropped) + 1]
    priors = _mixed(node, [proposal.probability for proposal in first], settings)
    known = node.dropped | {child.token_ids for child in node.children}
    for proposal, prior in zip(first, priors, strict=True):
        if proposal.token_ids not in known:
            _add_child(node, proposal, prior)
            known.add(proposal.token_ids)
    node.proposals = everything
    return len(node.children) - before


def _priors(node: Node, proposals: Sequence[Proposal], settings: RainSettings) -> list[float]:
    clamped = _clamped(node, proposals, settings)
    return _mixed(node, [proposal.probability for proposal in clamped], settings)


def _clamped(node: Node, proposals: Sequence[Proposal], settings: RainSettings) -> list[Proposal]:
    """Sets of one token are the most probable tokens, none of them drawn: there is nothing to clamp."""
    if settings.set_length(node.depth) == 1:
        return list(proposals)
    probabilities = clamp_greedy([proposal.probability for proposal in proposals])
    return [Proposal(p.token_ids, q, p.ended) for p, q in zip(proposals, probabilities, strict=True)]


def _mixed(node: Node, probabilities: Sequence[float], settings: RainSettings) -> list[float]:
    priors = normalise(probabilities)
    return mix_uniform(priors, settings.root_uniform) if node.parent is None else priors


def _add_child(node: Node, proposal: Proposal, prior: float) -> None:
    child = Node(proposal.token_ids, depth=node.depth + 1, prior=prior, ended=proposal.ended, parent=node)
    node.children.append(child)


def drop_child(child: Node) -> None:
    """Take a child that cannot be judged out of the tree; its set stays known, so it is not added again."""
    assert child.parent is not None
    child.parent.dropped.add(child.token_ids)
    child.parent.children.remove(child)
    child.parent = None


def make_root(root: Node, child: Node, settings: RainSettings) -> Node:
    """Make `child` the root: its subtree is kept, its siblings are let go, its children's priors get the root's mix.

    Mixed first and normalised then, as published: the two orders differ where a widening has left priors over 1.
    """
    let_go(root, keep=child)
    child.parent = None
    if child.children:
        mixed = normalise(mix_uniform([c.prior for c in child.children], settings.root_uniform))
        for grandchild, prior in zip(child.children, mixed, strict=True):
            grandchild.prior = prior
    return child


def let_go(root: Node, keep: Node | None = None) -> None:
    """Take a tree apart, so that its memory is free now and not when cycles are next collected; `keep` stays whole."""
    todo = [root]
    while todo:
        node = todo.pop()
        todo += [child for child in node.children if child is not keep]
        node.parent, node.children = None, []


def _root(node: Node) -> Node:
    while node.parent is not None:
        node = node.parent
    return node
