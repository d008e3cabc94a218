"""The shipped fake answers what it was told to, keeps the rows' rules, and refuses what it was not told."""

from __future__ import annotations

import asyncio
import math

import pytest

from inferalign.core.errors import ContextOverflow, EngineError
from inferalign.core.types import RoleUsage, StopReason
from inferalign.engines.base import Row, TopTokens
from inferalign.engines.scripted import ScriptedEngine

ROW = Row(seed=0, max_new_tokens=4, stop_ids=frozenset({9}), pause_ids=frozenset({8}))


def sample(engine: ScriptedEngine, *prefixes: tuple[int, ...]) -> list[tuple[tuple[int, ...], StopReason]]:
    answers = [asyncio.run(engine.sample(prefix, [ROW], RoleUsage()))[0] for prefix in prefixes]
    return [(answer.token_ids, answer.stop) for answer in answers]


def test_in_order_with_the_rows_rules() -> None:
    engine = ScriptedEngine([(1, 2, 9, 3), (1, 8, 2), (1, 2, 3, 4, 5), (1, 2)])
    assert sample(engine, (7,), (7,), (7,), (7,)) == [
        ((1, 2), StopReason.END),
        ((1, 8), StopReason.PARTIAL),
        ((1, 2, 3, 4), StopReason.LENGTH),
        ((1, 2), StopReason.END),
    ]


def test_by_prefix_and_by_function() -> None:
    assert sample(ScriptedEngine({(5,): [(1,)], (6,): [(2,), (3,)]}), (6,), (5,), (6,)) == [
        ((2,), StopReason.END),
        ((1,), StopReason.END),
        ((3,), StopReason.END),
    ]
    assert sample(ScriptedEngine(lambda prefix, row: prefix * 2), (6,)) == [((6, 6), StopReason.END)]


def test_strict_when_it_runs_out() -> None:
    engine = ScriptedEngine([(1,)], labels=[[-0.5, -2.0]])
    sample(engine, (7,))
    with pytest.raises(EngineError, match=r"method='sample', prefixes=\(\(7, 7\),\)"):
        sample(engine, (7, 7))
    with pytest.raises(EngineError, match="method='embed'"):
        asyncio.run(engine.embed((7,), [0], RoleUsage()))
    with pytest.raises(EngineError, match="no answer left"):
        sample(ScriptedEngine({(5,): [(1,)]}), (6,))


def test_labels_tops_and_embeddings() -> None:
    top = TopTokens(token_ids=(4,), logprobs=(-0.1,))
    engine = ScriptedEngine(
        labels=lambda prefix, labels: [math.log(0.5), math.log(0.25)], tops=[top], embeddings=[[1.0, 0.0], [0.0, 1.0]]
    )
    (label,) = asyncio.run(engine.label_logprobs([(1,)], [3, 4], RoleUsage()))
    assert label.mass == pytest.approx(0.75)
    assert asyncio.run(engine.top_tokens((1,), 1, RoleUsage())) == top
    assert asyncio.run(engine.embed((1, 2), [0, 1], RoleUsage())).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert [request.method for request in engine.requests] == ["label_logprobs", "top_tokens", "embed"]
    with pytest.raises(EngineError, match="2 log-probabilities for 1 labels"):
        asyncio.run(engine.label_logprobs([(1,)], [3], RoleUsage()))


def test_context() -> None:
    engine = ScriptedEngine([(1, 2, 3)], context_length=3)
    assert sample(engine, (7,)) == [((1, 2), StopReason.CONTEXT)]
    with pytest.raises(ContextOverflow):
        sample(engine, (7, 7, 7))
