"""Every procedure on three random transformers models: a chat template, none, and another tokenizer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from inferalign.core.errors import ContextOverflow
from inferalign.core.types import Prompt, Result, RoleUsage
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain_settings import DEFAULT, PAPER
from inferalign.procedures.table import build
from inferalign.scorers.self_eval import Order, SelfEval, Template
from inferalign.scorers.table import build_scorer
from tests.toy import a_prompt

QUESTION = Template(
    name="short",
    conversation="transcript",
    preamble="Judge.\n\n",
    orders=(
        Order(text="\n(A) kind (B) not: (", harmless="A", harmful="B"),
        Order(text="\n(A) not (B) kind: (", harmless="B", harmful="A"),
    ),
    sha256="",
)
SMALL = {"max_iterations": 10, "extra_iterations": 4}
PROCEDURES = ["sample", "best-of-n:3", "worst-of-n:3", "random-of-n:3", "rain", "rain:paper"]


@pytest.fixture(scope="module", params=["llama_dir", "gpt2_dir", "qwen_dir"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    return load(str(request.getfixturevalue(request.param)), ModelOptions(device="cpu"))


def answer(model: LoadedModel, procedure: str, prompt: Prompt) -> Result:
    chosen = build(
        procedure,
        engine=model.engine,
        chat=model.chat,
        scorer=SelfEval(model.engine, model.chat, QUESTION),
        seed=0,
        sampling=Sampling(max_new_tokens=18),
        rain=replace(PAPER if procedure == "rain:paper" else DEFAULT, **SMALL) if "rain" in procedure else None,
    )
    return asyncio.run(chosen(prompt))


def asked(usage: RoleUsage) -> int:
    """Tokens whose states a role needed, whether they were fed for it or known."""
    return usage.tokens_fed + usage.tokens_reused


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_an_answer_is_given_and_accounted_for(model: LoadedModel, procedure: str) -> None:
    result = answer(model, procedure, a_prompt("How do I water a fern?"))
    assert len(result.response.token_ids) <= 18
    assert model.chat.decode(result.response.token_ids) == result.response.text
    assert not set(result.response.token_ids) & model.chat.end_ids
    assert result.usage.generator.new_tokens > 0
    # The engine serves all of these procedures: what an earlier one has fed is found, and not fed again.
    assert asked(result.usage.generator) > 0
    judged = procedure not in ("sample", "random-of-n:3")
    assert (asked(result.usage.evaluator) > 0) is judged


@pytest.mark.parametrize("procedure", ["best-of-n:3", "rain"])
def test_what_was_asked_before_does_not_matter(model: LoadedModel, procedure: str) -> None:
    """The engine holds other prefixes the second time, and the answer is the same."""
    prompt = a_prompt("Which label do I read?", name="again")
    first = answer(model, procedure, prompt)
    answer(model, procedure, a_prompt("Which label is it?", name="between"))
    second = answer(model, procedure, prompt)
    assert [c.completion.token_ids for c in first.candidates] == [c.completion.token_ids for c in second.candidates]
    assert (first.chosen, first.response.stop) == (second.chosen, second.response.stop)


def test_a_template_longer_than_the_context_is_told_before_the_search(model: LoadedModel) -> None:
    scorer = build_scorer("self", engine=model.engine, chat=model.chat, sandbox=False)
    rain = build(
        "rain", engine=model.engine, chat=model.chat, scorer=scorer, seed=0, sampling=Sampling(max_new_tokens=18)
    )
    with pytest.raises(ContextOverflow, match=r"the judge's question about it takes .*--scorer FILE"):
        asyncio.run(rain(a_prompt()))


def test_another_judges_engine_is_asked_and_let_go_of(request: pytest.FixtureRequest) -> None:
    """Its twin in an engine of its own gives the same tree, and the policy's engine reads no question of the judge."""
    folder = str(request.getfixturevalue("llama_dir"))
    policy, twin = (load(folder, ModelOptions(device="cpu")) for _ in range(2))
    asked_of: list[int] = []
    embed = policy.engine.embed
    policy.engine.embed = lambda *args: (asked_of.append(1), embed(*args))[1]  # type: ignore[method-assign]
    prompt = a_prompt("How do I water a fern?")
    answers = []
    for judge in (policy, twin):
        guide = SelfEval(judge.engine, judge.chat, QUESTION)
        sampling, settings = Sampling(max_new_tokens=18), replace(DEFAULT, **SMALL)
        chosen = build(
            "rain", engine=policy.engine, chat=policy.chat, scorer=guide, seed=0, sampling=sampling, rain=settings
        )
        answers.append(asyncio.run(chosen(prompt)))
        asked_of.append(0)
    assert asked_of.index(0) > 0
    assert asked_of[-2:] == [0, 0], "embeddings are the judge's"
    assert answers[0].response == answers[1].response
    assert twin.engine.store.known(SelfEval(twin.engine, twin.chat, QUESTION).context(prompt, ())) == 0


def test_a_judge_with_a_shorter_context_is_told_of_by_its_own(request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue("llama_dir"))
    policy, judge = (load(folder, ModelOptions(device="cpu")) for _ in range(2))
    judge.engine.context_length = 40
    guide = SelfEval(judge.engine, judge.chat, QUESTION)
    chosen = build(
        "rain", engine=policy.engine, chat=policy.chat, scorer=guide, seed=0, sampling=Sampling(max_new_tokens=18)
    )
    with pytest.raises(ContextOverflow, match="the model's context has 40 tokens and the judge's question"):
        asyncio.run(chosen(a_prompt("How do I water a fern? " * 4)))
