"""The promise of `exact`: whatever is in flight, in whatever order, with whatever memory, tokens are the same.

Samples, judgements and embeddings of prompts that share beginnings long and short are asked one by one of an engine
with room for everything, then at random moments of others: many at once, with a store that holds little or nothing.
Log-probabilities may differ by the rounding of matrix products.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from inferalign.core.errors import EngineError
from inferalign.core.types import RoleUsage, TokenIds
from inferalign.engines.base import Row
from inferalign.engines.lanes import TRUNK_TOKENS
from inferalign.engines.local import LocalEngine, load_local
from inferalign.engines.packed import Fed, Feed
from inferalign.engines.table import ModelOptions

TOLERANCE = 1e-4


class Answer(NamedTuple):
    tokens: list[Any]
    """What must be the same."""
    numbers: list[float]
    """What must be the same within the tolerance."""


class Sample(NamedTuple):
    prefix: TokenIds
    rows: list[Row]

    async def ask(self, engine: LocalEngine, usage: RoleUsage) -> Answer:
        answers = await engine.sample(self.prefix, self.rows, usage)
        return Answer([(a.token_ids, a.stop) for a in answers], [value for a in answers for value in a.logprobs])


class Judge(NamedTuple):
    prefix: TokenIds
    tails: list[TokenIds]

    async def ask(self, engine: LocalEngine, usage: RoleUsage) -> Answer:
        answers = await engine.label_logprobs([self.prefix + tail for tail in self.tails], [5, 9, 40], usage)
        return Answer([len(answers)], [value for a in answers for value in (*a.logprobs, a.mass)])


class Top(NamedTuple):
    prefix: TokenIds

    async def ask(self, engine: LocalEngine, usage: RoleUsage) -> Answer:
        top = await engine.top_tokens(self.prefix, 5, usage)
        return Answer(list(top.token_ids), list(top.logprobs))


class Embed(NamedTuple):
    prefix: TokenIds
    starts: list[int]

    async def ask(self, engine: LocalEngine, usage: RoleUsage) -> Answer:
        vectors = await engine.embed(self.prefix, self.starts, usage)
        return Answer([vectors.shape], vectors.ravel().tolist())


Request = Sample | Judge | Top | Embed


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.tokens == theirs.tokens, i
        np.testing.assert_allclose(ours.numbers, theirs.numbers, atol=TOLERANCE, rtol=0, err_msg=str(i))


def one_by_one(engine: LocalEngine, requests: list[Request]) -> list[Answer]:
    return [asyncio.run(request.ask(engine, RoleUsage())) for request in requests]


def draw_ids(rng: np.random.Generator, count: int, below: int = 300) -> TokenIds:
    return tuple(int(i) for i in rng.integers(0, below, count))


def some_row(rng: np.random.Generator, ends: TokenIds) -> Row:
    kinds: list[dict[str, Any]] = [{}, {"top_k": 12}, {"greedy": True}, {"temperature": 1.6, "top_k": 40}]
    rules: list[dict[str, Any]] = [{}, {"stop_ids": frozenset(ends)}, {"pause_ids": frozenset(ends)}]
    options = kinds[rng.integers(len(kinds))] | rules[rng.integers(len(rules))]
    return Row(seed=int(rng.integers(5)), max_new_tokens=int(rng.integers(1, 13)), **options)


def some_requests(seed: int, count: int) -> list[Request]:
    """Of prompts that are few, so that they meet: a template that becomes a trunk, short ones, and what follows them.

    Twenty tokens that end or pause a row come up every few draws.
    """
    rng = np.random.default_rng(seed)
    template, question = draw_ids(rng, TRUNK_TOKENS + 14), draw_ids(rng, 9)
    heads = [template, template + question, template[:-1], question, question[:4], draw_ids(rng, 30)]
    requests: list[Request] = []
    for _ in range(count):
        prefix = heads[rng.integers(len(heads))] + draw_ids(rng, int(rng.integers(1, 4)), below=2)
        kind = rng.integers(6)
        if kind < 3:
            ends = draw_ids(rng, 20)
            requests.append(Sample(prefix, [some_row(rng, ends) for _ in range(rng.integers(1, 6))]))
        elif kind == 3:
            tails = [draw_ids(rng, int(rng.integers(0, 5))) for _ in range(rng.integers(1, 5))]
            requests.append(Judge(prefix, tails))
        elif kind == 4:
            requests.append(Top(prefix))
        else:
            requests.append(Embed(prefix, [0, len(prefix) // 2, len(prefix) - 1]))
    return requests


async def answer(
    engine: LocalEngine, requests: list[Request], order: list[int], at_once: int, seed: int
) -> dict[int, Answer]:
    """Ask in this order, `at_once` in flight, each after a few turns of the loop."""
    rng = np.random.default_rng(seed)
    answers: dict[int, Answer] = {}
    todo = list(reversed(order))

    async def work() -> None:
        while todo:
            i = todo.pop()
            for _ in range(rng.integers(4)):
                await asyncio.sleep(0)
            answers[i] = await requests[i].ask(engine, RoleUsage())

    await asyncio.gather(*(work() for _ in range(at_once)))
    return answers


def engine_of(folder: Path, megabytes: int) -> LocalEngine:
    engine = load_local(str(folder), ModelOptions(device="cpu", prefix_cache_mb=megabytes)).engine
    assert isinstance(engine, LocalEngine)
    assert engine.reuses_prefixes
    return engine


@pytest.mark.parametrize("fixture", ["llama_dir", "gpt2_dir", "qwen_dir"])
def test_tokens_do_not_depend_on_what_is_in_flight(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)
    requests = some_requests(seed=1, count=50)
    expected = one_by_one(engine_of(folder, 64), requests)
    trunks = evicted = 0
    for at_once, megabytes in [(1, 1), (3, 64), (3, 0), (8, 64), (8, 1), (8, 0)]:
        engine = engine_of(folder, megabytes)
        order = [int(i) for i in np.random.default_rng(at_once + megabytes).permutation(len(requests))]
        answers = asyncio.run(answer(engine, requests, order, at_once, seed=at_once))
        assert_same([answers[i] for i in range(len(requests))], expected)
        assert not any(lane.busy for lane in engine.lanes._lanes)
        assert engine.lanes.nbytes + engine.store.nbytes <= megabytes << 20
        trunks += len(engine.lanes._trunks)
        evicted += engine.store.stats.evicted
    assert trunks, "no beginning was shared by lanes"
    assert evicted, "nothing was computed twice"


def test_what_is_held_stays_under_the_bound(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every pass of eight requests in flight, whose lanes begin empty and grow, beside a store that is full."""
    requests, engine, held = some_requests(seed=1, count=50), engine_of(llama_dir, 1), []
    bound = 300 << 10
    engine.store.capacity = engine.lanes.capacity = bound
    engine.lanes.limit = bound // 2
    run = engine.model.run

    def watched(feeds: Sequence[Feed]) -> list[Fed | EngineError]:
        results = run(feeds)
        held.append(engine.lanes.nbytes + engine.store.nbytes)
        return results

    monkeypatch.setattr(engine.model, "run", watched)
    asyncio.run(answer(engine, requests, list(range(len(requests))), at_once=8, seed=8))
    assert engine.store.stats.evicted, "the case is not trivial"
    assert bound * 9 // 10 < max(held) <= bound


