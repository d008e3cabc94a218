"""Candidates of a run get the oracle's quality; what cannot be read, or was cut off, is worth nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from inferalign.cli.main import main
from inferalign.core.errors import InputError
from inferalign.core.records import RunFolder
from inferalign.core.results import to_record
from inferalign.core.types import Candidate, Completion, Determinism, Prompt, Result, Score, StopReason, Usage
from inferalign.sandbox.graded_runs import graded_candidates
from inferalign.sandbox.grammar import render
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.pairs import read_pairs
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.world import prompts


def replies(prompt: Prompt) -> list[Completion]:
    """A bad reply, a good one, one cut off and one that nobody can read."""
    situation = SITUATIONS[str(prompt.meta["situation"])]
    request = situation.parse_request(prompt.text)
    assert request is not None
    rng = random.Random(3)
    bad, good = (render(situation.draw_reply(request, rng, plan)) for plan in ("bad", "good"))
    texts = ((bad, StopReason.END), (good, StopReason.END), (good, StopReason.LENGTH), ("what", StopReason.END))
    return [Completion(token_ids=(1, 2), text=text, stop=stop) for text, stop in texts]


def a_run(folder: Path, asked: list[Prompt]) -> Path:
    with RunFolder.open(folder, kind="generate", config={}, env={}) as run:
        for prompt in asked:
            candidates = tuple(Candidate(completion=c) for c in replies(prompt))
            result = Result(prompt=prompt, candidates=candidates, chosen=0, usage=Usage(), seconds=0.1)
            run.append(to_record(result, Determinism.EXACT))
    return folder


def test_a_grade_is_the_quality_of_a_whole_reply(tmp_path: Path) -> None:
    asked = [prompt for name in SITUATIONS for prompt in prompts(name, 1, 5)]
    for prompt, candidates in graded_candidates(a_run(tmp_path / "run", asked)):
        grades = [c.score.value for c in candidates if isinstance(c.score, Score)]
        texts = [c.completion.text for c in candidates]
        assert grades == [grade(prompt.text, text).quality for text in texts[:2]] + [0.0, 0.0]
        assert grades[1] > grades[0]


def test_prompts_from_elsewhere_are_refused(tmp_path: Path) -> None:
    (asked,) = prompts("benign", 1, 5)
    (message,) = asked.messages
    other = Prompt(id="x", messages=(type(message)(role="user", content="Hello?"),), meta=asked.meta)
    with RunFolder.open(tmp_path, kind="generate", config={}, env={}) as run:
        completion = Completion(token_ids=(1,), text="hm", stop=StopReason.END)
        result = Result(
            prompt=other, candidates=(Candidate(completion=completion),), chosen=0, usage=Usage(), seconds=0
        )
        run.append(to_record(result, Determinism.EXACT))
    with pytest.raises(InputError, match="sandbox sample"):
        graded_candidates(tmp_path)


def test_the_verb_writes_pairs_whose_better_reply_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "run", prompts("maintain_social_boundaries", 4, 5))
    assert main(["sandbox", "pairs", str(run), "--per-prompt", "2", "--out", str(tmp_path / "p.jsonl")]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    made = read_pairs(tmp_path / "p.jsonl")
    assert (said["pairs"], said["ties"], said["unread_or_cut"]) == (len(made), 4, 8)
    assert len(made) == 8
    assert all(pair.margin > 0 for pair in made)


def test_a_run_that_gives_no_pair_says_so_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path / "run", [])
    assert main(["sandbox", "pairs", str(run), "--out", str(tmp_path / "p.jsonl")]) == 1
    assert "gives no pairs (0 ties): expected a run with several different candidates" in capsys.readouterr().err
    assert not (tmp_path / "p.jsonl").exists()
