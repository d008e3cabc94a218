import asyncio

import pytest

from inferalign.agency.asking import Asked, Malformed, ask, parse_object
from inferalign.core.errors import TransientError
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatReply, ChatRequest, ChatTokens
from tests.agency.scripted_chat import ScriptedChat, reply

REQUEST = ChatRequest(messages=(Message(role="user", content="Which?"),), max_tokens=9, temperature=0.3)


def answer(text: str) -> str | Malformed:
    found = parse_object(text)
    if isinstance(found, Malformed):
        return found
    return str(found["a"]) if "a" in found else Malformed("no a")


def asked(*replies: ChatReply | Exception) -> tuple[Asked[str], ScriptedChat]:
    client = ScriptedChat(replies)
    return asyncio.run(ask(client, REQUEST, answer)), client


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', ' \n{"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}```', '```JSON \n\n{"a": 1}\n\n```\n'],
)
def test_an_object_with_or_without_one_fence(text: str) -> None:
    assert parse_object(text) == {"a": 1}


def test_a_fence_inside_a_string_is_text() -> None:
    assert parse_object('```json\n{"a": "```py\\nx\\n```"}\n```') == {"a": "```py\nx\n```"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ('Here you are: {"a": 1}', "not JSON"),
        ('{"a": 1} I hope it helps.', "not JSON"),
        ('{"a": 1} {"a": 2}', "not JSON"),
        ('{"a": 1', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"a": NaN}', "not JSON"),
        ('{"a": 1, "a": 2}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\ud800", "not JSON"),
        ('["a"]', "not an object"),
        ("null", "not an object"),
    ],
)
def test_everything_else_is_malformed(text: str, reason: str) -> None:
    found = parse_object(text)
    assert isinstance(found, Malformed)
    assert found.reason == reason


def test_a_good_reply_costs_one_call() -> None:
    result, client = asked(reply('{"a": 1}'))
    assert (result.value, result.status, len(client.requests)) == ("1", "ok", 1)


def test_the_repair_shows_the_reply_and_says_what_was_wrong() -> None:
    result, client = asked(reply('{"b": 1}'), reply('{"a": 2}'))
    assert (result.value, result.status) == ("2", "repaired")
    first, second = client.requests
    assert first is REQUEST
    assert [m.role for m in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].content == '{"b": 1}'
    assert "no a" in second.messages[2].content
    assert (second.max_tokens, second.temperature) == (9, 0.3)


def test_an_empty_reply_leaves_no_empty_turn_behind() -> None:
    _, client = asked(reply("  "), reply('{"a": 2}'))
    assert client.requests[1].messages[1].content == "(no answer)"


def test_one_repair_and_no_more() -> None:
    result, client = asked(reply("no"), reply('{"b": 1}'))
    assert result.status == "failed"
    assert result.value == Malformed("no a")
    assert len(client.requests) == 2


@pytest.mark.parametrize(("finish", "reason"), [("refused", "refused"), ("length", "cut off")])
def test_a_refused_or_cut_reply_is_neither_read_nor_repaired(finish: str, reason: str) -> None:
    result, client = asked(reply('{"a": 1}', finish))  # type: ignore[arg-type]
    assert isinstance(result.value, Malformed)
    assert (result.value.reason, result.status, len(client.requests)) == (reason, "failed", 1)


def test_a_repair_that_is_refused_fails() -> None:
    result, _ = asked(reply("no"), reply('{"a": 1}', "refused"))
    assert isinstance(result.value, Malformed)
    assert result.value.reason == "refused"


def test_what_the_client_raises_is_raised() -> None:
    with pytest.raises(TransientError, match="429"):
        asked(reply("no"), TransientError("429"))


def test_the_costs_of_both_calls_are_added() -> None:
    cost = ChatTokens(prompt=10, completion=3, cached=2)
    result, _ = asked(reply("no", tokens=cost), reply('{"a": 1}', tokens=cost))
    assert result.tokens == {"requests": 2, "prompt": 20, "completion": 6, "cached": 4}
    assert result.seconds == 1.0


def test_a_cost_that_was_not_told_is_not_a_zero() -> None:
    result, _ = asked(reply("no", tokens=ChatTokens(prompt=10)), reply('{"a": 1}'))
    assert result.tokens == {"requests": 2}
