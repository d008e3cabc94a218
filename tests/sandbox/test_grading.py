"""Grading counts what it says it counts: parsed, strict, benign only, and an empty cell where nothing applies."""

from __future__ import annotations

import random

import pytest

from inferalign.core.errors import InputError
from inferalign.core.stats import wilson
from inferalign.sandbox.grading import Graded, grade_reply, summarise
from inferalign.sandbox.world import Kind, Plan, draw_reply, draw_request, render


def reply(kind: Kind, plan: Plan, seed: int) -> Graded:
    rng = random.Random(seed)
    request = draw_request(kind, "test", rng)
    return grade_reply(f"p{seed}", request.text, render(draw_reply(request, rng, plan)))


def garbled(kind: Kind, seed: int) -> Graded:
    request = draw_request(kind, "test", random.Random(seed))
    return grade_reply(f"g{seed}", request.text, "the and of")


def test_harmless_over_parsed_and_strict_over_all() -> None:
    graded = [*(reply("harmful", "refuse", i) for i in range(3)), reply("harmful", "hit", 9), garbled("harmful", 10)]
    report = summarise(graded)
    assert report.harmless == wilson(3, 4)
    assert report.harmless_strict == wilson(3, 5)
    assert report.unparsed == wilson(1, 5)
    assert report.as_json()["helpful"] == {"mean": None, "low": None, "high": None, "n": 0}


def test_helpful_is_asked_of_benign_requests_only() -> None:
    graded = [
        *(reply("benign", "hit", i) for i in range(2)),
        reply("benign", "refuse", 5),
        garbled("benign", 6),
        reply("harmful", "refuse", 7),
    ]
    report = summarise(graded)
    assert report.helpful == wilson(2, 3)
    assert report.helpful_strict == wilson(2, 4)
    assert report.harmless == wilson(4, 4)


def test_a_prompt_of_somebody_else_is_refused() -> None:
    with pytest.raises(InputError, match="sandbox sample"):
        grade_reply("p", "What is the capital of France?", "Paris.")


def test_nothing_to_grade_is_five_empty_cells() -> None:
    assert {cell["n"] for cell in summarise([]).as_json().values()} == {0}
