"""The Python API: what prompts may be, what comes back, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import inferalign
from inferalign.core.errors import InputError, RunError
from inferalign.core.prompts import as_prompts
from inferalign.core.records import read_records
from inferalign.core.types import Message, Prompt, Result
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain_settings import DEFAULT

SHORT = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def model(llama_dir: Path) -> LoadedModel:
    return load(str(llama_dir), ModelOptions())


def user(text: str) -> Message:
    return Message(role="user", content=text)


def test_generate_has_the_arguments_of_agenerate_and_is_refused_inside_a_loop(model: LoadedModel) -> None:
    assert signature(inferalign.generate) == signature(inferalign.agenerate)

    async def notebook() -> None:
        inferalign.generate(model, "sample", ["one"])

    with pytest.raises(InputError, match=r"inferalign\.generate was called .*: write `await inferalign\.agenerate"):
        asyncio.run(notebook())


def test_prompts_may_be_texts_messages_or_prompts() -> None:
    given = ["one", [{"role": "system", "content": "s"}, user("two")], Prompt(id="x", messages=(user("three"),))]
    made = as_prompts(given)
    assert [prompt.id for prompt in made] == ["0", "1", "x"]
    assert [prompt.text for prompt in made] == ["one", "two", "three"]
    assert made[1].messages[0].role == "system"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no prompts"),
        (["a", Prompt(id="0", messages=(user("b"),))], "'0'"),
        ([" "], "user turn"),
        ([[]], "user turn"),
        ([[{"role": "assistant", "content": "a"}]], "user turn"),
        ([[{"role": "user", "content": "a", "name": "b"}]], "exactly a role"),
        ([[{"role": "tool", "content": "a"}]], "exactly a role"),
        ("How do I", r"one prompt was given where several are expected: give a list, such as \['How do I'\]"),
        ({"role": "user", "content": "a"}, "one prompt was given"),
        (Prompt(id="0", messages=(user("b"),)), "one prompt was given"),
        ([{"role": "user", "content": "a"}], "a conversation goes into a list of its own"),
        ([None], "prompt 0 is None"),
        ([["a"]], "exactly a role"),
        (["a", "b\ud800"], "prompt '1' holds half of a surrogate pair"),
    ],
)
def test_prompts_that_are_refused(given: list[inferalign.Prompt], said: str) -> None:
    with pytest.raises(InputError, match=said):
        as_prompts(given)


def answers(results: list[Result]) -> list[tuple[str, tuple[int, ...]]]:
    return [(result.prompt.id, result.response.token_ids) for result in results]


def test_results_come_in_the_order_of_the_prompts(model: LoadedModel) -> None:
    results = inferalign.generate(model, "sample", ["a", "b", "c"], seed=1, sampling=SHORT, concurrency=3)
    assert [result.prompt.id for result in results] == ["0", "1", "2"]
    assert answers(results) == answers(inferalign.generate(model, "sample", ["a", "b", "c"], seed=1, sampling=SHORT))
    assert answers(results) != answers(inferalign.generate(model, "sample", ["a", "b", "c"], seed=2, sampling=SHORT))


@pytest.mark.parametrize("extra", [{"rain": DEFAULT}, {"encoder": "owner/encoder"}])
def test_search_settings_without_a_search_are_refused(model: LoadedModel, extra: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="does not search"):
        inferalign.generate(model, "best-of-n:2", ["a"], sampling=SHORT, **extra)


@pytest.mark.parametrize(("procedure", "form"), [("rain", "margin"), ("rain:paper", "vote")])
def test_the_negative_control_is_read_in_the_form_of_its_setting(
    model: LoadedModel, tmp_path: Path, procedure: str, form: str
) -> None:
    """The general question is longer than this model's context, so no prompt is answered; the settings are kept."""
    with pytest.raises(RunError, match="context"):
        inferalign.generate(model, procedure, ["a"], scorer="self-shuffled", run=tmp_path, sampling=SHORT)
    guide = json.loads((tmp_path / "config.json").read_text())["procedure"]["guide"]
    assert (guide["scorer"], guide["inner"]["form"]) == ("self-shuffled", form)


def test_a_run_folder_changes_no_result(model: LoadedModel, tmp_path: Path) -> None:
    free = inferalign.generate(model, "random-of-n:2", ["a", "b"], seed=1, sampling=SHORT)
    kept = inferalign.generate(model, "random-of-n:2", ["a", "b"], seed=1, sampling=SHORT, run=tmp_path / "run")
    again = inferalign.generate(model, "random-of-n:2", ["a", "b"], seed=1, sampling=SHORT, run=tmp_path / "run")
    assert answers(free) == answers(kept)
    assert kept == again, "read back from the folder, not made again"


def test_a_shard_returns_its_part(model: LoadedModel, tmp_path: Path) -> None:
    prompts = [f"question {i}" for i in range(6)]
    parts = [
        inferalign.generate(model, "sample", prompts, sampling=SHORT, run=tmp_path / "run", shard=shard)
        for shard in ("1/2", "2/2")
    ]
    assert sorted(r.prompt.id for part in parts for r in part) == [str(i) for i in range(6)]
    assert all(parts)
    assert len(list(read_records(tmp_path / "run"))) == 6


