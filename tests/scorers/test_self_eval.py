"""Self-evaluation: the ids it asks about, both readings of the verdict, and template files."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, StopReason, TokenIds, Unscored
from inferalign.engines.base import LabelLogprobs
from inferalign.scorers.base import ContextScorer
from inferalign.scorers.self_eval import Order, SelfEval, Template, read_template
from inferalign.scorers.table import build_scorer
from tests.toy import CharChat, PlainEngine, a_prompt, ngram_forward

CHAT: Any = CharChat()
ORDERS = (Order(text="|hs(", harmless="A", harmful="B"), Order(text="|sh(", harmless="B", harmful="A"))
TRANSCRIPT = Template(name="t", conversation="transcript", preamble="J\n", orders=ORDERS, sha256="")
IN_CHAT = Template(name="c", conversation="chat", preamble="", orders=ORDERS, sha256="")


class Verdicts(PlainEngine):
    """P(A) by what is asked; P(B) is the rest of `mass`."""

    def __init__(self, p_of_a: Callable[[str], float], mass: float = 1.0, context_length: int = 4096) -> None:
        super().__init__(ngram_forward, CHAT.decode, context_length)
        self.p_of_a, self.mass = p_of_a, mass
        self.calls: list[list[str]] = []

    async def label_logprobs(self, prefixes: Any, labels: Any, usage: RoleUsage) -> list[LabelLogprobs]:
        self.calls.append([CHAT.decode(prefix) for prefix in prefixes])
        answers = []
        for prefix in prefixes:
            p = {ord("A"): self.p_of_a(CHAT.decode(prefix))}
            p[ord("B")] = self.mass - p[ord("A")]
            answers.append(LabelLogprobs(logprobs=tuple(math.log(p[label]) for label in labels), mass=self.mass))
        return answers


def completion(text: str) -> Completion:
    return Completion(token_ids=tuple(text.encode()), text=text, stop=StopReason.PARTIAL)


def verdicts(engine: PlainEngine, form: Any, *texts: str, template: Template = TRANSCRIPT) -> list[Score | Unscored]:
    judge = SelfEval(engine, CHAT, template, form)
    return asyncio.run(judge.score(a_prompt("hi"), [completion(text) for text in texts], RoleUsage()))


@pytest.mark.parametrize(
    ("first", "second", "vote", "margin"),
    [
        (0.9, 0.2, 1.0, ((0.9 - 0.1) + (0.8 - 0.2)) / 2),  # harmless in both orders
        (0.1, 0.7, -1.0, ((0.1 - 0.9) + (0.3 - 0.7)) / 2),  # harmful in both
        (0.9, 0.9, 0.0, 0.0),  # always says A: no opinion
        (0.2, 0.2, 0.0, 0.0),  # always says B
        (0.5, 0.2, 0.0, 0.3),  # a tie is no vote
    ],
)
def test_both_readings_by_hand(first: float, second: float, vote: float, margin: float) -> None:
    engine = Verdicts(lambda asked: first if asked.endswith("|hs(") else second)
    assert verdicts(engine, "vote", "ok") == [Score(vote)]
    (read,) = verdicts(engine, "margin", "ok")
    assert isinstance(read, Score)
    assert read.value == pytest.approx(margin)


def test_a_margin_counts_the_labels_mass_and_a_vote_does_not() -> None:
    def p_of_a(asked: str) -> float:
        return 0.009 if asked.endswith("|hs(") else 0.001

    engine = Verdicts(p_of_a, mass=0.01)
    (margin,) = verdicts(engine, "margin", "ok")
    assert isinstance(margin, Score)
    assert margin.value == pytest.approx(0.008)
    assert verdicts(engine, "vote", "ok") == [Score(1.0)]


def test_the_question_is_made_of_ids_and_asked_once_for_all() -> None:
    engine = Verdicts(lambda asked: 0.5)
    verdicts(engine, "margin", "one", "two")
    start = "J\nHuman: hi\n\nAssistant:"
    assert engine.calls == [[start + "one|hs(", start + "one|sh(", start + "two|hs(", start + "two|sh("]]
    verdicts(engine, "margin", "one", template=IN_CHAT)
    assert engine.calls[1] == ["[u]hi[a]one|hs(", "[u]hi[a]one|sh("]


def test_generated_ids_are_kept_as_they_are() -> None:
    """Ids that no text encodes to: a decode and encode on the way would change them."""
    judge = SelfEval(PlainEngine(ngram_forward, CHAT.decode), CHAT, TRANSCRIPT)
    odd: TokenIds = (1, 2, 127)
    context = judge.context(a_prompt("hi"), odd)
    assert context[-3:] == odd
    assert context[:-3] == judge.context(a_prompt("hi"), ())
    assert isinstance(judge, ContextScorer)


def test_a_transcript_begins_as_the_tokenizer_begins_a_text() -> None:
    class Starting(CharChat):
        start_ids = (1,)

    chat: Any = Starting()
    context = SelfEval(PlainEngine(ngram_forward, chat.decode), chat, TRANSCRIPT).context(a_prompt("hi"), (5,))
    assert context == (1, *chat.encode("J\nHuman: hi\n\nAssistant:"), 5)


def test_only_the_last_user_turn_is_judged() -> None:
    turns = [("user", "old"), ("assistant", "yes"), ("user", "new")]
    prompt = Prompt(id="p", messages=tuple(Message(role=role, content=text) for role, text in turns))  # type: ignore[arg-type]
    judge = SelfEval(PlainEngine(ngram_forward, CHAT.decode), CHAT, TRANSCRIPT)
    assert CHAT.decode(judge.context(prompt, ())) == "J\nHuman: new\n\nAssistant:"


def test_a_question_that_does_not_fit_is_unscored_and_the_others_are_asked() -> None:
    size = len("J\nHuman: hi\n\nAssistant:") + len("|hs(")
    engine = Verdicts(lambda asked: 0.9 if asked.endswith("|hs(") else 0.1, context_length=size + 3)
    long, short = verdicts(engine, "vote", "long", "abc")
    assert isinstance(long, Unscored)
    assert long.blame == "judge"
    assert short == Score(1.0)
    assert SelfEval(engine, CHAT, TRANSCRIPT).room(a_prompt("hi")) == 3


def test_margin_is_antisymmetric_in_the_labels() -> None:
    """Exchanging what the labels mean turns every value's sign: no constant bias is left."""
    swapped = tuple(Order(text=o.text, harmless=o.harmful, harmful=o.harmless) for o in ORDERS)
    engine = PlainEngine(ngram_forward, CHAT.decode)
    turned = Template(name="x", conversation="transcript", preamble="J\n", orders=swapped, sha256="")  # type: ignore[arg-type]
    texts = ["abc", "jj.", "a b", ""]
    a = [v.value for v in verdicts(engine, "margin", *texts) if isinstance(v, Score)]
    b = [v.value for v in verdicts(engine, "margin", *texts, template=turned) if isinstance(v, Score)]
    np.testing.assert_allclose(a, [-value for value in b])
    assert max(map(abs, a)) > 1e-3


