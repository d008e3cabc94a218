"""Inspect's model layer as a chat endpoint: what it is asked, what its errors become, nothing repeated beneath us."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, Model, ModelAPI, ModelOutput, ModelUsage, get_model, modelapi
from inspect_ai.util import LimitExceededError

from inferalign.agency.inspect_transport import InspectChat, open_inspect, own_messages
from inferalign.core.errors import ContextOverflow, EngineError, InputError, RunError, TransientError
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatRequest, ChatTokens
from inferalign.engines.remote_ledger import Ledger, Price
from tests.agency.inspect_mock import output

HELLO = (Message(role="system", content="Be brief."), Message(role="user", content="Hello"))
SCHEMA = {
    "type": "object",
    "properties": {"issues": {"type": "array", "items": {"type": "string", "enum": ["A", "B"]}}},
    "required": ["issues"],
    "additionalProperties": False,
}


class Status(Exception):
    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


class Flaky(ModelAPI):
    """Says what it is given to say; `transient` is what the provider itself would repeat."""

    def __init__(self, model_name: str, *_: Any, said: Any = None, transient: bool = False, **more: Any) -> None:
        super().__init__(model_name, more.get("base_url"), config=more.get("config", GenerateConfig()))
        self.said, self.transient = said, transient
        self.seen: list[tuple[list[Any], GenerateConfig]] = []

    async def generate(self, input: list[Any], tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
        self.seen.append((input, config))
        if isinstance(self.said, BaseException):
            raise self.said
        return self.said or output("Good morning.")

    def should_retry(self, ex: Exception) -> bool:
        return self.transient


@modelapi(name="flaky")
def flaky() -> type[ModelAPI]:
    return Flaky


def model(**said: Any) -> Model:
    return get_model("flaky/one", memoize=False, **said)


def asked(one: Model, request: ChatRequest | None = None, **own: Any) -> Any:
    chat = InspectChat(one, role="subject", **own)
    return asyncio.run(chat.chat(request or ChatRequest(messages=HELLO)))


def test_a_request_arrives_as_it_was_meant() -> None:
    one = model()
    request = ChatRequest(messages=HELLO, max_tokens=50, temperature=0.5, top_p=0.9, seed=7, json_schema=SCHEMA)
    reply = asked(one, request)
    ((messages, config),) = one.api.seen
    assert own_messages(messages) == HELLO
    assert (config.max_tokens, config.temperature, config.top_p, config.seed) == (50, 0.5, 0.9, 7)
    assert config.response_schema.strict
    assert config.response_schema.json_schema.model_dump(exclude_none=True) == SCHEMA
    assert (config.max_retries, config.cache) == (0, None)
    assert (reply.text, reply.finish, reply.model) == ("Good morning.", "stop", "mock-1")
    assert reply.tokens == ChatTokens(prompt=100, completion=20)
    assert reply.seconds >= 0


def test_what_the_models_own_configuration_sets_wins() -> None:
    one = model(config=GenerateConfig(temperature=1.0))
    asked(one, ChatRequest(messages=HELLO, temperature=0.0, max_tokens=9))
    assert (one.api.seen[0][1].temperature, one.api.seen[0][1].max_tokens) == (1.0, 9)


def test_cached_tokens_are_a_part_of_the_prompt() -> None:
    said = output("x")
    said.usage = ModelUsage(
        input_tokens=10, output_tokens=5, total_tokens=22, input_tokens_cache_read=4, input_tokens_cache_write=3
    )
    assert asked(model(said=said)).tokens == ChatTokens(prompt=17, completion=5, cached=4)
    said.usage = None
    assert asked(model(said=said)).tokens is None


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("stop", "stop"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("content_filter", "refused"),
        ("unknown", "other"),
        ("tool_calls", "other"),
    ],
)
def test_how_a_reply_ended(stop: str, finish: str) -> None:
    assert asked(model(said=output("x", stop))).finish == finish


def test_a_moderated_request_without_a_choice_is_a_refusal() -> None:
    assert asked(model(said=ModelOutput(model="m", error="flagged"))).finish == "refused"
    assert asked(model(said=ModelOutput(model="m"))).finish == "other"


@pytest.mark.parametrize(
    ("error", "transient", "kind"),
    [
        (ValueError("no idea"), False, EngineError),
        (ValueError("overloaded"), True, TransientError),
        (Status(429, "slow down"), False, TransientError),
        (Status(503, "down"), False, TransientError),
        (Status(401, "bad key sk-abcdef123456789"), False, InputError),
        (Status(404, "no such model"), False, InputError),
        (Status(400, "the context length is 8192 tokens"), False, ContextOverflow),
        (Status(400, "no such parameter"), False, EngineError),
        (TimeoutError(), False, TransientError),
        (ConnectionResetError("reset"), False, TransientError),
    ],
)
def test_errors_become_ours_after_one_call(error: Exception, transient: bool, kind: type[Exception]) -> None:
    one, ledger = model(said=error, transient=transient), Ledger()
    with pytest.raises(kind) as raised:
        asked(one, ledger=ledger)
    assert type(raised.value) is kind
    cause = raised.value.__cause__
    assert cause is error or (transient and cause is not None and cause.__cause__ is error)
    assert "flaky/one" in str(raised.value)
    assert "abcdef" not in str(raised.value)
    assert len(one.api.seen) == 1
    account = ledger.accounts["subject", "inspect:flaky/one"]
    assert (account.delivered, account.refused + account.undelivered) == (0, 1)
    assert account.refused == isinstance(error, Status)


def test_inspects_own_limits_pass_as_they_are() -> None:
    with pytest.raises(LimitExceededError):
        asked(model(said=LimitExceededError("token", value=2, limit=1)))


def test_the_ledger_counts_and_the_budget_stops() -> None:
    ledger = Ledger(prices={"inspect:flaky/one": Price(input=1.0, output=1.0)}, budget=0.005)
    one = model()
    chat = InspectChat(one, role="judge", ledger=ledger)
    request = ChatRequest(messages=HELLO, max_tokens=4000)
    asyncio.run(chat.chat(request))
    assert ledger.cost == pytest.approx(120e-6)
    assert ledger.accounts["judge", "inspect:flaky/one"].prompt_tokens == 100
    with pytest.raises(RunError, match="budget"):
        asyncio.run(chat.chat(ChatRequest(messages=HELLO, max_tokens=5000)))
    assert len(one.api.seen) == 1


def test_a_record_names_the_endpoint_and_no_secret() -> None:
    one = model(
        base_url="https://me:secret@host.example:8443/v1?key=secret",
        config=GenerateConfig(temperature=1.0, extra_headers={"x-key": "secret"}),
    )
    said = InspectChat(one, role="judge").describe()
    assert said["url"] == "https://host.example:8443/v1"
    assert said["config"] == {"temperature": 1.0}
    assert "secret" not in str(said)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flaky/one", "type inspect:PROVIDER/MODEL"),
        ("inspect:flaky", "type inspect:PROVIDER/MODEL"),
        ("inspect:nobody/one", "nobody"),
        ("inspect:openai/gpt-x", "openai"),
    ],
)
def test_names_that_cannot_be_opened(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=words):
        open_inspect(name, role="judge", ledger=Ledger())


def test_a_name_opens() -> None:
    chat = open_inspect("inspect:flaky/two", role="judge", ledger=Ledger(), concurrency=3)
    assert chat.name == "inspect:flaky/two"
    assert asyncio.run(chat.chat(ChatRequest(messages=HELLO))).text == "Good morning."