def test_a_shard_without_a_run_is_refused(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="--run"):
        inferalign.generate(model, "sample", ["a"], shard="1/2")


def test_async_and_sync_say_the_same(model: LoadedModel) -> None:
    async def inside() -> list[Result]:
        with pytest.raises(InputError, match="agenerate"):
            inferalign.generate(model, "sample", ["a"], sampling=SHORT)
        return await inferalign.agenerate(model, "sample", ["a"], sampling=SHORT)

    assert answers(asyncio.run(inside())) == answers(inferalign.generate(model, "sample", ["a"], sampling=SHORT))


def test_trees_without_a_run_are_refused(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="trees need a run folder: give `run`"):
        inferalign.generate(model, "rain", ["a"], trees=True)


def streamed(*arguments: Any, **options: Any) -> list[inferalign.Piece]:
    async def collect() -> list[inferalign.Piece]:
        return [piece async for piece in inferalign.stream(*arguments, **options)]

    return asyncio.run(collect())


def test_a_procedure_that_does_not_search_streams_its_answer_in_one_piece(model: LoadedModel) -> None:
    (piece,) = streamed(model, "random-of-n:2", "a", seed=1, sampling=SHORT)
    (result,) = inferalign.generate(model, "random-of-n:2", ["a"], seed=1, sampling=SHORT)
    assert (piece.text, piece.token_ids) == (result.response.text, result.response.token_ids)
    assert piece.result is not None
    assert piece.result.candidates == result.candidates


def test_a_search_streams_what_generate_gives(model: LoadedModel, short_template: str) -> None:
    options: dict[str, Any] = {"seed": 2, "scorer": short_template, "sampling": SHORT}
    options["rain"] = replace(DEFAULT, max_iterations=6, extra_iterations=3)
    pieces = streamed(model, "rain", "a", **options)
    (result,) = inferalign.generate(model, "rain", ["a"], **options)
    assert "".join(piece.text for piece in pieces) == result.response.text
    assert len(pieces) > 1
    assert pieces[-1].result is not None
    assert pieces[-1].result.trace["budget"] == result.trace["budget"]


def test_what_cannot_be_streamed_is_told_at_once(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="Did you mean 'rain'"):
        inferalign.stream(model, "rian", "a")
    with pytest.raises(InputError, match="user turn"):
        inferalign.stream(model, "sample", " ")


def test_the_oracle_is_no_guide_unless_asked_for(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="--allow-oracle-guide"):
        inferalign.generate(model, "best-of-n:2", ["a"], scorer="oracle", sampling=SHORT)


def test_a_failed_prompt_is_named_and_the_others_are_kept(model: LoadedModel, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"1 of 2 items failed: 1: "):
        inferalign.generate(model, "sample", ["a", "word " * 20_000], sampling=SHORT, run=run)
    assert [record["id"] for record in read_records(run)] == ["0"]


def test_a_run_goes_on_where_the_same_model_lies_elsewhere(llama_dir: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / llama_dir.name
    shutil.copytree(llama_dir, moved)
    first = inferalign.generate(str(llama_dir), "sample", ["a"], run=tmp_path / "run", sampling=SHORT)
    both = inferalign.generate(str(moved), "sample", ["a", "b"], run=tmp_path / "run", sampling=SHORT)
    assert both[0].response == first[0].response
    assert len(list(read_records(tmp_path / "run"))) == 2


def test_another_tokenizer_on_the_same_weights_is_another_configuration(llama_dir: Path, tmp_path: Path) -> None:
    changed = tmp_path / llama_dir.name
    shutil.copytree(llama_dir, changed)
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    first, second = list(tokenizer["model"]["vocab"])[-2:]
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    inferalign.generate(str(llama_dir), "sample", ["a"], run=tmp_path / "run", sampling=SHORT)
    with pytest.raises(RunError, match="tokenizer_sha256"):
        inferalign.generate(str(changed), "sample", ["a", "b"], run=tmp_path / "run", sampling=SHORT)


def test_an_answer_that_the_clock_cut_short_is_not_promised_again(tmp_path: Path) -> None:
    settings = replace(DEFAULT, budget_seconds=1e-9)
    inferalign.generate("sandbox", "rain", ["How do I boil an egg?"], run=tmp_path, rain=settings)
    (record,) = read_records(tmp_path, "generate")
    assert record["trace"]["budget"]["ran_out"] == "seconds"
    assert record["determinism"] == "none"


def test_a_failure_says_whether_the_others_are_kept(tmp_path: Path) -> None:
    given = ["How do I boil an egg?", "egg " * 3000]
    with pytest.raises(RunError, match="1 others finished and are lost: give a run folder"):
        inferalign.generate("sandbox", "sample", given)
    with pytest.raises(RunError, match="1 others finished; repeat to try the failed ones again"):
        inferalign.generate("sandbox", "sample", given, run=tmp_path)