def test_forgetting_between_requests_changes_nothing(llama_dir: Path) -> None:
    """Somebody prunes and drops what others are using now."""
    requests = some_requests(seed=2, count=40)
    engine, expected = engine_of(llama_dir, 64), one_by_one(engine_of(llama_dir, 64), requests)

    async def run() -> dict[int, Answer]:
        asked = asyncio.ensure_future(answer(engine, requests, list(range(len(requests))), at_once=6, seed=3))
        rng, dropped = np.random.default_rng(0), 0
        while not asked.done():
            await asyncio.sleep(0)
            if rng.random() < 0.7:
                continue
            prefix = requests[rng.integers(len(requests))].prefix
            cut = int(rng.integers(1, len(prefix) + 1))
            engine.forget(prefix[:cut], keep=prefix[cut:] or None)
            dropped += 1
        assert dropped > 20, "the case is not trivial"
        return await asked

    answers = asyncio.run(run())
    assert_same([answers[i] for i in range(len(requests))], expected)


def test_everybodys_usage_together_is_what_was_run(qwen_dir: Path) -> None:
    """Shares of passes sum to the passes, and requests in flight feed no more than one by one: what two need is fed
    once."""
    requests = some_requests(seed=4, count=40)
    fed = {}
    for at_once in (1, 8):
        engine, usage = engine_of(qwen_dir, 64), RoleUsage()

        async def run(engine: LocalEngine = engine, usage: RoleUsage = usage, at_once: int = at_once) -> None:
            todo = list(requests)

            async def work() -> None:
                while todo:
                    await todo.pop(0).ask(engine, usage)

            await asyncio.gather(*(work() for _ in range(at_once)))

        before = engine.model.passes
        asyncio.run(run())
        assert usage.forward_calls == pytest.approx(engine.model.passes - before)
        fed[at_once] = usage.tokens_fed
    # Rows of two requests that draw alike at the same moment do not know of each other.
    assert fed[8] <= 1.1 * fed[1]
