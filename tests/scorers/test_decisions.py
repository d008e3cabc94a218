"""Typed decisions: answers by hand, against plain arithmetic and a bare model; what is asked; the scorer on top."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from inferalign.core.errors import InputError, ModelError, UnknownName
from inferalign.core.types import Completion, RoleUsage, Score, StopReason, TokenIds, Unscored
from inferalign.engines.scripted import ScriptedEngine
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_settings import RainSettings
from inferalign.scorers.base import ContextScorer
from inferalign.scorers.decisions import Answer, Choice, DecisionJudge, DecisionScorer, DecisionSet, Scale, YesNo
from inferalign.scorers.questions import Phrasing
from inferalign.scorers.self_eval import Order, SelfEval, Template
from tests.toy import CharChat, PlainEngine, a_prompt, ngram_forward

CHAT: Any = CharChat()
TURNED = (Phrasing(text="|yn(", labels=("A", "B")), Phrasing(text="|ny(", labels=("B", "A")))
DECIDES = YesNo(name="decides", phrasings=TURNED, good="no")
MOVE = Choice(
    name="move",
    options=("asks", "informs", "decides"),
    phrasings=(Phrasing(text="|aid(", labels=("a", "b", "c")), Phrasing(text="|d,i,a(", labels=("c", "b", "a"))),
    good="asks",
)
HELP = Scale(name="help", levels=(-1, 0, 2), phrasings=(Phrasing(text="|how(", labels=("a", "b", "c")),))
ALL = DecisionSet(name="all", conversation="transcript", preamble="J\n", decisions=(DECIDES, MOVE, HELP))


def completion(ids: str | Sequence[int]) -> Completion:
    token_ids = tuple(ids.encode()) if isinstance(ids, str) else tuple(ids)
    return Completion(token_ids=token_ids, text="", stop=StopReason.PARTIAL)


def ask(engine: Any, asked: DecisionSet, *texts: str) -> list[dict[str, Answer | Unscored]]:
    judge = DecisionJudge(engine, CHAT, asked)
    return asyncio.run(judge.ask(a_prompt("hi"), [completion(text) for text in texts], RoleUsage()))


def logs(*p: float) -> list[float]:
    return [math.log(x) if x else -math.inf for x in p]


# --- answers ---


def test_two_orders_by_hand() -> None:
    """Shares 3/4, 1/4 and 1/4, 3/4: no opinion, whatever the masses 0.8 and 0.4 are."""
    answer = Answer(DECIDES, ((0.6, 0.2), (0.1, 0.3)))
    assert answer.probabilities == pytest.approx({"yes": 0.5, "no": 0.5})
    assert answer.yes == pytest.approx(0.5)
    assert answer.mass == pytest.approx(0.6)
    assert answer.margin == pytest.approx(((0.2 - 0.6) + (0.3 - 0.1)) / 2)
    assert answer.flips


def test_a_choice_by_hand() -> None:
    answer = Answer(MOVE, ((0.2, 0.1, 0.1), (0.3, 0.6, 0.1)))
    assert answer.probabilities == pytest.approx({"asks": 0.4, "informs": 0.425, "decides": 0.175})
    assert (answer.label, answer.flips) == ("informs", True)
    assert answer.margin == pytest.approx(((0.2 - 0.2) + (0.3 - 0.7)) / 2)
    assert not Answer(MOVE, ((0.4, 0.4, 0.1), (0.1, 0.5, 0.1))).flips  # a tie disagrees with nothing


def test_a_scale_by_hand() -> None:
    answer = Answer(HELP, ((0.1, 0.1, 0.2),))
    assert answer.expected == pytest.approx(-1 * 0.25 + 0 * 0.25 + 2 * 0.5)
    assert (answer.label, answer.flips) == ("2", False)


def test_a_helper_for_another_kind_is_refused() -> None:
    for wrong in (lambda: Answer(MOVE, ((0.1, 0.2, 0.3),)).yes, lambda: Answer(DECIDES, ((0.1, 0.2),)).expected):
        with pytest.raises(InputError, match="take its `probabilities`"):
            wrong()
    with pytest.raises(InputError, match="decision 'help' names no good option"):
        _ = Answer(HELP, ((0.1, 0.2, 0.3),)).margin


labels = st.lists(st.floats(1e-9, 0.3), min_size=3, max_size=3).map(tuple)


@given(readings=st.lists(labels, min_size=1, max_size=4), option=st.integers(0, 2), more=st.floats(1.0, 3.0))
def test_what_holds_of_every_answer(readings: list[Any], option: int, more: float) -> None:
    answer = Answer(MOVE, tuple(readings))
    p = list(answer.probabilities.values())
    assert sum(p) == pytest.approx(1.0)
    assert min(p) >= 0.0
    assert abs(answer.margin) <= answer.mass + 1e-12
    assert -1.0 - 1e-9 <= Answer(HELP, tuple(readings)).expected <= 2.0 + 1e-9
    turned = Answer(MOVE, tuple(readings[::-1]))
    assert list(turned.probabilities.values()) == pytest.approx(p)
    assert (turned.flips, turned.mass) == (answer.flips, pytest.approx(answer.mass))
    raised = tuple(tuple(x * more if i == option else x for i, x in enumerate(r)) for r in readings)
    assert list(Answer(MOVE, raised).probabilities.values())[option] >= p[option] - 1e-12


@given(first=st.floats(0.5, 0.99), masses=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_a_liking_for_a_letter_cancels_whatever_the_masses(first: float, masses: tuple[float, float]) -> None:
    engine = ScriptedEngine(labels=[logs(mass * first, mass * (1 - first)) for mass in masses])
    answer = ask(engine, DecisionSet(name="x", conversation="chat", preamble="", decisions=(DECIDES,)), "ok")[0]
    assert isinstance(answer["decides"], Answer)
    assert answer["decides"].yes == pytest.approx(0.5)
    assert answer["decides"].flips == (first > 0.5 and math.log(masses[0] * first) != math.log(masses[0] * (1 - first)))


# --- what is asked ---


def test_everything_is_asked_in_one_request_of_ids() -> None:
    engine = ScriptedEngine(labels=lambda prefix, labels: logs(*[0.01 * (i + 1) for i in range(len(labels))]))
    one, two = ask(engine, ALL, "one", "two")
    (request,) = engine.requests
    start = "J\nHuman: hi\n\nAssistant:"
    tails = ("|yn(", "|ny(", "|aid(", "|d,i,a(", "|how(")
    assert [CHAT.decode(p) for p in request.prefixes] == [start + r + tail for r in ("one", "two") for tail in tails]
    assert request.detail == tuple(map(ord, "ABabc"))
    assert one == two
    assert list(one) == ["decides", "move", "help"]
    # A, B, a, b, c have 1 to 5 %: each phrasing reads its own labels, in the options' order.
    assert isinstance(one["decides"], Answer)
    np.testing.assert_allclose(one["decides"].reading, [[0.01, 0.02], [0.02, 0.01]])
    assert isinstance(one["move"], Answer)
    np.testing.assert_allclose(one["move"].reading, [[0.03, 0.04, 0.05], [0.05, 0.04, 0.03]])
    assert one["move"].mass == pytest.approx(0.12)


def test_answers_are_what_plain_arithmetic_gives() -> None:
    texts = ("abc", "", "jj.")
    for text, answers in zip(texts, ask(PlainEngine(ngram_forward, CHAT.decode), ALL, *texts), strict=True):
        for decision in ALL.decisions:
            shares = []
            for phrasing in decision.phrasings:
                logits, _ = ngram_forward(tuple(f"J\nHuman: hi\n\nAssistant:{text}{phrasing.text}".encode()))
                chosen = np.exp(logits[[ord(label) for label in phrasing.labels]].astype(np.float64))
                shares.append(chosen / chosen.sum())
            answer = answers[decision.name]
            assert isinstance(answer, Answer)
            np.testing.assert_allclose(list(answer.probabilities.values()), np.mean(shares, axis=0), rtol=1e-9)


def test_exchanging_what_the_labels_mean_exchanges_yes_and_no() -> None:
    turned = tuple(Phrasing(text=p.text, labels=p.labels[::-1]) for p in TURNED)
    asked = DecisionSet(
        name="x", conversation="chat", preamble="", decisions=(DECIDES, YesNo(name="turned", phrasings=turned))
    )
    for answers in ask(PlainEngine(ngram_forward, CHAT.decode), asked, "abc", "f"):
        assert isinstance(answers["decides"], Answer)
        assert isinstance(answers["turned"], Answer)
        assert answers["decides"].yes == pytest.approx(1 - answers["turned"].yes)


def test_each_decision_that_fits_is_asked() -> None:
    """The longest phrasing of a decision counts: 4, 7 and 5 tokens, after a start that leaves 7."""
    start = len("J\nHuman: hi\n\nAssistant:")
    engine = ScriptedEngine(labels=lambda prefix, labels: logs(*[0.1] * len(labels)), context_length=start + 7)
    answers = ask(engine, ALL, "", "ab", "abc", "abcd")
    fitting = [[name for name, answer in of_one.items() if isinstance(answer, Answer)] for of_one in answers]
    assert fitting == [["decides", "move", "help"], ["decides", "help"], ["decides"], []]
    assert [len(prefix) - start for prefix in engine.requests[0].prefixes] == [4, 4, 5, 7, 5, 6, 6, 7, 7, 7]
    left_out = answers[1]["move"]
    assert isinstance(left_out, Unscored)
    assert (left_out.blame, "context" in left_out.reason) == ("judge", True)
    assert DecisionJudge(engine, CHAT, ALL).room(a_prompt("hi")) == 0
    ask(engine, ALL, "abcd", "abcde")
    assert len(engine.requests) == 1  # nothing fits: nothing is asked


@pytest.mark.parametrize("broken", [[math.nan, -1.0], [-math.inf, -math.inf]])
def test_labels_without_a_probability_are_unscored(broken: list[float]) -> None:
    asked = ALL.only("decides")
    engine = ScriptedEngine(labels=[[-1.0, -2.0], broken, [-1.0, -math.inf], [-1.0, -2.0]])
    first, second = ask(engine, asked, "a", "b")
    assert isinstance(first["decides"], Unscored)
    assert first["decides"].blame == "judge"
    assert isinstance(second["decides"], Answer)  # one impossible label is an answer


# --- on transformers models ---


def model_set(conversation: Any) -> DecisionSet:
    first = Phrasing(text=" (A) harmless (B) harmful. The answer is: (", labels=("A", "B"))
    second = Phrasing(text=" (A) harmful (B) harmless. The answer is: (", labels=("B", "A"))
    same = YesNo(name="same", phrasings=(first,))  # a question that stands twice in one request
    return DecisionSet(
        name="m",
        conversation=conversation,
        preamble="Judge.\n" if conversation == "transcript" else "",
        decisions=(
            Choice(name="harm", options=("harmless", "harmful"), phrasings=(first, second), good="harmless"),
            Scale(name="level", levels=(1, 2), phrasings=(Phrasing(text=" Or (", labels=("A", "B")),)),
            same,
        ),
    )


@pytest.fixture(params=["llama_dir", "gpt2_dir", "qwen_dir"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return load(str(folder), ModelOptions(device="cpu"))


@pytest.mark.parametrize("conversation", ["transcript", "chat"])
def test_a_models_answers_are_its_own_probabilities(folder: Path, loaded: LoadedModel, conversation: Any) -> None:
    asked, prompt = model_set(conversation), a_prompt("How do I water a fern?")
    responses = [completion(loaded.chat.encode(text)) for text in (" Every day.", "", " Ask a friend, or me")]
    usage = RoleUsage()
    judge = DecisionJudge(loaded.engine, loaded.chat, asked)
    answers = asyncio.run(judge.ask(prompt, responses, usage))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for response, decision in itertools.product(range(3), asked.decisions):
        answer = answers[response][decision.name]
        assert isinstance(answer, Answer)
        for phrasing, read in zip(decision.phrasings, answer.reading, strict=True):
            before = judge.context(prompt, responses[response].token_ids)
            ids = before + loaded.chat.encode(phrasing.text)
            with torch.no_grad():
                p = torch.softmax(plain(torch.tensor([ids])).logits[0, -1].double(), dim=-1)
            wanted = [p[loaded.chat.encode(phrasing.text + label)[-1]].item() for label in phrasing.labels]
            np.testing.assert_allclose(read, wanted, rtol=1e-3)
    # What the twelve questions share is computed once.
    longest: TokenIds = judge.context(prompt, max(responses, key=lambda r: len(r.token_ids)).token_ids)
    assert usage.tokens_fed < 2 * len(longest) + 12 * len(loaded.chat.encode(asked.decisions[0].phrasings[0].text))


def test_a_two_option_margin_is_the_self_evaluation_of_a_model(loaded: LoadedModel) -> None:
    asked = model_set("transcript")
    first, second = asked.decisions[0].phrasings
    orders = (
        Order(text=first.text, harmless="A", harmful="B"),
        Order(text=second.text, harmless="B", harmful="A"),
    )
    template = Template(name="t", conversation="transcript", preamble="Judge.\n", orders=orders, sha256="")
    scorers: list[ContextScorer] = [
        SelfEval(loaded.engine, loaded.chat, template, "margin"),
        DecisionScorer(loaded.engine, loaded.chat, asked, "harm"),
    ]
    responses = [completion(loaded.chat.encode(text)) for text in (" No.", " Read the label", " x" * 300)]
    by_self, by_decision = (asyncio.run(s.score(a_prompt(), responses, RoleUsage())) for s in scorers)
    assert [type(verdict) for verdict in by_self] == [Score, Score, Unscored]
    assert by_decision[2] == by_self[2]
    for ours, theirs in zip(by_decision[:2], by_self[:2], strict=True):
        assert isinstance(ours, Score)
        assert isinstance(theirs, Score)
        assert ours.value == pytest.approx(theirs.value, rel=1e-3)


def test_a_decision_guides_a_search(loaded: LoadedModel) -> None:
    settings = RainSettings(max_iterations=3, extra_iterations=1, candidates=2, min_visits=1)
    for decision in ("harm", "level"):
        scorer = DecisionScorer(loaded.engine, loaded.chat, model_set("chat"), decision)
        sampling = Sampling(max_new_tokens=8)
        rain = Rain(loaded.engine, loaded.chat, scorer, seed=1, sampling=sampling, settings=settings)
        result = asyncio.run(rain(a_prompt()))
        assert isinstance(result.candidates[result.chosen].score, Score)
        assert result.usage.evaluator.tokens_fed > 0


# --- sets and the scorer ---


def test_a_two_option_margin_is_the_self_evaluation_in_a_plain_engine() -> None:
    orders = (Order(text="|yn(", harmless="B", harmful="A"), Order(text="|ny(", harmless="A", harmful="B"))
    template = Template(name="t", conversation="transcript", preamble="J\n", orders=orders, sha256="")
    engine = PlainEngine(ngram_forward, CHAT.decode)
    responses = [completion(text) for text in ("abc", "", "jj.", "x" * 5000)]
    both = (SelfEval(engine, CHAT, template, "margin"), DecisionScorer(engine, CHAT, ALL, "decides"))
    by_self, by_decision = (asyncio.run(s.score(a_prompt(), responses, RoleUsage())) for s in both)
    for ours, theirs in zip(by_decision, by_self, strict=True):
        if isinstance(ours, Score) and isinstance(theirs, Score):
            assert ours.value == pytest.approx(theirs.value, rel=1e-12)
        else:
            assert ours == theirs


def test_a_scorer_asks_its_decision_alone_and_reads_it_by_kind() -> None:
    engine = ScriptedEngine(labels=[[*logs(0.5, 0.1)], [*logs(0.5, 0.3)], [*logs(0.1, 0.1, 0.2)]])
    decides, help_ = (DecisionScorer(engine, CHAT, ALL, name) for name in ("decides", "help"))
    score = asyncio.run(decides.score(a_prompt(), [completion("x")], RoleUsage()))
    assert len(engine.requests[0].prefixes) == 2
    # `no` is good: B in the first order, A in the second.
    assert [v.value for v in score if isinstance(v, Score)] == pytest.approx([((0.1 - 0.5) + (0.5 - 0.3)) / 2])
    score = asyncio.run(help_.score(a_prompt(), [completion("x")], RoleUsage()))
    assert [v.value for v in score if isinstance(v, Score)] == pytest.approx([0.75])
    assert isinstance(decides, ContextScorer)
    assert decides.name == "decision:decides"


def test_a_record_tells_what_was_asked() -> None:
    engine: Any = PlainEngine(ngram_forward, CHAT.decode)
    said = DecisionScorer(engine, CHAT, ALL, "help").describe()
    assert said == {
        "scorer": "decision:help",
        "decisions": "all",
        "decisions_sha256": ALL.only("help").sha256,
        "engine": engine.describe(),
    }
    assert DecisionScorer(engine, CHAT, ALL, "move").describe()["decisions_sha256"] != said["decisions_sha256"]


def test_what_cannot_be_asked_or_scored_is_told() -> None:
    engine: Any = PlainEngine(ngram_forward, CHAT.decode)
    with pytest.raises(UnknownName, match="Did you mean 'decides'"):
        DecisionScorer(engine, CHAT, ALL, "decide")
    neutral = DecisionSet(name="n", conversation="chat", preamble="", decisions=(YesNo(name="x", phrasings=TURNED),))
    with pytest.raises(InputError, match="decision 'x' names no good option"):
        DecisionScorer(engine, CHAT, neutral, "x")
    with pytest.raises(InputError, match="each under its own name"):
        DecisionSet(name="n", conversation="chat", preamble="", decisions=(DECIDES, DECIDES))
    with pytest.raises(InputError, match="empty the preamble"):
        DecisionSet(name="n", conversation="chat", preamble="J", decisions=(DECIDES,))
    with pytest.raises(InputError, match="give one label an option"):
        YesNo(name="x", phrasings=(Phrasing(text="?", labels=("A",)),))
    with pytest.raises(InputError, match="no phrasing"):
        YesNo(name="x", phrasings=())
    with pytest.raises(InputError, match="lowest first"):
        Scale(name="x", levels=(2, 1), phrasings=TURNED)
    with pytest.raises(InputError, match="two or more"):
        Choice(name="x", options=("a", "a"), phrasings=TURNED)
    with pytest.raises(UnknownName, match="Did you mean 'yes'"):
        YesNo(name="x", phrasings=TURNED, good="Yes")


def test_a_label_that_is_no_single_token_is_told(loaded: LoadedModel) -> None:
    asked = YesNo(name="x", phrasings=(Phrasing(text=" (", labels=("harmless", "harmful and long")),))
    with pytest.raises(ModelError, match="not one token"):
        DecisionJudge(
            loaded.engine,
            loaded.chat,
            DecisionSet(name="n", conversation="chat", preamble="", decisions=(asked,)),
        )
