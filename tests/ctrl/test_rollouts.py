"""Reference rollouts: the same whatever the order, the company and the resume point; what goes wrong, in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferalign.core.errors import ContextOverflow, InputError, ModelError, RunError
from inferalign.core.records import read_records
from inferalign.core.seeds import derive
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, StopReason, Unscored
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.roller import Job, Roller
from inferalign.ctrl.rollout_records import KIND, read_rollouts
from inferalign.ctrl.rollouts import Local, Outcome, calibrate, save_latest
from inferalign.ctrl.scored import JUDGE, RESPONSE
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.sample import draw
from inferalign.scorers.scripted import ScriptedScorer, Verdict
from tests.ctrl.test_anchors import Chat, Engine
from tests.toy import a_prompt, ngram_forward

SHORT = Sampling(max_new_tokens=6)
K = 5


def judged(prompt: Prompt, answer: Completion) -> Verdict:
    """Longer is better; what holds a B cannot be judged, what holds an A breaks the judge."""
    if "B" in answer.text:
        return Unscored("it holds a B", blame="response")
    if "A" in answer.text:
        return Unscored("it holds an A", blame="judge")
    return Score(float(len(answer.text)) + len(prompt.text) / 100)


def a_roller(rule: Callable[[Prompt, Completion], Verdict] = judged, *, seed: int = 7, context: int = 4096) -> Roller:
    engine, chat = Engine(ngram_forward, Chat().decode, context), Chat()
    return Roller(engine, chat, ScriptedScorer(rule), k=K, seed=seed, sampling=SHORT)  # type: ignore[arg-type]


def prompts(n: int) -> list[Prompt]:
    return [a_prompt(f"question {i}", f"p{i}") for i in range(n)]


def made(run: Path, asked: Sequence[Prompt], roller: Roller | None = None, **more: Any) -> Outcome:
    concurrency = more.pop("concurrency", 2)
    return calibrate(Local(roller or a_roller(), concurrency), asked, run, k=K, seed=7, **more)


def test_a_unit_is_k_keyed_draws_and_their_verdicts() -> None:
    roller, prompt = a_roller(), a_prompt()
    found = asyncio.run(roller(prompt))
    drawn = asyncio.run(
        draw(roller.engine, roller.chat, prompt, K, seed=derive(7, "anchors"), sampling=SHORT, usage=RoleUsage())
    )
    assert found.token_ids == tuple(each.token_ids for each in drawn)
    assert found.logprobs == tuple(each.logprob for each in drawn)
    assert found.stops == tuple(each.stop for each in drawn)
    for place, each in enumerate(drawn):
        verdict = judged(prompt, each)
        if isinstance(verdict, Score):
            assert found.scores.values[place] == verdict.value
        else:
            assert found.scores.blame[place] == {"response": RESPONSE, "judge": JUDGE}[verdict.blame]
    assert sum(found.reasons.values()) == int((~found.scores.scored).sum())


def test_generate_with_the_same_seed_draws_other_answers() -> None:
    roller, prompt = a_roller(), a_prompt()
    anchors = set(asyncio.run(roller(prompt)).token_ids)
    samples = asyncio.run(draw(roller.engine, roller.chat, prompt, K, seed=7, sampling=SHORT, usage=RoleUsage()))
    assert not anchors & {each.token_ids for each in samples}


def test_more_rollouts_begin_with_the_fewer() -> None:
    few, many = a_roller(), a_roller()
    many.k = 2 * K
    prompt = a_prompt()
    assert asyncio.run(many(prompt)).token_ids[:K] == asyncio.run(few(prompt)).token_ids


def test_order_concurrency_and_resume_change_nothing(tmp_path: Path) -> None:
    asked = prompts(6)
    whole = made(tmp_path / "a", asked, concurrency=1)
    turned = made(tmp_path / "b", asked[::-1], concurrency=3)
    for fewer in (1, 2):  # a kill after one, and after two more
        with pytest.raises(Stop):
            made(tmp_path / "c", asked, stopped_after(fewer), concurrency=1)
    resumed = made(tmp_path / "c", asked)
    assert whole.anchors
    assert turned.anchors
    assert resumed.anchors
    assert len(list(read_records(tmp_path / "c"))) == 6
    assert resumed.anchors.card.digest == whole.anchors.card.digest
    assert turned.anchors.prompt_ids == whole.anchors.prompt_ids[::-1]
    assert np.array_equal(turned.anchors.scores.values[::-1], whole.anchors.scores.values)
    assert np.array_equal(turned.anchors.lengths[::-1], whole.anchors.lengths)


class Stop(Exception):
    """What stands for a kill: no error of ours."""


def stopped_after(n: int) -> Roller:
    left = [n * K]

    def rule(prompt: Prompt, answer: Completion) -> Verdict:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return judged(prompt, answer)

    return a_roller(rule)


def test_the_anchors_are_what_was_recorded(tmp_path: Path) -> None:
    asked = prompts(4)
    found = made(tmp_path, asked)
    assert found.anchors
    assert (found.finished, found.anchors.prompt_ids) == (4, ("p0", "p1", "p2", "p3"))
    assert found.tokens_per_second
    assert found.tokens_per_second > 0
    by_id = {each.prompt_id: each for each in read_rollouts(tmp_path)}
    for row, prompt in enumerate(asked):
        assert found.anchors.scores.row(row).values.tolist() == by_id[prompt.id].scores.values.tolist()
        assert found.anchors.scores.row(row).blame.tolist() == by_id[prompt.id].scores.blame.tolist()
        assert found.anchors.lengths[row].tolist() == [len(ids) for ids in by_id[prompt.id].token_ids]
    new = sum(each.usage.generator.new_tokens for each in by_id.values())
    assert found.anchors.card.usage["generator"]["new_tokens"] == new
    assert sum(found.reasons.values()) == sum(found.anchors.card.unscored.values()) > 0


def test_a_finished_run_is_read_and_not_made_again(tmp_path: Path) -> None:
    first = made(tmp_path, prompts(2), a_roller(by_length))
    again = made(tmp_path, prompts(2), stopped_after(0))
    assert first.anchors
    assert again.anchors
    assert again.anchors.card.digest == first.anchors.card.digest
    assert (again.tokens_per_second, again.scored_again) == (None, 0)


def by_length(prompt: Prompt, answer: Completion) -> Verdict:
    """A judge that never fails."""
    return Unscored("it holds a B", blame="response") if "B" in answer.text else Score(float(len(answer.text)))


def away_for(*names: str, but: int = 0) -> Roller:
    """A judge that is away when it is asked about these prompts, but for the first `but` of such calls."""
    left = [but]

    def rule(prompt: Prompt, answer: Completion) -> Verdict:
        if prompt.id not in names or "B" in answer.text or left[0] > 0:
            left[0] -= prompt.id in names and "B" not in answer.text
            return by_length(prompt, answer)
        return Unscored("the judge is away", blame="judge")

    return a_roller(rule)


def drawing_nothing(rule: Callable[[Prompt, Completion], Verdict] = by_length) -> Roller:
    roller = a_roller(rule)

    async def sample(*_: Any) -> Any:
        raise AssertionError("something was drawn")

    roller.engine.sample = sample  # type: ignore[method-assign]
    return roller


def asked_about(roller: Roller) -> list[tuple[str, str]]:
    assert isinstance(roller.scorer, ScriptedScorer)
    return [(prompt.id, answer.text) for prompt, answer in roller.scorer.requests]


def test_what_the_judge_failed_on_is_scored_again_and_nothing_is_drawn(tmp_path: Path) -> None:
    asked = prompts(4)
    whole = made(tmp_path / "whole", asked, a_roller(by_length))
    first = made(tmp_path / "run", asked, away_for("p1", "p2", but=2))
    records = (tmp_path / "run" / "records" / "main.jsonl").read_bytes()
    judge = drawing_nothing()
    again = made(tmp_path / "run", asked, judge)
    assert whole.anchors
    assert first.anchors
    assert again.anchors
    failed = first.anchors.card.unscored["judge"]
    assert 0 < failed < 2 * K
    assert first.reasons["the judge is away"] == failed
    assert first.anchors.card.digest != whole.anchors.card.digest
    assert {name for name, _ in asked_about(judge)} == {"p1", "p2"}
    assert len(asked_about(judge)) == again.scored_again == failed, "no verdict that stands is asked for twice"
    assert again.anchors.card.digest == whole.anchors.card.digest
    assert np.array_equal(again.anchors.scores.values, whole.anchors.scores.values)
    assert again.reasons == whole.reasons
    assert again.anchors.card.usage["generator"] == whole.anchors.card.usage["generator"]
    assert (tmp_path / "run" / "records" / "main.jsonl").read_bytes() == records, "what was drawn is not written again"
    assert made(tmp_path / "run", asked, stopped_after(0)).scored_again == 0, "and now it is finished"


def test_the_judge_is_asked_about_the_answers_that_were_drawn(tmp_path: Path) -> None:
    first, again = away_for("p0", "p1"), drawing_nothing()
    made(tmp_path, prompts(2), first, concurrency=1)
    made(tmp_path, prompts(2), again, concurrency=1)
    assert isinstance(first.scorer, ScriptedScorer)
    assert isinstance(again.scorer, ScriptedScorer)
    assert again.scorer.requests == [each for each in first.scorer.requests if "B" not in each[1].text]


def test_a_kill_while_scoring_again_loses_no_verdict(tmp_path: Path) -> None:
    asked = prompts(4)
    whole = made(tmp_path / "whole", asked, a_roller(by_length))
    made(tmp_path / "run", asked, away_for("p0", "p1", "p2"))
    before = {each.prompt_id: len(each.failed) for each in read_rollouts(tmp_path / "run")}

    def killed_at_p1(prompt: Prompt, answer: Completion) -> Verdict:
        if prompt.id == "p1":
            raise Stop
        return by_length(prompt, answer)

    with pytest.raises(Stop):
        made(tmp_path / "run", asked, drawing_nothing(killed_at_p1), concurrency=1)
    left = {each.prompt_id: len(each.failed) for each in read_rollouts(tmp_path / "run")}
    assert left == before | {"p0": 0}
    with (tmp_path / "run" / "rescored" / "records" / "main.jsonl").open("ab") as file:
        file.write(b'{"id":"1:p1","prompt":"p1","sco')  # as a kill within a write leaves it
    found = made(tmp_path / "run", asked, drawing_nothing())
    assert found.scored_again == before["p1"] + before["p2"]
    assert whole.anchors
    assert found.anchors
    assert found.anchors.card.digest == whole.anchors.card.digest


def test_a_judge_that_fails_again_is_asked_again(tmp_path: Path) -> None:
    asked = prompts(2)
    whole = made(tmp_path / "whole", asked, a_roller(by_length))
    outcomes = [made(tmp_path / "run", asked, away_for("p1", but=but)) for but in (1, 1, 0, K)]
    failed = [outcome.reasons.get("the judge is away", 0) for outcome in outcomes]
    assert failed[0] > failed[1] == failed[2] > failed[3] == 0, "a verdict that was reached stays"
    for outcome in outcomes:
        assert outcome.anchors
        assert sum(outcome.reasons.values()) == sum(outcome.anchors.card.unscored.values())
    assert whole.anchors
    assert outcomes[-1].anchors
    assert outcomes[-1].anchors.card.digest == whole.anchors.card.digest


def test_rollouts_are_drawn_and_others_scored_again_by_one_command_and_in_any_shards(tmp_path: Path) -> None:
    asked = prompts(6)
    whole = made(tmp_path / "whole", asked, a_roller(by_length))
    made(tmp_path / "run", asked, away_for("p0", "p1", "p2"), shard="1/2")
    made(tmp_path / "run", asked, away_for("p0", "p1", "p2"))  # draws the other half
    for shard in ("1/2", "2/2"):
        found = made(tmp_path / "run", asked, drawing_nothing(), shard=shard)
    assert whole.anchors
    assert found.anchors
    assert found.anchors.card.digest == whole.anchors.card.digest


def test_a_shard_that_saves_late_does_not_put_back_what_another_has_scored_again(tmp_path: Path) -> None:
    asked, run = prompts(6), tmp_path / "run"
    whole = made(tmp_path / "whole", asked, a_roller(by_length))
    late = made(run, asked, away_for(*(prompt.id for prompt in asked)))
    assert late.anchors
    assert whole.anchors
    made(run, asked, drawing_nothing(), shard="2/2")
    saved = save_latest(late, run, asked)
    kept = AnchorSet.load(run)
    assert saved.anchors is not None
    assert saved.anchors.card.digest == kept.card.digest, "what is reported is what was saved"
    assert saved.reasons["the judge is away"] == kept.card.unscored["judge"]
    assert kept.card.unscored["judge"] < late.anchors.card.unscored["judge"]
    made(run, asked, drawing_nothing(), shard="1/2")
    save_latest(saved, run, asked)
    assert AnchorSet.load(run).card.digest == whole.anchors.card.digest


def test_what_costs_to_score_again_is_counted(tmp_path: Path) -> None:
    class Charging(ScriptedScorer):
        async def score(
            self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage
        ) -> list[Score | Unscored]:
            usage.tokens_fed += len(responses)
            return await super().score(prompt, responses, usage)

    def fed(rule: Callable[[Prompt, Completion], Verdict]) -> int:
        roller = a_roller()
        roller.scorer = Charging(rule)
        found = made(tmp_path, prompts(2), roller)
        assert found.anchors
        return int(found.anchors.card.usage["evaluator"]["tokens_fed"])

    assert [fed(lambda *_: Unscored("away", blame="judge")) for _ in range(2)] == [2 * K, 4 * K]
    assert [fed(by_length) for _ in range(2)] == [6 * K, 6 * K]


def test_two_shards_make_one_set(tmp_path: Path) -> None:
    asked = prompts(6)
    first = made(tmp_path / "parts", asked, shard="1/2")
    assert first.anchors is None
    assert 0 < first.finished < 6
    second, whole = made(tmp_path / "parts", asked, shard="2/2"), made(tmp_path / "whole", asked)
    assert second.anchors
    assert whole.anchors
    assert second.anchors.card.digest == whole.anchors.card.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: (prompts(3), a_roller()), "prompts_sha256 is"),
        (lambda: ([*prompts(1), a_prompt("changed", "p1")], a_roller()), "prompts_sha256 is"),
        (lambda: (prompts(2), hotter()), "sampling.temperature is 1.0 there and 1.5 here"),
    ],
)
def test_a_run_of_another_setting_is_refused(
    tmp_path: Path, change: Callable[[], tuple[list[Prompt], Roller]], said: str
) -> None:
    made(tmp_path, prompts(2))
    asked, roller = change()
    with pytest.raises(RunError, match="made by another configuration") as caught:
        made(tmp_path, asked, roller)
    assert said in str(caught.value)


def hotter() -> Roller:
    roller = a_roller()
    roller.sampling = Sampling(max_new_tokens=6, temperature=1.5)
    return roller


def test_a_failed_prompt_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    def endless(prompt: Prompt, answer: Completion) -> Verdict:
        return Score(float("inf")) if prompt.id == "p1" else by_length(prompt, answer)

    with pytest.raises(RunError, match="1 of 3 items failed: p1: a score is inf"):
        made(tmp_path, prompts(3), a_roller(endless))
    assert {record["id"] for record in read_records(tmp_path, KIND)} == {"p0", "p2"}


def test_prompts_without_room_for_the_longest_answer_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    roller, asked = drawing_nothing(), [*prompts(1), a_prompt("short", "a"), a_prompt("longer", "b")]
    taken = [len(roller.chat.prompt_ids(prompt)) for prompt in asked]
    assert taken[0] > taken[2] > taken[1]
    roller.engine.context_length = taken[2] + SHORT.max_new_tokens - 1  # type: ignore[misc]
    with pytest.raises(ContextOverflow) as caught:
        made(tmp_path / "run", asked, roller)
    assert str(caught.value) == (
        f"prompt 'p0' has {taken[0]} tokens, and the model's context of {taken[2] + 5} has no room for 6 more "
        "(2 prompts are too long): shorten it, leave it out, or give a smaller --max-new-tokens"
    )
    assert not (tmp_path / "run").exists()
    fitting = a_roller(context=taken[0] + SHORT.max_new_tokens)
    made(tmp_path / "run", asked, fitting)
    stops = {stop for each in read_rollouts(tmp_path / "run") for stop in each.stops}
    assert StopReason.CONTEXT not in stops


def test_prompts_without_room_in_the_scorers_context_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    class Limited(ScriptedScorer):
        def room(self, prompt: Prompt) -> int:
            return SHORT.max_new_tokens - (prompt.id == "p1")

    roller = drawing_nothing()
    roller.scorer = Limited([])
    with pytest.raises(ContextOverflow, match="scripted can judge answers of at most 5 tokens to prompt 'p1'"):
        made(tmp_path / "run", prompts(3), roller)
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_the_chat_template_refuses_is_named(tmp_path: Path) -> None:
    def refusing(prompt: Prompt) -> tuple[int, ...]:
        raise InputError("the chat template refuses this conversation")

    roller = drawing_nothing()
    roller.chat.prompt_ids = refusing  # type: ignore[method-assign]
    with pytest.raises(InputError, match="prompt 'p0': the chat template refuses"):
        made(tmp_path, prompts(2), roller)


def test_a_prompt_that_fills_the_context() -> None:
    with pytest.raises(ContextOverflow):
        asyncio.run(a_roller(context=5)(a_prompt("too long")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=f"a score is {value}"):
        asyncio.run(a_roller(lambda *_: Score(value))(a_prompt()))


def test_one_verdict_a_response_is_required() -> None:
    class Short(ScriptedScorer):
        async def score(
            self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage
        ) -> list[Score | Unscored]:
            return [Score(1.0)]

    roller = a_roller()
    roller.scorer = Short([])
    with pytest.raises(InputError, match="gave 1 verdicts on 5 responses"):
        asyncio.run(roller(a_prompt()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 1}, "k is 1: calibration compares"),
        ({"sampling": Sampling(temperature=0)}, "temperature is 0, and 5 rollouts would be one answer 5 times"),
        ({"scorer": "oracle"}, "the oracle knows the truth that training is measured by"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_anything_is_loaded(change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"model": "none", "scorer": "reward", "k": K, "seed": 0, "sampling": SHORT}
    with pytest.raises(InputError, match=said):
        Job(**(given | change))
    Job(**(given | {"scorer": "oracle", "allow_oracle_guide": True}))


def test_a_missing_model(tmp_path: Path) -> None:
    job = Job(model=str(tmp_path / "none"), scorer="self", k=K, seed=0, sampling=SHORT)
    with pytest.raises(ModelError, match="there is no model directory"):
        job.load()


def test_the_shared_prefix_changes_no_rollout(llama_dir: Path, short_template: str) -> None:
    """On a real engine: K draws in one batch are what K engines would draw alone, and the prompt is fed once."""
    roller = Job(model=str(llama_dir), scorer=short_template, k=K, seed=3, sampling=SHORT).load()
    prompt = a_prompt("How do I water a fern?")
    together = asyncio.run(roller(prompt))
    prefix = len(roller.chat.prompt_ids(prompt))
    assert together.usage.generator.tokens_fed < prefix + K * SHORT.max_new_tokens
    alone = load(str(llama_dir), ModelOptions())
    one = asyncio.run(
        draw(alone.engine, alone.chat, prompt, 1, seed=derive(3, "anchors"), sampling=SHORT, usage=RoleUsage())
    )
    assert one[0].token_ids == together.token_ids[0]
    again = asyncio.run(roller(prompt))
    assert again.token_ids == together.token_ids
    assert again.scores.values.tolist() == pytest.approx(together.scores.values.tolist(), abs=1e-6)
    assert roller.facts()["weights"].startswith("sha256:")
