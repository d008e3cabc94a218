"""What the sandbox studies compute from candidates: by hand, against brute force, and their bounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.judge_law import auc_of
from benchmarks.rain_ablations import equal_k
from benchmarks.sandbox_runs import (
    TOKENS,
    Job,
    Scored,
    best_of,
    bound,
    budget,
    candidates,
    carry_out,
    cell,
    guide,
    judge_rates,
    outcome,
)
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json
from inferalign.core.prompts import write_prompts
from inferalign.core.records import RunFolder
from inferalign.core.results import to_record
from inferalign.core.shards import FileLock
from inferalign.core.stats import Estimate, clustered_proportion
from inferalign.core.types import (
    Candidate,
    Completion,
    Determinism,
    Result,
    RoleUsage,
    Score,
    StopReason,
    Unscored,
    Usage,
)
from inferalign.procedures.rain_settings import DEFAULT
from inferalign.sandbox.world import prompts

GOOD, BAD = False, True
"""What `Scored.bad` says of either."""
ROWS = {
    "p": [Scored(GOOD, 0.4), Scored(BAD, 0.2), Scored(BAD, -0.1), Scored(GOOD, -0.3), Scored(None, 0.9)],
    "q": [Scored(BAD, -0.5), Scored(BAD, -0.4), Scored(GOOD, -0.2), Scored(GOOD, None)],
    "r": [Scored(GOOD, 0.1), Scored(GOOD, 0.0), Scored(BAD, 0.0)],
}


def test_judge_rates_by_hand() -> None:
    """What does not parse and what could not be scored is in neither rate; a score of 0 rejects."""
    rates = judge_rates(ROWS)
    assert rates.sensitivity == clustered_proportion([[False, True], [True, True], [True]])
    assert rates.specificity == clustered_proportion([[True, False], [False], [True, False]])
    assert rates.sensitivity.mean == pytest.approx(4 / 5)
    assert rates.specificity.mean == pytest.approx(2 / 5)
    assert rates.balanced.mean == pytest.approx((4 / 5 + 2 / 5) / 2)
    assert rates.unscored == 1


def test_the_interval_of_balanced_accuracy_is_narrower_than_either() -> None:
    rows = {str(i): [Scored(bool(i % 2), 0.5 if i % 3 else -0.5)] for i in range(60)}
    rates = judge_rates(rows)
    spans = []
    for estimate in (rates.balanced, rates.sensitivity, rates.specificity):
        assert estimate.low is not None
        assert estimate.high is not None
        spans.append(estimate.high - estimate.low)
    assert spans[0] == pytest.approx((spans[1] ** 2 + spans[2] ** 2) ** 0.5 / 2, rel=0.1)


def test_a_judge_that_never_meets_a_class_has_no_balanced_accuracy() -> None:
    rates = judge_rates({"p": [Scored(GOOD, 0.3)]})
    assert rates.sensitivity == Estimate.empty()
    assert rates.balanced == Estimate.empty()


def test_the_bound_by_hand() -> None:
    """p accepts one good and one bad (the unreadable one is no verdict's fault), r one good, q none: Bayes."""
    expected, none = bound(ROWS, judge_rates(ROWS))
    prior = (1 + 1) / (3 + 2)
    passed, slipped = prior * 2 / 5, (1 - prior) * (1 - 4 / 5)
    assert expected == pytest.approx({"p": 1 / 2, "q": passed / (passed + slipped), "r": 1.0})
    assert none == 1


def test_the_bound_of_a_judge_without_false_acceptances_is_one() -> None:
    rows = {"p": [Scored(GOOD, 0.2), Scored(BAD, -0.2)], "q": [Scored(BAD, -0.2), Scored(BAD, -0.9)]}
    assert bound(rows, judge_rates(rows))[0] == pytest.approx({"p": 1.0, "q": 1.0})


scored = st.builds(Scored, st.sampled_from([GOOD, BAD, None]), st.sampled_from([-0.5, 0.0, 0.3, 0.3, 0.9, None]))


def brute_force(row: Sequence[Scored], k: int) -> tuple[float, float, float]:
    """Every subset of k; in each, the best score and the shares of good and of unread ones among those that have it."""
    score = good = unread = 0.0
    for subset in combinations(row, k):
        values = [s.value for s in subset if s.value is not None]
        best = [s for s in subset if s.value == max(values)]
        score += max(values)
        good += sum(s.bad is False for s in best) / len(best)
        unread += sum(s.bad is None for s in best) / len(best)
    return score / comb(len(row), k), good / comb(len(row), k), unread / comb(len(row), k)


@given(row=st.lists(scored, min_size=1, max_size=7).filter(lambda row: any(s.value is not None for s in row)))
def test_best_of_k_against_every_subset(row: list[Scored]) -> None:
    """Equal scores share their chances by their number in the whole, which subsets of equals do on average."""
    known = [s for s in row if s.value is not None]
    before = -1.0
    for k in range(1, len(known) + 1):
        chosen = best_of(row, k)
        assert chosen == pytest.approx(brute_force(known, k))
        assert chosen.score >= before - 1e-12, "a larger choice is never worse to its own guide"
        before = chosen.score
    assert best_of(row, len(row) + 5) == best_of(row, len(known))


@given(tokens=st.floats(1, 1e5), share=st.floats(1, 1e3), most=st.integers(1, 64))
def test_equal_tokens_are_met_or_passed(tokens: float, share: float, most: int) -> None:
    k = equal_k(tokens, share * most, most)
    assert 1 <= k <= most
    assert k == most or share * k >= tokens * (1 - 1e-9)
    assert k == 1 or share * (k - 1) < tokens * (1 + 1e-9)


@given(row=st.lists(scored, max_size=8))
def test_auc_against_every_pair(row: list[Scored]) -> None:
    """Also the chance of a best-of-2 of one good and one bad reply to be the good one."""
    good = [s.value for s in row if s.bad is False and s.value is not None]
    bad = [s.value for s in row if s.bad is True and s.value is not None]
    wins = [1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad]
    assert auc_of({"p": row}).mean == (pytest.approx(sum(wins) / len(wins)) if wins else None)


def test_small_things() -> None:
    assert budget("50/15/6") == {"max_iterations": 50, "extra_iterations": 15, "min_visits": 6}
    for odd in ("50/15", "50/15/six", ""):
        with pytest.raises(InputError, match=f"budget '{odd}': expected three whole numbers"):
            budget(odd)
    assert guide("harmful", "-shuffled") == "self-shuffled"
    assert guide("benign", ":dir") == "self-agency:dir"
    assert cell(Estimate(mean=0.5, low=0.25, high=0.75, n=4)) == "50.0 [25.0, 75.0]"
    assert cell(Estimate.empty()) == "-"
    assert cell({"mean": 0.5, "low": None, "high": None}) == "50.0"


def test_a_run_folder_is_read_back_and_graded(tmp_path: Path) -> None:
    """Prompts that the job did not ask for stay out; the belief is the chosen candidate's margin as a probability."""
    job = Job(folder=tmp_path, situation="harmful", n=1, procedure="best-of-n:3")
    first, other = prompts("harmful", 2, 0)
    texts = ("I have to say no to this one.", "colourless green ideas.", "That is something I cannot help with.")
    scores = (Score(0.5), Score(-0.2), Unscored("away", blame="judge"))
    usage = Usage(generator=RoleUsage(tokens_fed=10), evaluator=RoleUsage(tokens_fed=5))
    made = tuple(
        Candidate(completion=Completion(token_ids=(), text=text, stop=StopReason.END), score=score)
        for text, score in zip(texts, scores, strict=True)
    )
    with RunFolder.open(tmp_path, {}, {}) as folder:
        for prompt in (first, other):
            result = Result(prompt=prompt, candidates=made, chosen=0, usage=usage, seconds=2.0)
            folder.append(to_record(result, Determinism.EXACT))
    write_prompts(tmp_path / "prompts.jsonl", [first])
    found = outcome(job)
    assert found.good == {first.id: True}
    assert found.belief == {first.id: 0.75}
    assert found.tokens == {first.id: 15.0}
    assert candidates(job) == {first.id: [Scored(GOOD, 0.5), Scored(None, -0.2), Scored(GOOD, None)]}


@pytest.mark.parametrize("size", [16, 64, 150])
def test_what_every_candidate_is_best_of_k_is_for_certain(size: int) -> None:
    """Not by a rounding error less: a Wilson interval is right for what is yes or no, and has no place elsewhere."""
    row = [Scored(GOOD, i / size) for i in range(size)]
    assert {best_of(row, k)[1:] for k in range(1, size + 1)} == {(1.0, 0.0)}


def test_a_study_keeps_other_commands_out(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "study.lock", "it")
    with pytest.raises(RunError, match="is being written by process"):
        carry_out(tmp_path, [Job(folder=tmp_path / "a", situation="harmful", n=1)], "sandbox", 1)
    assert not (tmp_path / "a").exists()
    lock.release()


def test_a_run_has_all_that_its_job_says(tmp_path: Path) -> None:
    """Else every arm of a study would be the same, and no table would show it."""
    drawn = Job(folder=tmp_path / "a", situation="harmful", n=1, temperature=0.5, top_k=15)
    changed = {**budget("4/2/1"), "exploration": 0.0, "horizon": "answer"}
    searched = Job(
        folder=tmp_path / "b", situation="benign", n=1, procedure="rain", scorer="self-agency-shuffled", rain=changed
    )
    carry_out(tmp_path, [drawn, searched], "sandbox", 3)
    first, second = (read_json(job.folder / "config.json") for job in (drawn, searched))
    assert first["procedure"] == {
        "procedure": "sample",
        "sampling": {"temperature": 0.5, "top_k": 15, "max_new_tokens": TOKENS},
    }
    assert second["procedure"]["settings"] == json.loads(json.dumps(asdict(replace(DEFAULT, **changed))))
    assert second["procedure"]["guide"]["scorer"] == "self-agency-shuffled"
    assert first["seed"] == second["seed"] == 3


def test_two_processes_share_a_job_and_an_error_of_ours_is_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = Job(folder=tmp_path / "study" / "a", situation="harmful", n=4, procedure="random-of-n:2")
    carry_out(tmp_path / "study", [one], "sandbox", 1)
    found = outcome(one)
    assert len(found.good) == 4
    assert {path.name for path in (one.folder / "records").glob("*.jsonl")} == {
        "shard-1-of-2.jsonl",
        "shard-2-of-2.jsonl",
    }
    other = Job(folder=tmp_path / "other" / "a", situation="harmful", n=1)
    with pytest.raises(SystemExit, match="Mend what it names"):
        carry_out(tmp_path / "other", [other], str(tmp_path / "no-model"), 1)
    said = capfd.readouterr().err
    assert "inferalign: " in said
    assert "Traceback" not in said
