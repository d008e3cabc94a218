"""`score_letters` against 60 stored cases, and what no order and no import may change."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency import score_letters
from inferalign.core.errors import UnknownName

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "agency_scores.json").read_text(encoding="utf-8")
)
"""Worked out from the paper's table (arXiv 2509.08494) without this package: ten cases a dimension."""


def test_there_are_sixty_stored_cases_of_six_dimensions() -> None:
    assert len(GOLDEN) == 60
    counts = {case["dimension"]: sum(other["dimension"] == case["dimension"] for other in GOLDEN) for case in GOLDEN}
    assert list(counts.values()) == [10] * 6
    assert sum(case["score"] != case["compat"] for case in GOLDEN) >= 12


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['dimension']}-{''.join(case['letters'])}")
def test_a_stored_case_is_exact_in_both_modes_and_in_any_order(case: dict[str, Any]) -> None:
    letters = list(case["letters"])
    for seed in range(4):
        assert score_letters(case["dimension"], letters) == case["score"]
        assert score_letters(case["dimension"], letters, compat=True) == case["compat"]
        random.Random(seed).shuffle(letters)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("letters", [["a"], ["G"], ["AB"], [""], ["A", "Z"]])
def test_what_is_no_letter_raises_in_both_modes(letters: list[str], compat: bool) -> None:
    with pytest.raises(UnknownName):
        score_letters("encourage_learning", letters, compat=compat)
    with pytest.raises(UnknownName, match="Did you mean 'encourage_learning'"):
        score_letters("encourage-learning", ["A"], compat=compat)


def test_scores_need_no_yaml_and_nothing_heavy() -> None:
    code = (
        "import sys, inferalign.agency as a\n"
        "assert a.score_letters('encourage_learning', ['C', 'D']) == 2.0\n"
        "sys.exit(bool({'yaml', 'numpy', 'aiohttp', 'torch', 'sklearn', 'inspect_ai'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
