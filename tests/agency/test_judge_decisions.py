"""Typed decisions: three dialects of servers and a local model, by hand; what is missing is unscored."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from inferalign.agency.decision_dialects import DIALECTS, Dialect, SystemOne
from inferalign.agency.judge_decisions import DecisionsJudge, RemoteDecider, statements
from inferalign.agency.local_decider import LocalDecider, sandbox_questions
from inferalign.core.errors import InputError, TransientError
from inferalign.core.types import RoleUsage, TokenIds, Unscored
from inferalign.engines.scripted import ScriptedEngine
from inferalign.scorers.decisions import DecisionSet, YesNo
from inferalign.scorers.questions import Phrasing
from inferalign.scorers.verdicts import rubric
from tests.agency.judging import answered, bank, judged, shipped
from tests.toy import CharChat

EL = "encourage_learning"
P = {"A": 0.9, "B": 0.5, "C": 0.51, "D": 0.0, "E": 1.0, "F": 0.2}


class ScriptedServer:
    """Answers every yes-no question by its name, in one dialect; `change` alters the body."""

    name = "server"

    def __init__(self, dialect: str, p: Mapping[str, Any], change: Any = lambda body: body) -> None:
        self.dialect, self.p, self.change = dialect, p, change
        self.requests: list[tuple[str, Mapping[str, Any]]] = []

    def describe(self) -> Mapping[str, object]:
        return {"endpoint": "scripted"}

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.requests.append((path, body))
        await asyncio.sleep(0)
        return self.change(self.answer(body))

    def answer(self, body: Mapping[str, Any]) -> Any:
        if self.dialect == "systemone":
            answers: Any = {name: {"type": "noul", "noul": self.p[name]} for name in body["questions"]}
            return {"answers": answers, "usage": {"input_tokens": 100, "output_tokens": 7}}
        if self.dialect == "openai":
            answers = [
                {"type": "predicate", "name": q["name"], "probability": self.p[q["name"]]} for q in body["questions"]
            ]
            return {"answers": answers, "usage": {"input_tokens": 100, "total_tokens": 100}}
        answers = {
            q["id"]: {"type": "yes_no", "probabilities": {"yes": self.p[q["id"]], "no": 1 - self.p[q["id"]]}}
            for q in body["questions"]
        }
        return {"answers": answers, "usage": {"prompt_tokens": 100}}


def decided(server: ScriptedServer, dialect: Dialect | None = None, **settings: Any) -> Any:
    item = bank(EL)[0]
    judge = DecisionsJudge(RemoteDecider(server, dialect or DIALECTS[server.dialect]), shipped(), **settings)
    usage = RoleUsage()
    return judged(judge, item, answered(item, "An answer."), usage=usage), usage


# --- servers ---


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_one_request_holds_every_issue_and_gives_hard_and_expected_scores(dialect: str) -> None:
    server = ScriptedServer(dialect, P)
    verdict, usage = decided(server)
    ((path, body),) = server.requests
    assert path == {"systemone": "/systemone", "openai": "/decisions", "sglang": "/decisions"}[dialect]
    assert (verdict.status, verdict.letters, verdict.score) == ("ok", ("A", "C", "E"), 0.0)
    assert verdict.probabilities == P
    assert verdict.expected == pytest.approx(enumerated(P))
    # What a server's answer cost is in the record, its output too: a run that is resumed books it from there.
    out = 7 if dialect == "systemone" else 0
    assert verdict.tokens == {"requests": 1, "prompt": 100, "completion": out, "cached": 0}
    assert (usage.tokens_fed, usage.new_tokens) == (100, out)
    assert "model" not in body
    state = body["state"] if dialect == "systemone" else body["input"]
    assert "\nAn answer.\n" in state
    assert shipped()[EL].goal in state


def enumerated(p: Mapping[str, float]) -> float:
    """Over all 64 sets of issues."""
    total = 0.0
    for present in itertools.product((False, True), repeat=len(p)):
        held = [letter for letter, there in zip(p, present, strict=True) if there]
        weight = math.prod(p[x] if x in held else 1 - p[x] for x in p)
        total += weight * rubric(EL).score(held)
    return total


def test_the_bodies_by_hand() -> None:
    asked = {"A": "It is so.", "B": "It is not."}
    assert DIALECTS["systemone"].body("S", asked) == {
        "state": "S",
        "questions": {
            "A": {"type": "noul", "instructions": "It is so."},
            "B": {"type": "noul", "instructions": "It is not."},
        },
    }
    assert DIALECTS["openai"].body("S", asked)["questions"] == [
        {"type": "predicate", "name": "A", "instructions": "It is so."},
        {"type": "predicate", "name": "B", "instructions": "It is not."},
    ]
    assert DIALECTS["sglang"].body("S", asked) == {
        "input": "S",
        "questions": [
            {"id": "A", "type": "yes_no", "question": "It is so."},
            {"id": "B", "type": "yes_no", "question": "It is not."},
        ],
    }
    assert {name: dialect.limit for name, dialect in DIALECTS.items()} == {"systemone": 64, "openai": 400, "sglang": 64}


def test_statements_name_other_issues_by_their_own_letters() -> None:
    said = statements(shipped()["correct_misinformation"])
    assert said["E"].startswith("Issue E applies to what the assistant says. The reply notices")
    assert "never together with A or B" in said["E"]
    assert not any("{" in text for text in said.values())


@pytest.mark.parametrize(("limit", "sizes"), [(4, [4, 2]), (6, [6]), (1, [1] * 6), (5, [5, 1])])
def test_questions_beyond_the_limit_go_into_further_requests(limit: int, sizes: list[int]) -> None:
    class Small(SystemOne):
        pass

    small = Small()
    small.limit = limit
    server = ScriptedServer("systemone", P)
    verdict, usage = decided(server, small)
    assert [len(body["questions"]) for _, body in server.requests] == sizes
    assert (verdict.probabilities, verdict.score) == (P, 0.0)
    n = len(sizes)
    assert verdict.tokens == {"requests": n, "prompt": 100 * n, "completion": 7 * n, "cached": 0}
    assert usage.tokens_fed == 100 * len(sizes)


@pytest.mark.parametrize(("threshold", "letters"), [(0.5, "ACE"), (0.95, "E"), (0.1, "ABCEF")])
def test_the_threshold_decides_the_letters_and_not_the_expected_score(threshold: float, letters: str) -> None:
    verdict, _ = decided(ScriptedServer("openai", P), threshold=threshold)
    assert verdict.letters == tuple(letters)
    assert verdict.expected == pytest.approx(enumerated(P))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, float("nan")])
def test_a_threshold_that_decides_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="the threshold is"):
        DecisionsJudge(RemoteDecider(ScriptedServer("openai", P), DIALECTS["openai"]), shipped(), threshold=threshold)


def refuse(body: Any, place: int = 2) -> Any:
    body["answers"][place] = {"type": "refusal", "name": "ABCDEF"[place]}
    return body


def swap(body: Any) -> Any:
    body["answers"][0], body["answers"][1] = body["answers"][1], body["answers"][0]
    return body


def alter(name: str, **change: Any) -> Any:
    def changed(body: Any) -> Any:
        body["answers"][name] |= change
        return body

    return changed


def drop(name: str) -> Any:
    def changed(body: Any) -> Any:
        del body["answers"][name]
        return body

    return changed


@pytest.mark.parametrize(
    ("dialect", "change", "reason", "kept"),
    [
        ("openai", refuse, "refused to answer for issue C", "ABDEF"),
        ("openai", swap, "no answer for issue A in the dialect 'openai'", "CDEF"),
        ("openai", lambda body: {"answers": body["answers"][:5]}, "no answer for issue A", ""),
        ("openai", lambda body: {"answers": [*body["answers"], body["answers"][0]]}, "no answer for issue A", ""),
        ("openai", lambda body: {"answers": [None] * 6}, "no answer for issue A", ""),
        ("openai", lambda body: {}, "is that the one it speaks", ""),
        ("systemone", drop("B"), "no answer for issue B in the dialect 'systemone'", "ACDEF"),
        ("systemone", alter("B", noul=1.2), "issue B is no probability", "ACDEF"),
        ("systemone", alter("B", noul=True), "issue B is no probability", "ACDEF"),
        ("systemone", alter("B", noul=None), "issue B is no probability", "ACDEF"),
        ("systemone", alter("B", noul=float("nan")), "issue B is no probability", "ACDEF"),
        ("systemone", alter("B", noul="0.4"), "issue B is no probability", "ACDEF"),
        ("systemone", alter("B", type="choice"), "no answer for issue B", "ACDEF"),
        ("systemone", lambda body: {"answers": []}, "no answer for issue A", ""),
        ("sglang", drop("F"), "no answer for issue F", "ABCDE"),
        ("sglang", alter("F", probabilities={"no": 0.4}), "issue F is no probability", "ABCDE"),
        ("sglang", alter("F", probabilities=[0.4]), "no answer for issue F", "ABCDE"),
    ],
)
def test_one_missing_answer_leaves_the_reply_unscored(dialect: str, change: Any, reason: str, kept: str) -> None:
    verdict, _ = decided(ScriptedServer(dialect, P, change))
    assert (verdict.status, verdict.score, verdict.letters, verdict.expected) == ("unscored", None, None, None)
    assert (verdict.blame, "".join(verdict.probabilities)) == ("judge", kept)
    assert reason in verdict.reason


def test_two_servers_on_one_path_are_told_apart_by_configuration_alone() -> None:
    """An SGLang server asked as OpenAI's, and the other way round: unscored, with the hint, and no number."""
    for asked, speaks in (("openai", "sglang"), ("sglang", "openai")):

        class Mixed(ScriptedServer):
            def answer(self, body: Any, speaks: str = speaks) -> Any:
                names = [q.get("id") or q.get("name") for q in body["questions"]]
                keys = {"openai": "name", "sglang": "id"}
                other = ScriptedServer(speaks, self.p)
                return other.answer({"questions": [{keys[speaks]: name} for name in names]})

        verdict, _ = decided(Mixed(asked, P))
        assert (verdict.status, verdict.score) == ("unscored", None)
        assert f"dialect '{asked}': is that the one it speaks?" in verdict.reason


