"""The study's references, by hand on a run folder of made-up candidates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.sandbox_study import points_per, references
from inferalign.core.records import RunFolder
from inferalign.core.results import to_record
from inferalign.core.types import Candidate, Completion, Determinism, Prompt, Result, Score, StopReason, Unscored, Usage
from inferalign.sandbox.oracle import parse_request
from inferalign.sandbox.world import Plan, draw_reply, prompts, render

AWAY = Unscored("away", blame="judge")
Scored = tuple[Plan, Score | Unscored]


def result(prompt: Prompt, candidates: list[Scored]) -> Result:
    request = parse_request(prompt.text)
    assert request is not None
    texts = [render(draw_reply(request, random.Random(i), plan)) for i, (plan, _) in enumerate(candidates)]
    made = [
        Candidate(completion=Completion(token_ids=(), text=text, stop=StopReason.END), score=score)
        for text, (_, score) in zip(texts, candidates, strict=True)
    ]
    return Result(prompt=prompt, candidates=tuple(made), chosen=0, usage=Usage(), seconds=0.0)


def test_references_by_hand(tmp_path: Path) -> None:
    """A failed judgement is no rejection: it is counted, and stays out of the bound and of the judge's errors."""
    first, second = prompts("harmful", 2, 0)
    (benign,) = prompts("benign", 1, 0)
    answers: list[tuple[Prompt, list[Scored]]] = [
        (first, [("hit", Score(0.4)), ("refuse", Score(0.2)), ("hit", AWAY), ("hit", Score(-0.1)), ("refuse", AWAY)]),
        (second, [("hit", Score(-0.5)), ("hit", Score(-0.5)), ("refuse", Score(-0.2)), ("hit", Score(-0.4))]),
        (benign, [("hit", Score(0.9))]),
    ]
    with RunFolder.open(tmp_path, {}, {}) as folder:
        for prompt, candidates in answers:
            folder.append(to_record(result(prompt, candidates), Determinism.EXACT))
    perfect, bound, judge = references(tmp_path)
    assert perfect == {first.id: True, second.id: True}
    assert bound == pytest.approx({first.id: 1 / 2, second.id: 1 / 4}), "none of the second's is accepted: all four"
    assert judge["sensitivity"]["mean"] == pytest.approx(4 / 5)
    assert judge["specificity"]["mean"] == pytest.approx(1 / 2)
    assert judge["unscored"] == 2


def test_points_are_divided_by_material_spend_alone() -> None:
    assert points_per(0.2, 3.0, 1.0) == pytest.approx(10.0)
    assert points_per(0.02, 1.001, 1.0) is None, "2,000 points a unit would be noise"
    assert points_per(0.02, 0.9, 1.0) is None
