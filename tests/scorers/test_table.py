"""Scorers by their text form: what each asks, another model as the judge, and what is refused."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

import inferalign
from inferalign.core.errors import InputError, ModelError, UnknownName
from inferalign.core.types import Completion, RoleUsage, Score, StopReason
from inferalign.engines.base import LabelLogprobs
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.scorers.table import SCORERS, build_scorer
from tests.models import build_llama
from tests.plain import QUESTION
from tests.toy import CharChat, PlainEngine, a_prompt, ngram_forward

CHAT: Any = CharChat()


class Sure(PlainEngine):
    """Says harmless, 9 to 1, in either order of the options."""

    async def label_logprobs(self, prefixes: Any, labels: Any, usage: RoleUsage) -> list[LabelLogprobs]:
        answers = []
        for prefix in prefixes:
            first = "(A) harmless" in CHAT.decode(prefix) or "(A) fine" in CHAT.decode(prefix)
            shares = [0.9 if (label == ord("A")) == first else 0.1 for label in labels]
            answers.append(LabelLogprobs(logprobs=tuple(map(math.log, shares)), mass=1.0))
        return answers


def build(text: str, *, sandbox: bool = True) -> Any:
    return build_scorer(text, engine=Sure(ngram_forward, CHAT.decode), chat=CHAT, sandbox=sandbox)


def values(scorer: Any, *texts: str) -> list[float]:
    answers = [Completion(token_ids=tuple(t.encode()), text=t, stop=StopReason.PARTIAL) for t in texts]
    verdicts = asyncio.run(scorer.score(a_prompt(), answers, RoleUsage()))
    assert all(isinstance(verdict, Score) for verdict in verdicts)
    return [verdict.value for verdict in verdicts]


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("self", "sandbox"),
        ("self-agency", "sandbox-agency"),
        ("self-shuffled", "sandbox"),
        ("self-agency-shuffled", "sandbox-agency"),
        ("self-flipped:0.2", "sandbox"),
        ("self-agency-flipped:0.2", "sandbox-agency"),
    ],
)
def test_each_name_asks_its_own_question(text: str, template: str) -> None:
    assert text.partition(":")[0] in SCORERS
    described = build(text).describe()
    assert described.get("inner", described)["template"] == template


def test_the_agency_question_is_the_sandboxs_own() -> None:
    with pytest.raises(InputError, match=r"only the sandbox model was trained to answer: give --scorer self"):
        build("self-agency", sandbox=False)


def test_flips_turn_their_share_of_the_texts_and_always_the_same() -> None:
    texts = [f"a{i}" for i in range(400)]
    plain, none, all_of_them = (values(build(name), *texts) for name in ("self", "self-flipped:0", "self-flipped:1"))
    assert plain == pytest.approx([0.8] * 400)
    assert (none, all_of_them) == ([1.0] * 400, [-1.0] * 400), "verdicts alone"
    some = values(build("self-flipped:0.2"), *texts)
    turned = {text for text, value in zip(texts, some, strict=True) if value < 0}
    assert 0.14 * 400 < len(turned) < 0.26 * 400
    assert some == values(build("self-flipped:0.2"), *texts)
    more = values(build("self-flipped:0.4"), *texts)
    assert turned < {text for text, value in zip(texts, more, strict=True) if value < 0}
    assert build("self-flipped:0.2").describe() != build("self-flipped:0.4").describe(), "a run folder tells them apart"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("self-flipped", "expected a share from 0 to 1"),
        ("self-flipped:2", "expected a share from 0 to 1"),
        ("self-flipped:nan", "expected a share from 0 to 1"),
        ("self-flipped:much", "expected a share from 0 to 1"),
        ("self-shuffled:x", "takes nothing after a colon"),
        ("oracle:x", "takes nothing after a colon"),
        ("self:", "names no model"),
        ("reward:", "names no folder"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(text)


def test_a_typing_error_has_a_did_you_mean() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'self-agency'"):
        build("self-agnecy")


@pytest.fixture(scope="module")
def other_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the tokenizer of `llama_dir`."""
    return build_llama(tmp_path_factory.mktemp("judge"), hidden=32)


def test_another_model_judges_and_the_policy_stays(
    llama_dir: Path, other_judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same candidates, the other's scores; and a search runs on the two together."""
    question = tmp_path / "harmless.toml"
    question.write_text(QUESTION)
    # The shipped question fills more than these models' context.
    monkeypatch.setattr("inferalign.scorers.table._template", lambda *_: question)
    sampling = Sampling(max_new_tokens=6)
    own, other, theirs = (
        inferalign.generate(str(model), "best-of-n:3", ["hi"], scorer=scorer, sampling=sampling)[0]
        for model, scorer in ((llama_dir, "self"), (llama_dir, f"self:{other_judge}"), (other_judge, "self"))
    )
    assert [c.completion for c in own.candidates] == [c.completion for c in other.candidates]
    assert [c.completion for c in own.candidates] != [c.completion for c in theirs.candidates]
    judge = load(str(other_judge), ModelOptions())
    direct = build_scorer("self", engine=judge.engine, chat=judge.chat, sandbox=False)
    completions = [candidate.completion for candidate in own.candidates]
    verdicts = asyncio.run(direct.score(own.prompt, completions, RoleUsage()))
    assert [c.score for c in other.candidates] == verdicts
    assert [c.score for c in own.candidates] != verdicts
    (searched,) = inferalign.generate(
        str(llama_dir), "rain", ["hi"], scorer=f"self:{other_judge}", sampling=Sampling(max_new_tokens=3)
    )
    assert searched.usage.evaluator.tokens_fed > 0


def test_a_judge_with_another_tokenizer_is_refused(llama_dir: Path, qwen_dir: Path) -> None:
    with pytest.raises(ModelError, match="another tokenizer than the model that answers"):
        inferalign.generate(str(llama_dir), "best-of-n:2", ["hi"], scorer=f"self:{qwen_dir}")
    with pytest.raises(ModelError, match="there is no model directory"):
        inferalign.generate(str(llama_dir), "best-of-n:2", ["hi"], scorer="self:/no/such/judge")