PROMPTS = Path(__file__).parents[2] / "src/inferalign/scorers/prompts"


@pytest.mark.parametrize("path", sorted(PROMPTS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_templates_are_read_and_hashed(path: Path) -> None:
    template = read_template(path)
    assert template.name == path.stem
    assert template.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert template.orders[0].text != template.orders[1].text


def test_the_general_template_is_balanced() -> None:
    """Ten worked examples: five of each verdict, five of each letter, the last lines as the model will see them."""
    template = read_template(PROMPTS / "harmless.toml")
    answers = [line for line in template.preamble.splitlines() if line.startswith("The answer is: (")]
    assert len(answers) == 10
    assert sum("harmless" in answer for answer in answers) == 5
    assert sum("(A)" in answer for answer in answers) == 5
    for order in template.orders:
        assert order.text in template.preamble


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('conversation = "transcript"', 'conversation = "talk"'), "'transcript' or 'chat'"),
        (('name = "harmless"', ""), "'name' is missing"),
        (('name = "harmless"', 'name = "harmless"\nnaem = 1'), "unknown key 'naem'"),
        (('harmless = "A"', 'harmles = "A"'), "needs the keys text, harmless, harmful"),
        (('harmless = "A"', 'harmless = ""'), "are texts that are not empty"),
        (('harmless = "A"', "harmless = 1"), "are texts that are not empty"),
        (('conversation = "transcript"', 'conversation = "chat"'), "empty the preamble"),
        (("[[orders]]", "[[orders"), "not a TOML file"),
    ],
)
def test_a_template_that_cannot_be_used_names_the_fault(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((PROMPTS / "harmless.toml").read_text().replace(*change, 1))
    with pytest.raises(InputError, match=says) as caught:
        read_template(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("orders", ["[1, 2]", '[["harmful", "harmless", "text"], ["harmful", "harmless", "text"]]'])
def test_orders_that_are_no_tables_are_refused(tmp_path: Path, orders: str) -> None:
    head = (PROMPTS / "harmless.toml").read_text().partition("[[orders]]")[0]
    (tmp_path / "mine.toml").write_text(f"{head}\norders = {orders}\n")
    with pytest.raises(InputError, match="needs the keys text, harmless, harmful"):
        read_template(tmp_path / "mine.toml")


def test_scorers_by_name(tmp_path: Path) -> None:
    def build(text: str) -> Any:
        return build_scorer(text, engine=PlainEngine(ngram_forward, CHAT.decode), chat=CHAT, sandbox=False)

    assert build("self").describe()["template"] == "harmless"
    mine = tmp_path / "mine.toml"
    mine.write_text((PROMPTS / "harmless.toml").read_text().replace('name = "harmless"', 'name = "mine"'))
    assert build(str(mine)).describe()["template"] == "mine"
    assert build("self-shuffled").describe()["inner"]["scorer"] == "self"
    assert build("oracle").name == "oracle"
    with pytest.raises(UnknownName, match="Did you mean 'oracle'"):
        build("orcale")
    with pytest.raises(InputError, match="cannot read"):
        build("missing.toml")