def test_tokens_that_a_server_does_not_tell_are_no_zero() -> None:
    for usage in (None, {}, {"input_tokens": None}, {"input_tokens": "9"}):
        verdict, spent = decided(ScriptedServer("openai", P, lambda body, said=usage: body | {"usage": said}))
        assert (verdict.tokens, spent.tokens_fed) == ({"requests": 1}, 0)


def test_a_transport_error_is_raised() -> None:
    def fail(body: Any) -> Any:
        raise TransientError("503")

    with pytest.raises(TransientError):
        decided(ScriptedServer("openai", P, fail))


def test_a_remote_judge_describes_itself() -> None:
    described: Any = DecisionsJudge(
        RemoteDecider(ScriptedServer("openai", P), DIALECTS["openai"]), shipped()
    ).describe()
    assert (described["judge"], described["threshold"], described["decider"]["dialect"]) == ("decisions", 0.5, "openai")
    assert json.dumps(described)


# --- a local model ---

CHAT: Any = CharChat()


def logs(*p: float) -> list[float]:
    return [math.log(x) for x in p]


def test_a_local_model_by_hand() -> None:
    """Shares of "true" in the two phrasings: 0.6/0.8 and 0.3/0.4 for A (B, where labels are exchanged)."""
    first, second = logs(0.6, 0.2), logs(0.1, 0.3)
    engine = ScriptedEngine(labels=[first, second] + [logs(0.1, 0.3), logs(0.3, 0.1)] * 5, context_length=10**6)
    item = bank(EL)[0]
    judge = DecisionsJudge(LocalDecider(engine, CHAT, "toy"), shipped())
    verdict = judged(judge, item, answered(item, "Ask yourself."))
    assert (verdict.judge, verdict.status, verdict.letters) == ("toy", "ok", ("A",))
    assert verdict.probabilities == pytest.approx({"A": 0.75} | dict.fromkeys("BCDEF", 0.25))
    assert verdict.expected == pytest.approx(enumerated(verdict.probabilities or {}))
    assert json.loads(verdict.raw)["label_mass"]["A"] == pytest.approx(0.6)
    (request,) = engine.requests
    assert len(request.prefixes) == 12
    texts = [CHAT.decode(prefix) for prefix in request.prefixes]
    assert "(A) True.\n(B) False." in texts[0]
    assert "(A) False.\n(B) True." in texts[1]
    assert all("Assistant:Ask yourself.\n\nQuestion: Is it true" in text for text in texts)
    assert all(text.endswith("The answer is: (") for text in texts)


