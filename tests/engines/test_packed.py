"""Packed passes against the formula and against whole forwards of the plain model, whatever shares the pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inferalign.core.errors import EngineError
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines import lane_attention
from inferalign.engines.base import Row
from inferalign.engines.draws import draw
from inferalign.engines.lane_attention import BLOCK, LONG, attend, causal_mask, merge, plain_attention
from inferalign.engines.lanes import Lane, Trunk
from inferalign.engines.packed import Fed, Feed, PackedModel

SCALE = 0.37
"""Not 1 / sqrt(head_dim): a scale that is ignored must show."""
HEADS = [(4, 4), (4, 2), (6, 1)]
KINDS = ["plain", "masked", "causal", "causal behind others", "one query", "long"]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}

Part = tuple[torch.Tensor, torch.Tensor]


class Case(NamedTuple):
    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    allowed: torch.Tensor
    """`[n, S]`: which keys each query sees."""
    mask: torch.Tensor | None
    causal: bool


def case(kind: str, heads: int, kv_heads: int, dtype: torch.dtype) -> Case:
    generator = torch.Generator().manual_seed(hash((heads, kv_heads)) % 1000)
    sizes = {"causal": (5, 5), "one query": (1, 9), "long": (BLOCK + 3, LONG + 1)}
    count, total = sizes.get(kind, (5, 12))
    query = torch.randn(1, heads, count, 16, generator=generator).to(dtype)
    keys, values = torch.randn(2, kv_heads, total, 16, generator=generator).to(dtype)
    allowed = torch.ones(count, total, dtype=torch.bool)
    if kind.startswith("causal"):
        allowed = torch.tensor([[s <= i + total - count for s in range(total)] for i in range(count)])
    elif kind == "masked":
        allowed = torch.rand(count, total, generator=generator) < 0.5
        allowed[:, 3] = True  # a token sees itself at least
    mask = torch.zeros(count, total, dtype=dtype).masked_fill(~allowed, -torch.inf) if kind == "masked" else None
    return Case(query, keys, values, allowed, mask, kind.startswith("causal"))


def formula(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, allowed: torch.Tensor) -> Part:
    """Softmax attention in float64, head by head; query head h reads key head h // share."""
    share = query.shape[1] // keys.shape[0]
    outs, sums = [], []
    for h in range(query.shape[1]):
        scores = query[0, h].double() @ keys[h // share].double().T * SCALE
        weights = scores.exp() * allowed
        outs.append(weights @ values[h // share].double() / weights.sum(dim=1, keepdim=True))
        sums.append(weights.sum(dim=1).log())
    return torch.stack(outs)[None], torch.stack(sums)[None]


def assert_close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_and_its_log_sum_exp_are_the_formula(
    kind: str, heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    query, keys, values, allowed, mask, causal = case(kind, heads, kv_heads, dtype)
    found = attend(query, keys[None], values[None], mask, SCALE, causal=causal)
    assert found[0].dtype == dtype
    assert found[0].shape == query.shape
    assert_close(found, formula(query, keys, values, allowed), dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_without_a_kernel_is_the_formula(kind: str, dtype: torch.dtype) -> None:
    query, keys, values, allowed, mask, causal = case(kind, 4, 4, dtype)
    if causal:
        mask = causal_mask(query.shape[2], keys.shape[1] - query.shape[2], query)
    found = plain_attention(query, keys[None], values[None], mask, SCALE)
    assert found[0].dtype == dtype
    assert_close(found, formula(query, keys, values, allowed), dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("cut", [1, 4, 11])
def test_two_parts_merge_to_attention_over_both(cut: int, heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    query, keys, values, allowed, _, _ = case("causal behind others", heads, kv_heads, dtype)
    allowed[:, :cut] = True  # the trunk is seen by all
    allowed[:, -1] = True
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -torch.inf)
    first = attend(query, keys[None, :, :cut], values[None, :, :cut], None, SCALE)
    second = attend(query, keys[None, :, cut:], values[None, :, cut:], mask[:, cut:].contiguous(), SCALE)
    expected, _ = formula(query, keys, values, allowed)
    assert_close([merge(first, second), merge(second, first)], [expected, expected], dtype)


def test_a_part_that_weighs_nothing_leaves_the_other() -> None:
    """Log-sum-exps far apart must not overflow."""
    a, b = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    for gap in (300.0, 1e4):
        assert torch.equal(merge((a, torch.full((1, 1, 1), gap)), (b, torch.zeros(1, 1, 1))), a)
        assert torch.equal(merge((a, torch.zeros(1, 1, 1)), (b, torch.full((1, 1, 1), gap))), b)


# ---- PackedModel


RULES: list[dict[str, Any]] = [{}, {"top_k": 4}, {"greedy": True}]


class Wanted(NamedTuple):
    """A feed, and what it must give: the whole sequence that each of its tokens, and each known state, ends."""

    feed: Feed
    tokens: list[TokenIds]
    states: list[TokenIds]


class Packing:
    """A model, plain and packed, and lanes for it."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.packed = PackedModel(self.model)
        self.vocabulary: int = self.model.config.vocab_size
        self.trunks: dict[TokenIds, Trunk] = {}

    def plain(self, sequence: TokenIds) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[T, vocab]` and last states `[T, hidden]` of a whole forward."""
        with torch.inference_mode():
            out = self.model(torch.tensor([sequence]), output_hidden_states=True, use_cache=False)
        return out.logits[0], out.hidden_states[-1][0]

    def run(self, feeds: Sequence[Feed]) -> list[Fed]:
        """A pass in which nothing fails to be drawn."""
        with torch.inference_mode():
            results = self.packed.run(feeds)
        assert all(isinstance(fed, Fed) for fed in results)
        return results  # type: ignore[return-value]

    def empty(self, trunk: Trunk | None = None) -> Lane:
        layers, heads, dim = self.packed.shape
        return Lane(torch.full((layers, 2, heads, 4, dim), torch.nan), trunk)

    def filled(self, known: TokenIds) -> Lane:
        lane = self.empty()
        if known:
            self.run([chain(lane, known, 0)])
        return lane

    def on_trunk(self, known: TokenIds, shared: int) -> Lane:
        """A lane that holds `known`, its first `shared` tokens in a trunk that is made once."""
        whole = self.filled(known)
        if known[:shared] not in self.trunks:
            self.trunks[known[:shared]] = Trunk(known[:shared], whole.kv[..., :shared, :].clone())
        lane = self.empty(self.trunks[known[:shared]])
        lane.reserve(len(known) - shared)
        lane.write(whole.kv[..., shared : len(known), :], 0)
        lane.length = len(known) - shared
        return lane

    def tokens(self, seed: int, count: int) -> TokenIds:
        return tuple(int(i) for i in np.random.default_rng(seed).integers(0, self.vocabulary, count))


def chain(lane: Lane, tokens: TokenIds, depth: int, wanted: Sequence[int] = ()) -> Feed:
    positions = np.arange(depth, depth + len(tokens))
    lane.reserve(lane.length + len(tokens))
    return Feed(lane=lane, usage=RoleUsage(), token_ids=list(tokens), positions=positions, wanted=wanted)


def chain_case(packing: Packing, seed: int, held: int, fed: int, shared: int = 0) -> Wanted:
    """`fed` tokens behind `held`; lanes with `shared` begin alike."""
    whole = (packing.tokens(99, shared) if shared else ()) + packing.tokens(seed, held + fed - shared)
    known = whole[:held]
    lane = packing.on_trunk(known, shared) if shared else packing.filled(known)
    wanted = {1: [0], 3: [2, 0, 1]}.get(fed, [fed - 1, 0])  # all in another order, or only some
    feed = chain(lane, whole[held:], held, wanted=wanted)
    return Wanted(feed, [whole[: held + i + 1] for i in range(fed)], [])


def tree_case(packing: Packing, seed: int, held: int, shared: int = 0) -> Wanted:
    """Two first tokens and, below the second of them, two more, behind `held`: a token sees its own branch only."""
    known = (packing.tokens(99, shared) if shared else ()) + packing.tokens(seed, held - shared)
    lane = packing.on_trunk(known, shared) if shared else packing.filled(known)
    a, b, c, d = packing.tokens(seed + 1, 4)
    sees = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    mask = torch.zeros(4, lane.length + 4)
    mask[:, lane.length :].masked_fill_(~sees, -torch.inf)
    feed = chain(lane, (a, b, c, d), held, wanted=range(4))
    feed.positions, feed.mask = np.array([held, held, held + 1, held + 1]), mask
    return Wanted(feed, [(*known, a), (*known, b), (*known, b, c), (*known, b, d)], [])


def state_case(packing: Packing, seed: int, fed: int) -> Wanted:
    """Known states whose logits are wanted, beside `fed` tokens: with none, the feed is no part of the pass."""
    first, second, known = packing.tokens(seed, 6), packing.tokens(seed + 1, 3), packing.tokens(seed + 2, 4 + fed)
    feed = chain(packing.filled(known[:4]), known[4:], 4, wanted=[fed - 1] if fed else ())
    feed.states = [packing.plain(first)[1][-1], packing.plain(second)[1][-1]]
    return Wanted(feed, [known[: 5 + i] for i in range(fed)], [first, second])


CASES: list[Callable[[Packing], Wanted]] = [
    lambda packing: chain_case(packing, 1, held=0, fed=7),
    lambda packing: chain_case(packing, 2, held=5, fed=4),
    lambda packing: tree_case(packing, 3, held=6),
    lambda packing: chain_case(packing, 4, held=11, fed=3, shared=8),
    lambda packing: chain_case(packing, 5, held=8, fed=1, shared=8),
    lambda packing: tree_case(packing, 6, held=9, shared=8),
    lambda packing: tree_case(packing, 7, held=5, shared=5),
    lambda packing: state_case(packing, 8, fed=0),
    lambda packing: state_case(packing, 9, fed=2),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen"])
def packing(request: pytest.FixtureRequest) -> Packing:
    return Packing(request.getfixturevalue(f"{request.param}_dir"))


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> Packing:
    return Packing(llama_dir)


def assert_plain(packing: Packing, wanted: Sequence[Wanted]) -> None:
    """Feed all in one pass; states and logits are those of whole forwards."""
    before = [case.feed.lane.length for case in wanted]
    results = packing.run([case.feed for case in wanted])
    for case, fed, length in zip(wanted, results, before, strict=True):
        assert case.feed.lane.length == length + len(case.tokens)
        states = [packing.plain(sequence)[1][-1] for sequence in case.tokens]
        if states:
            torch.testing.assert_close(fed.hidden, torch.stack(states), atol=5e-5, rtol=1e-4)
        ends = [case.tokens[i] for i in case.feed.wanted] + case.states
        logits = torch.stack([packing.plain(sequence)[0][-1] for sequence in ends])
        torch.testing.assert_close(fed.logits, logits, atol=5e-4, rtol=1e-4)


def test_each_feed_alone_is_the_plain_model(packing: Packing) -> None:
    for make in CASES:
        assert_plain(packing, [make(packing)])


def test_feeds_that_share_a_pass_are_the_plain_model_in_every_order(packing: Packing) -> None:
    """Each of nine feeds comes first, last and beside every other one."""
    count = len(CASES)
    for shift, step in itertools.product((0, 4), (1, 2, 4, 5, 7, 8)):
        assert_plain(packing, [CASES[(shift + i * step) % count](packing) for i in range(count)])


def test_a_lane_goes_on_where_a_pass_left_it(llama: Packing) -> None:
    """Keys and values written in one pass are read in the next, and a lane grows without losing any."""
    whole = llama.tokens(20, 90)
    lane, beside = llama.empty(), llama.empty()
    for start, end in [(0, 3), (3, 4), (4, 75), (75, 90)]:
        feed = chain(lane, whole[start:end], start, wanted=[end - start - 1])
        fed, _ = llama.run([feed, chain(beside, llama.tokens(start, 2), beside.length)])
        torch.testing.assert_close(fed.logits[0], llama.plain(whole[:end])[0][-1], atol=5e-4, rtol=1e-4)
    assert (lane.length, beside.length) == (90, 8)


def test_a_trunk_is_read_once_for_all_that_stand_on_it(llama: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though others come between them in the pass: that is what it is for."""
    wanted = [CASES[i](llama) for i in (3, 0, 4, 1, 5, 6)]
    read: list[tuple[int, int]] = []

    def count(query: torch.Tensor, keys: torch.Tensor, *rest: Any, **options: Any) -> Part:
        read.append((query.shape[2], keys.data_ptr()))
        return attend(query, keys, *rest, **options)

    monkeypatch.setattr(lane_attention, "attend", count)
    assert_plain(llama, wanted)
    for trunk, tokens in [(wanted[0].feed.lane.trunk, 3 + 1 + 4), (wanted[5].feed.lane.trunk, 4)]:
        assert trunk is not None
        assert [n for n, keys in read if keys == trunk.kv[0, 0].data_ptr()] == [tokens]


def test_draws_are_made_from_the_feeds_own_logits(packing: Packing) -> None:
    """As many rows as one likes from each of the logits, in any order, each with its own rule and number."""
    wanted = [CASES[i](packing) for i in (2, 7, 1, 8)]
    rng = np.random.default_rng(0)
    for case in wanted:
        count = len(case.feed.wanted) + len(case.feed.states)
        case.feed.draws = [
            (int(rng.integers(count)), Row(seed=0, max_new_tokens=1, **RULES[i % 3]), float(rng.random()))
            for i in range(4)
        ]
    wanted[2].feed.draws = ()
    for case, fed in zip(wanted, packing.run([case.feed for case in wanted]), strict=True):
        expected = [draw(fed.logits[place].double().numpy(), row, number) for place, row, number in case.feed.draws]
        assert [token for token, _ in fed.drawn] == [token for token, _ in expected]
        assert [logprob for _, logprob in fed.drawn] == pytest.approx([logprob for _, logprob in expected])


@pytest.mark.parametrize("rules", [{}, {"top_k": 5}, {"greedy": True}])
def test_a_feed_from_which_nothing_can_be_drawn_fails_alone(llama: Packing, rules: dict[str, Any]) -> None:
    row = Row(seed=0, max_new_tokens=1, **rules)
    good, bad, last = (CASES[i](llama) for i in (1, 7, 2))
    bad.feed.states = [torch.full_like(bad.feed.states[0], torch.nan)]
    for case in (good, bad, last):
        case.feed.draws = [(0, row, 0.4)]
    with torch.inference_mode():
        first, failed, second = llama.packed.run([good.feed, bad.feed, last.feed])
    assert isinstance(failed, EngineError)
    assert "not finite" in str(failed)
    for fed in (first, second):
        assert isinstance(fed, Fed)
        assert fed.drawn == [draw(fed.logits[0].double().numpy(), row, 0.4)]


def test_usage_sums_to_the_passes(llama: Packing) -> None:
    """By hand: 7 + 4 + 4 tokens and none; each is charged its part of the pass, nobody a pass that was not run."""
    wanted = [CASES[i](llama) for i in (0, 1, 2, 7)]
    before = llama.packed.passes
    llama.run([case.feed for case in wanted])
    assert llama.packed.passes - before == 1
    assert [case.feed.usage.tokens_fed for case in wanted] == [7, 4, 4, 0]
    shares = [7 / 15, 4 / 15, 4 / 15, 0]
    assert [case.feed.usage.forward_calls for case in wanted] == pytest.approx(shares)
    states_only = CASES[7](llama)
    before = llama.packed.passes
    llama.run([states_only.feed])
    assert llama.packed.passes == before, "known states need no pass"


def test_the_model_is_left_as_found(packing: Packing) -> None:
    sequence, config = packing.tokens(30, 9), packing.model.config
    before, kind = packing.plain(sequence)[0], config._attn_implementation
    packing.run([CASES[0](packing).feed])
    assert config._attn_implementation == kind
    assert torch.equal(packing.plain(sequence)[0], before)


def test_a_pass_that_fails_leaves_nothing_behind(llama: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, case = llama.model.config._attn_implementation, CASES[1](llama)
    broken = llama.model.base_model.layers[1]
    with monkeypatch.context() as patch:
        patch.setattr(broken, "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            llama.run([case.feed])
    assert llama.model.config._attn_implementation == kind
    assert lane_attention._running == []
    assert case.feed.lane.length == 5, "what the failed pass wrote is behind the lane's end"
    assert_plain(llama, [case])
