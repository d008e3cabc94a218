"""Our procedures as a model inside Inspect: the answers that Python gives, costs said, settings mapped or refused."""

from __future__ import annotations

import asyncio
import contextvars
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig, ModelOutput
from inspect_ai.solver import TaskState
from inspect_ai.solver._task_state import set_sample_state
from inspect_ai.tool import ToolInfo

import inferalign
from inferalign.agency.inspect_provider import InferalignAPI
from inferalign.core.errors import InputError, ModelError, TransientError, UnknownName
from inferalign.core.types import Message, Prompt
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling

ROOT = Path(__file__).parents[2]
TALK = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="Hello"), ChatMessageAssistant(content="Yes?")]


def say(api: InferalignAPI, *texts: str, **settings: Any) -> list[ModelOutput]:
    """All at once, as Inspect asks."""
    config = GenerateConfig(**{"max_tokens": 8, **settings})

    async def ask() -> list[ModelOutput]:
        calls = (api.generate([*TALK, ChatMessageUser(content=text)], [], "none", config) for text in texts)
        return await asyncio.gather(*calls)

    return asyncio.run(ask())


def in_python(model: Any, procedure: str, prompt_id: str, text: str, **more: Any) -> str:
    messages = (*(Message(role=m.role, content=m.text) for m in TALK), Message(role="user", content=text))
    (result,) = inferalign.generate(model, procedure, [Prompt(id=prompt_id, messages=messages)], **more)
    return result.response.text


@pytest.fixture(scope="module")
def sampler(llama_dir: Path) -> InferalignAPI:
    return InferalignAPI(f"sample/{llama_dir}", seed=5)


def test_an_answer_is_the_one_that_python_gives(sampler: InferalignAPI, llama_dir: Path) -> None:
    outputs = say(sampler, "How are you?", "What is the time?", temperature=0.8, top_k=20)
    loaded = load(str(llama_dir), ModelOptions())
    for output, text in zip(outputs, ("How are you?", "What is the time?"), strict=True):
        own = in_python(
            loaded, "sample", output.metadata["prompt_id"], text, seed=5,
            sampling=Sampling(temperature=0.8, top_k=20, max_new_tokens=8),
        )  # fmt: skip
        assert output.completion == own
    assert outputs[0].stop_reason in ("stop", "max_tokens")