def test_a_local_model_reads_all_turns_and_the_false_sentence() -> None:
    engine = ScriptedEngine(labels=lambda prefix, labels: logs(0.2, 0.3), context_length=10**6)
    name = "correct_misinformation"
    item = bank(name)[0]
    judge = DecisionsJudge(LocalDecider(engine, CHAT, "toy"), shipped())
    judged(judge, item, answered(item, "One.", "Really?", "Two."))
    text = CHAT.decode(engine.requests[0].prefixes[0])
    meaning = "the false sentence, copied letter by letter from the paragraph"
    assert f"For you alone, misinformation ({meaning}): {item.extra['misinformation']}" in text
    assert "\n\nAssistant: One.\n\nHuman: Really?\n\nAssistant:Two.\n\nQuestion:" in text


def test_a_question_that_does_not_fit_leaves_the_reply_unscored() -> None:
    engine = ScriptedEngine(labels=lambda prefix, labels: logs(0.2, 0.3), context_length=200)
    item = bank(EL)[0]
    verdict = judged(DecisionsJudge(LocalDecider(engine, CHAT, "toy"), shipped()), item, answered(item, "x"))
    assert (verdict.status, verdict.score, verdict.blame) == ("unscored", None, "judge")
    assert "context of 200 tokens" in verdict.reason


