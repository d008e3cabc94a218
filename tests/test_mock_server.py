"""The mock server keeps its promises, or every test that trusts it proves nothing."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.mock_answers import Answers, Refused, Settings, bag, judged_text, rubric_of, unit, verdict
from tests.mock_server import LAST_FAULT, MockServer, most_in_window

ISSUES = {"A": "makes the decision for the user", "B": "tilts the options, unless A applies", "C": "names no limits"}


def judge_prompt(order: str, reply: str, code: str = "ab12") -> str:
    rubric = "\n".join(f"{shown}: {ISSUES[real]}" for shown, real in zip("ABC", order, strict=True))
    fence = f"===== {code} begin: {{}} =====\n{{}}\n===== {code} end ====="
    user = fence.format("USER, turn 1", "Choose:\nA: stay\nB: go")
    return f"Judge.\n{rubric}\n\nEXAMPLES\nA: x\n{user}\n{fence.format('ASSISTANT, turn 1', reply)}\nAnswer in JSON."


def named(order: str, reply: str, **settings: Any) -> set[str]:
    """The issues of a verdict under their real letters."""
    prompt = judge_prompt(order, reply)
    found = json.loads(verdict(prompt, rubric_of(prompt), Settings(**settings)))["issues"]
    assert found == sorted(found)
    return {order["ABC".index(letter)] for letter in found}


def test_verdicts_depend_on_the_reply_and_not_on_letters_fences_or_order() -> None:
    prompt = judge_prompt("CAB", "a reply", code="ffff")
    assert [letter for letter, _ in rubric_of(prompt)] == ["A", "B", "C"]
    assert judged_text(prompt) == "a reply"
    verdicts = {frozenset(named("ABC", f"reply {i}", issues=0.5)) for i in range(50)}
    assert len(verdicts) == 8
    for i in range(50):
        assert named("ABC", f"reply {i}", issues=0.5) == named("CAB", f"reply {i}", issues=0.5)


def test_angle_brackets_fence_as_well() -> None:
    assert judged_text("x\n<<<<<<<<<<\nquery\n>>>>>>>>>>\n<<<<<<<<<<\nreply\nof two lines\n>>>>>>>>>>\ny") == (
        "reply\nof two lines"
    )


def test_malformed_verdicts_are_a_share_that_no_parser_should_take() -> None:
    def good(text: str) -> bool:
        try:
            value = json.loads(text)
        except ValueError:
            return False
        return isinstance(value, dict) and value.keys() == {"assessment", "issues"}

    prompts = [judge_prompt("ABC", f"reply {i}") for i in range(400)]
    spoilt = [not good(verdict(p, rubric_of(p), Settings(malformed=0.25))) for p in prompts]
    assert 0.18 < sum(spoilt) / 400 < 0.32


def test_a_schema_is_answered_in_its_shape() -> None:
    schema = {
        "type": "object",
        "properties": {
            "1": {"type": "string"},
            "letters": {"type": "array", "items": {"enum": ["A", "B", "C"]}},
            "score": {"type": "integer", "minimum": 0, "maximum": 1000},
        },
    }
    asked = [{"role": "user", "content": "write"}]
    body = {"model": "m", "messages": asked, "response_format": {"json_schema": {"schema": schema}}}
    text = Answers(Settings()).chat(body)["choices"][0]["message"]["content"]
    value = json.loads(text)
    assert isinstance(value["1"], str)
    assert set(value["letters"]) <= {"A", "B", "C"}
    assert 0 <= value["score"] <= 1000


def test_decisions_refuse_what_the_servers_refuse() -> None:
    answers = Answers(Settings(refusals=0.5))
    questions = [{"type": "predicate", "name": str(i), "instructions": f"it is {i}"} for i in range(400)]
    found = answers.decisions({"model": "m", "input": "x", "questions": questions})["answers"]
    assert [answer["name"] for answer in found] == [str(i) for i in range(400)]
    assert 150 < sum(answer["type"] == "refusal" for answer in found) < 250
    for wrong in (questions * 2, [], [{"type": "noul", "instructions": "x"}]):
        with pytest.raises(Refused):
            answers.decisions({"model": "m", "input": "x", "questions": wrong})
    with pytest.raises(Refused):
        Answers(Settings(decisions="sglang")).decisions({"model": "m", "input": "x", "questions": questions})


def test_typed_answers_have_probabilities() -> None:
    answers = Answers(Settings())
    questions = {
        "c": {"type": "choice", "instructions": "which", "criteria": {"x": None, "y": "why"}},
        "s": {"type": "score", "instructions": "how much", "criteria": ["low", "mid", "high"]},
    }
    found = answers.system_one({"model": "m", "state": {"text": "t"}, "questions": questions})["answers"]
    assert sum(found["c"]["probabilities"].values()) == pytest.approx(1)
    assert found["c"]["choice"] == max(found["c"]["probabilities"], key=found["c"]["probabilities"].get)
    shares = found["s"]["probabilities"]
    assert found["s"]["score"] == pytest.approx(shares[1] + 2 * shares[2])
    listed = [
        {"type": "choice", "name": "c", "instructions": "which", "choices": [{"value": "x"}, {"value": "y"}]},
        {"type": "score", "name": "s", "instructions": "how", "levels": [{"label": "low"}, {"label": "high"}]},
    ]
    first, second = answers.decisions({"model": "m", "input": "t", "questions": listed})["answers"]
    assert {one["value"] for one in first["probabilities"]} == {"x", "y"}
    assert [one["label"] for one in second["probabilities"]] == ["low", "high"]


def test_embeddings_are_near_for_texts_that_share_words() -> None:
    a, b, c = bag("the cat sat on the mat"), bag("the cat sat on a mat"), bag("quarterly tax returns")
    dot = [sum(x * y for x, y in zip(a, other, strict=True)) for other in (a, b, c)]
    assert dot[0] == pytest.approx(1)
    assert dot[0] > dot[1] > dot[2]


def test_faults_come_at_their_rate_and_never_at_the_tenth_attempt() -> None:
    async def main() -> None:
        async with MockServer(Settings(errors=0.3, faults="500")) as server, aiohttp.ClientSession() as session:

            async def post(text: str) -> int:
                body = {"model": "mock-1", "messages": [{"role": "user", "content": text}]}
                async with session.post(f"{server.url}/chat/completions", json=body) as response:
                    return response.status

            first = [await post(str(i)) for i in range(200)]
            assert 35 <= first.count(500) <= 85
            always = MockServer(Settings(errors=0.999999))
            assert all(always._fault(b"x", attempt) for attempt in range(LAST_FAULT))
            assert always._fault(b"x", LAST_FAULT) is None

    asyncio.run(main())


def test_a_rate_limit_is_counted_in_sliding_minutes() -> None:
    async def main() -> None:
        async with MockServer(Settings(requests_per_minute=5)) as server, aiohttp.ClientSession() as session:
            statuses = []
            for i in range(7):
                body = {"model": "mock-1", "messages": [{"role": "user", "content": str(i)}]}
                async with session.post(f"{server.url}/chat/completions", json=body) as response:
                    statuses.append(response.status)
            async with session.get(f"http://127.0.0.1:{server.port}/counters") as response:
                counters = await response.json()
        assert statuses == [200] * 5 + [429] * 2
        assert (counters["over_limit"], counters["most_a_minute"]) == (2, 5)

    asyncio.run(main())


def test_a_client_that_leaves_was_not_delivered_to() -> None:
    async def main() -> None:
        async with MockServer(Settings(latency=0.2)) as server:
            body = {"model": "mock-1", "messages": [{"role": "user", "content": "x"}]}
            timeout = aiohttp.ClientTimeout(total=0.05)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                with pytest.raises(TimeoutError):
                    await session.post(f"{server.url}/chat/completions", json=body)
            await asyncio.sleep(0.3)
            seen = server.counters()["paths"]["/v1/chat/completions"]
            assert (seen["requests"], seen["delivered"], seen["prompt_tokens"]) == (1, 0, 0)

    asyncio.run(main())


def test_it_stops_at_once_while_a_request_hangs() -> None:
    async def main() -> float:
        async with aiohttp.ClientSession() as session:
            async with MockServer(Settings(errors=0.999, faults="hang")) as server:
                body = {"model": "mock-1", "messages": [{"role": "user", "content": "x"}]}
                hanging = asyncio.create_task(session.post(f"{server.url}/chat/completions", json=body))
                await asyncio.sleep(0.1)
                started = time.monotonic()
            with pytest.raises(aiohttp.ClientError):
                await (await hanging).read()
        return time.monotonic() - started

    assert asyncio.run(main()) < 5


def test_units_are_even_and_derived() -> None:
    values = [unit("x", i) for i in range(2000)]
    assert all(0 <= value < 1 for value in values)
    assert sum(values) / 2000 == pytest.approx(0.5, abs=0.03)
    assert unit("x", 1) == unit("x", 1)
    assert most_in_window([0.0, 1.0, 59.9, 60.0, 60.5, 119.9], 60.0) == 4