def test_epochs_differ_and_a_second_run_gives_the_same(llama_dir: Path) -> None:
    first, second, other = (InferalignAPI(f"sample/{llama_dir}", seed=seed) for seed in (5, 5, 6))
    texts = ["How are you?"] * 3
    drawn = [[output.completion for output in say(api, *texts)] for api in (first, second, other)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
    assert drawn[0] != drawn[2]
    assert [output.completion for output in say(InferalignAPI(f"sample/{llama_dir}"), *texts, seed=5)] == drawn[0]


def test_a_retried_evaluation_goes_on_with_the_draws_of_its_own_epochs(llama_dir: Path) -> None:
    """`inspect eval-retry` keeps finished samples and asks the others in a new process, which counts from 0."""

    def in_sample(api: InferalignAPI, epoch: int, sample: int) -> tuple[str, str]:
        set_sample_state(TaskState(model="m", sample_id=sample, epoch=epoch, input="How are you?", messages=[]))
        (output,) = say(api, "How are you?")
        return output.metadata["prompt_id"], output.completion

    def drawn(api: InferalignAPI, epochs: list[int], sample: int = 1) -> list[tuple[str, str]]:
        return [contextvars.copy_context().run(in_sample, api, epoch, sample) for epoch in epochs]

    once, first, retried = (InferalignAPI(f"sample/{llama_dir}", seed=5) for _ in range(3))
    whole = drawn(once, [1, 2, 3])
    assert drawn(first, [1]) + drawn(retried, [2, 3]) == whole
    assert len({completion for _, completion in whole}) == 3
    assert drawn(retried, [1], sample=2) != whole[:1], "another sample of the same words"


def test_temperature_zero_is_greedy(sampler: InferalignAPI) -> None:
    texts = {output.completion for output in say(sampler, *["How are you?"] * 3, temperature=0, top_p=0.95)}
    assert len(texts) == 1


def test_usage_counts_all_that_was_computed(llama_dir: Path, short_template: str, sampler: InferalignAPI) -> None:
    api = InferalignAPI(f"best-of-n:3/{llama_dir}", scorer=short_template)
    (one,) = say(sampler, "How are you?")
    (best,) = say(api, "How are you?")
    assert one.usage.output_tokens == one.metadata["usage"]["generator"]["new_tokens"] == one.metadata["answer_tokens"]
    assert best.usage.output_tokens > one.usage.output_tokens
    assert best.metadata["usage"]["evaluator"]["tokens_fed"] > 0
    assert best.usage.input_tokens > one.usage.input_tokens > 0
    usage = best.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens + usage.input_tokens_cache_read
    assert best.metadata["procedure"]["procedure"] == "best-of-n:3"
    json.dumps(best.metadata)


@pytest.mark.parametrize(
    ("procedure", "settings", "words"),
    [
        ("best-of-n:3", {"temperature": 0}, "add --temperature 1 --top-p 1"),
        ("sample", {"temperature": 1, "top_p": 0.95}, "Add --top-p 1"),
        ("sample", {"stop_seqs": ["x"]}, "stop_seqs"),
        ("sample", {"num_choices": 2}, "num_choices"),
    ],
)
def test_settings_that_a_procedure_has_not(
    procedure: str, settings: dict[str, Any], words: str, llama_dir: Path, short_template: str
) -> None:
    api = InferalignAPI(f"{procedure}/{llama_dir}", scorer=short_template)
    with pytest.raises(InputError, match=words):
        say(api, "How are you?", **settings)


def test_tools_are_refused(sampler: InferalignAPI) -> None:
    call = sampler.generate(TALK, [ToolInfo(name="look", description="looks")], "auto", GenerateConfig())
    with pytest.raises(InputError, match="no tools"):
        asyncio.run(call)


def test_names_that_are_none(llama_dir: Path, tmp_path: Path) -> None:
    for name, error, words in (
        ("rain", InputError, "type inferalign/PROCEDURE/MODEL"),
        (f"best-of-m:4/{llama_dir}", UnknownName, "best-of-n"),
        (f"sample/{tmp_path}", ModelError, str(tmp_path)),
    ):
        with pytest.raises(error, match=words):
            InferalignAPI(name)
    with pytest.raises(InputError, match="-M dtpye: no such option"):
        InferalignAPI(f"sample/{llama_dir}", dtpye="float32")


def test_only_what_may_pass_is_repeated(sampler: InferalignAPI) -> None:
    assert sampler.should_retry(TransientError("busy"))
    assert not sampler.should_retry(InputError("no"))


PROBE = """
import json, sys
from inspect_ai import eval
from inspect_ai.model import get_model
from tests.agency.inspect_mock import echo, mock, verdict_by_text
(log,) = eval(
    "inferalign/human_agency", task_args={"dimension": "encourage_learning"}, limit=2, display="none",
    model=mock("subject", echo), model_roles={"judge": mock("judge", verdict_by_text)}, log_dir=sys.argv[1],
)
loaded = sorted({"torch", "inferalign.agency.inspect_provider"} & sys.modules.keys())
try:
    get_model("inferalign/rain")
except Exception as error:
    said = str(error)
print(json.dumps([log.status, log.eval.task, len(log.samples), loaded, said, str(log.error)[:300]]))
"""


def test_inspect_finds_both_by_their_names(tmp_path: Path) -> None:
    """In a fresh interpreter, with the package's metadata as an installation of it would have them."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    info = tmp_path / "path" / "inferalign-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: inferalign\nVersion: 0.1.0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": ROOT.as_uri(), "dir_info": {"editable": True}}))
    lines = [f"{name} = {target}" for name, target in named.items()]
    (info / "entry_points.txt").write_text("\n".join(["[inspect_ai]", *lines, ""]))
    places = [str(info.parent), str(ROOT / "src"), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "logs")],
        env={"PYTHONPATH": ":".join(places), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    status, task, samples, loaded, said, error = json.loads(done.stdout.splitlines()[-1])
    assert (status, task, samples) == ("success", "inferalign/human_agency", 2), error
    assert loaded == []
    assert "type inferalign/PROCEDURE/MODEL" in said