def test_a_model_brings_its_own_form_of_the_questions() -> None:
    def short(names: Sequence[str]) -> Any:
        def short_questions(dimension: Any, item: Any) -> DecisionSet:
            asked = tuple(
                YesNo(name=x, phrasings=(Phrasing(text=f"|{x}?", labels=("Y", "N")),), good="no") for x in names
            )
            return DecisionSet(name="short", conversation="chat", preamble="", decisions=asked)

        return short_questions

    def likes_b(prefix: TokenIds, labels: Sequence[int]) -> list[float]:
        yes = CHAT.decode(prefix).endswith("|B?")
        return [math.log(0.8 if (chr(label) == "Y") == yes else 0.1) for label in labels]

    item = bank(EL)[0]
    engine = ScriptedEngine(labels=likes_b, context_length=10**6)
    decider = LocalDecider(engine, CHAT, "toy", short("ABCDEF"))
    verdict = judged(DecisionsJudge(decider, shipped()), item, answered(item, "x"))
    assert (verdict.letters, verdict.score) == (("B",), 5.0)
    assert decider.describe()["questions"] == "short_questions"
    with pytest.raises(InputError, match=r"are named \['A', 'C'\]; name one after each of the letters A, B"):
        judged(DecisionsJudge(LocalDecider(engine, CHAT, "toy", short("AC")), shipped()), item, answered(item, "x"))


def test_the_sandbox_model_is_asked_as_it_was_trained() -> None:
    item = bank(EL)[0]
    asked = sandbox_questions(shipped()[EL], item)
    assert [one.name for one in asked.decisions] == list(shipped()[EL].letters)
    assert asked.decisions[1].phrasings == (Phrasing(text="<|judge|> issue B?", labels=(" yes", " no")),)
    assert (asked.conversation, asked.preamble) == ("chat", "")
    with pytest.raises(InputError, match="knows nothing of 'tone'"):
        sandbox_questions(replace(shipped()[EL], id="tone"), item)


def test_a_dialect_never_gives_a_number_to_what_it_cannot_read() -> None:
    junk: list[Any] = [None, 3, "A", [], {}, {"A": 0.4}, {"A": {"type": "noul"}}, [{"probability": 0.4}], {"A": None}]
    for dialect, answers in itertools.product(DIALECTS.values(), junk):
        assert all(isinstance(one, Unscored) for one in dialect.read({"answers": answers}, ["A", "B"]).values())
