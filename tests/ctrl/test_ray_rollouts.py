"""The Ray job against the local one: the same tokens, the same scores, and one prompt's failure is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inferalign.ctrl.ray_rollouts")  # before Ray: it says where Ray may listen

import numpy as np
import ray.util
from ray.exceptions import RayActorError, RayTaskError

from inferalign.core.errors import ContextOverflow, InputError, ModelError, RunError
from inferalign.core.files import dump_json, parse_json
from inferalign.core.jobs import QUIET
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.ray_rollouts import OnRay, Worker, _prompt, _ray_errors, as_row
from inferalign.ctrl.roller import Job
from inferalign.ctrl.rollout_records import Rollouts, from_record, read_rollouts, to_record
from inferalign.ctrl.rollouts import Local, calibrate
from inferalign.ctrl.scored import JUDGE, Scored
from inferalign.procedures.base import Sampling
from tests.toy import a_prompt

# Ray warns of its own ways, and leaves its processes to end by themselves.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]


def a_job(model: Path, template: str) -> Job:
    return Job(model=str(model), scorer=template, k=3, seed=3, sampling=Sampling(max_new_tokens=6))


def prompts(n: int) -> list[Prompt]:
    return [a_prompt(f"question {i}?", f"p{i}") for i in range(n)]


LONG = a_prompt("word " * 2000, "long")


def test_a_worker_makes_the_local_records_and_tells_its_errors(llama_dir: Path, short_template: str) -> None:
    """What runs in a worker, without a cluster."""
    worker, records = Worker(a_job(llama_dir, short_template)), dict[str, Any]()
    Local(a_job(llama_dir, short_template).load(), 2).make(
        prompts(2), lambda record: records.update({record["id"]: record}), QUIET
    )
    for prompt in prompts(2):
        row = worker(as_row(prompt))
        assert (row["id"], row["error"]) == (prompt.id, "")
        found, local = from_record(parse_json(row["record"])), from_record(records[prompt.id])
        assert found.token_ids == local.token_ids
        assert found.scores.values == pytest.approx(local.scores.values, abs=1e-5)
        again = from_record(parse_json(worker(as_row(prompt, failed(local)))["record"]))
        assert again.token_ids == local.token_ids
        assert again.scores.values == pytest.approx(local.scores.values, abs=1e-5)
        assert (again.failed, again.usage.generator) == ([], local.usage.generator)
    row = worker(as_row(LONG))
    assert row["record"] == b""
    assert "shorten the prompt" in row["error"]


def failed(rollouts: Rollouts) -> Rollouts:
    """As they would be if the judge had been away for the last two of the three."""
    values = rollouts.scores.values * (1, 0, 0)
    return replace(rollouts, scores=Scored(values, np.array([0, JUDGE, JUDGE], dtype=np.uint8)))


def test_a_prompt_travels_whole() -> None:
    for prompt in (
        Prompt(id="a", messages=a_prompt().messages, meta={"answer": [1, None]}),
        Prompt(id="b", messages=a_prompt().messages, token_ids=(1, 2)),
    ):
        assert _prompt(as_row(prompt)["prompt"]) == prompt


def test_errors_come_out_as_ours() -> None:
    with pytest.raises(ModelError, match="no such model"), _ray_errors():
        raise RayTaskError("load", "a traceback", ModelError("no such model"))
    with pytest.raises(RunError, match=r"the Ray job stopped: .*What finished is kept"), _ray_errors():
        raise RayActorError(error_msg="a traceback\n\nthe node died")
    with pytest.raises(RunError, match="one of ours"), _ray_errors():
        raise RunError("one of ours")


def test_a_cluster_that_is_not_there(llama_dir: Path, short_template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(**settings: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    monkeypatch.setattr(ray, "init", nothing)
    with pytest.raises(RunError, match=r"10\.0\.0\.9:6379.: Could not find.*Check RAY_ADDRESS"):
        OnRay(a_job(llama_dir, short_template), 1).__enter__()


def test_a_cluster_of_our_own_that_others_could_reach_is_refused_and_ended(
    llama_dir: Path, short_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **settings: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.2")
    with pytest.raises(RunError, match="listen on this machine alone: set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"):
        OnRay(a_job(llama_dir, short_template), 1).__enter__()
    assert ended


def test_no_workers(llama_dir: Path, short_template: str) -> None:
    with pytest.raises(InputError, match="ray is 0: give the number of workers"):
        OnRay(a_job(llama_dir, short_template), 0)


async def judge_away(prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
    return [Unscored("the judge is away", blame="judge")] * len(responses)


@pytest.mark.slow
def test_two_workers_make_what_one_process_makes(tmp_path: Path, llama_dir: Path, short_template: str) -> None:
    """One cluster for all of it, as starting one takes seconds: facts, records, a failed prompt, the address."""
    job = a_job(llama_dir, short_template)
    local = Local(job.load(), 2)
    whole = calibrate(local, prompts(4), tmp_path / "local", k=3, seed=3)
    assert whole.anchors
    away = job.load()
    away.scorer.score = judge_away  # type: ignore[method-assign]
    calibrate(Local(away, 2), prompts(4), tmp_path / "away", k=3, seed=3)
    with OnRay(job, 2) as source:
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        with pytest.raises(ContextOverflow, match=r"prompt 'long' has .* tokens"):
            calibrate(source, [*prompts(4), LONG], tmp_path / "ray", k=3, seed=3)
        kept: list[str] = []
        with pytest.raises(RunError, match="1 of 2 items failed: long: "):
            source.make([*prompts(1), LONG], lambda record: kept.append(record["id"]), QUIET)
        assert kept == ["p0"]
        calibrate(source, prompts(4), tmp_path / "ray", k=3, seed=3)
        again = calibrate(source, prompts(4), tmp_path / "away", k=3, seed=3)
    assert not ray.is_initialized()
    expected = {each.prompt_id: each for each in read_rollouts(tmp_path / "local")}
    found = {each.prompt_id: each for each in read_rollouts(tmp_path / "ray")}
    assert found.keys() == expected.keys()
    for name, rollouts in found.items():
        assert rollouts.token_ids == expected[name].token_ids
        assert rollouts.stops == expected[name].stops
        assert rollouts.scores.values == pytest.approx(expected[name].scores.values, abs=1e-5)
        assert dump_json(to_record(rollouts)["reasons"]) == b"{}"
    assert again.scored_again == 12
    assert again.anchors
    assert again.anchors.scores.values == pytest.approx(whole.anchors.scores.values, abs=1e-5)
    config = parse_json((tmp_path / "ray" / "config.json").read_bytes())
    same = parse_json((tmp_path / "local" / "config.json").read_bytes())
    assert config == same
