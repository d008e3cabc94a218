"""The chat and completions client against the mock server: what is sent, what is read, what is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from inferalign.core.errors import EngineError, InputError, RunError, TransientError
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatClient, ChatReply, ChatRequest, ChatTokens
from inferalign.engines.remote import RemoteChat, open_chat
from inferalign.engines.remote_completions import RemoteCompletions
from inferalign.engines.remote_http import Endpoint, RemoteOptions, _Exchange
from inferalign.engines.remote_ledger import Ledger, Price
from inferalign.engines.remote_limits import Limiter, Turn
from tests.mock_server import MockServer, Settings

T = TypeVar("T")
KEY = "sk-verysecret123"


def ask(text: str = "hello", **settings: Any) -> ChatRequest:
    return ChatRequest(messages=[Message(role="user", content=text)], **settings)


def with_server(
    settings: Settings, use: Callable[[MockServer, RemoteChat], Awaitable[T]], options: RemoteOptions | None = None
) -> T:
    async def main() -> T:
        async with MockServer(settings) as server:
            opened = await open_chat(server.url, options or RemoteOptions(), role="subject", ledger=Ledger())
            async with opened as client:
                return await use(server, client)

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_reply_has_the_servers_text_and_tokens() -> None:
    async def use(server: MockServer, client: RemoteChat) -> tuple[ChatReply, ChatReply, dict[str, Any]]:
        checked: ChatClient = client
        return await checked.chat(ask()), await checked.chat(ask("other")), server.counters()

    reply, other, counters = with_server(Settings(), use)
    assert reply.finish == "stop"
    assert reply.text != other.text
    assert reply.model == "mock-1"
    assert reply.seconds > 0
    assert reply.tokens is not None
    assert other.tokens is not None
    seen = counters["paths"]["/v1/chat/completions"]
    assert seen["prompt_tokens"] == reply.tokens.prompt + other.tokens.prompt
    assert seen["completion_tokens"] == reply.tokens.completion + other.tokens.completion
    assert reply.raw["finish_reason"] == "stop"


def test_what_is_not_set_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[dict[str, Any]] = []

    async def post(self: Endpoint, path: str, body: dict[str, Any], read: Any, **_: Any) -> Any:
        bodies.append(body)
        raise EngineError("enough")

    monkeypatch.setattr(Endpoint, "post", post)
    endpoint = Endpoint("http://127.0.0.1:1/v1", RemoteOptions(max_tokens_field="max_completion_tokens"))
    client = RemoteChat(endpoint, "m", role="judge", ledger=Ledger())
    schema = {"type": "object"}
    for request in (ask(), ask(max_tokens=5, temperature=0.0, top_p=0.9, seed=3, json_schema=schema)):
        with pytest.raises(EngineError, match="enough"):
            asyncio.run(client.chat(request))
    messages = [{"role": "user", "content": "hello"}]
    assert bodies[0] == {"model": "m", "messages": messages}
    assert bodies[1] == {
        "model": "m",
        "messages": messages,
        "max_completion_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": schema},
        },
    }


@pytest.mark.parametrize(
    ("settings", "limit", "finish", "empty"),
    [
        (Settings(), 4, "length", False),
        (Settings(empty=1.0), 4, "length", True),
        (Settings(refusals=1.0), 4, "refused", True),
    ],
)
def test_why_a_reply_ends(settings: Settings, limit: int, finish: str, empty: bool) -> None:
    reply = with_server(settings, lambda _, client: client.chat(ask(max_tokens=limit)))
    assert reply.finish == finish
    assert (reply.text == "") is empty


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("429", "answered 429: Rate limit reached"),
        ("500", "answered 500: The server had an error"),
        ("drop", "broke the connection off"),
        ("hang", r"gave no answer within 0\.2 s"),
        ("garbage", "not JSON"),
    ],
)
def test_what_a_repeat_may_mend_is_transient_and_booked_apart(fault: str, words: str) -> None:
    async def use(server: MockServer, client: RemoteChat) -> Ledger:
        with pytest.raises(TransientError, match=words) as caught:
            await client.chat(ask())
        assert "\n" not in str(caught.value)
        assert caught.value.retry_after == (1.5 if fault == "429" else None)
        return client._ledger

    ledger = with_server(Settings(errors=0.999, faults=fault, retry_after=1.5), use, RemoteOptions(timeout=0.2))
    (account,) = ledger.accounts.values()
    assert account.delivered == 0
    assert (account.refused, account.undelivered) == ((1, 0) if fault in ("429", "500") else (0, 1))


def test_errors_never_change_an_answer_and_tokens_equal_the_servers() -> None:
    """30 % faults, ten attempts: every reply equals the one without faults, and the ledger the server's counters."""

    async def all_replies(server: MockServer, client: RemoteChat) -> tuple[list[str], Ledger, dict[str, Any]]:
        async def one(i: int) -> str:
            for _ in range(10):
                try:
                    return (await client.chat(ask(f"question {i}"))).text
                except TransientError:
                    continue
            raise AssertionError("ten attempts failed")

        replies = await asyncio.gather(*map(one, range(60)))
        return replies, client._ledger, server.counters()["paths"]["/v1/chat/completions"]

    calm, _, _ = with_server(Settings(), all_replies)
    replies, ledger, seen = with_server(Settings(errors=0.3, faults="429,500,drop,garbage"), all_replies)
    assert replies == calm
    (account,) = ledger.accounts.values()
    assert account.delivered == seen["delivered"] == 60
    assert account.prompt_tokens == seen["prompt_tokens"]
    assert account.completion_tokens == seen["completion_tokens"]
    faults = seen["statuses"]
    assert account.refused == faults["429"] + faults["500"]
    assert account.undelivered == faults["drop"] + faults["garbage"] > 0
    assert seen["requests"] == account.delivered + account.refused + account.undelivered


def test_no_more_than_concurrency_at_once() -> None:
    async def use(server: MockServer, client: RemoteChat) -> int:
        await asyncio.gather(*(client.chat(ask(str(i))) for i in range(20)))
        return server.most_at_once

    assert with_server(Settings(latency=0.02), use, RemoteOptions(concurrency=3)) == 3


def test_completions_take_and_give_token_ids() -> None:
    async def use(server: MockServer, client: RemoteChat) -> None:
        raw = RemoteCompletions(client.endpoint, client.model, role="generator", ledger=client._ledger)
        reply = await raw.complete([5, 6, 7], max_tokens=8, seed=1, return_logprobs=True)
        assert reply.token_ids is not None
        assert reply.logprobs is not None
        assert len(reply.token_ids) == len(reply.logprobs) <= 8
        assert all(logprob <= 0 for logprob in reply.logprobs)
        assert reply.tokens == ChatTokens(prompt=3, completion=len(reply.token_ids))
        assert reply == _untimed(await raw.complete([5, 6, 7], max_tokens=8, seed=1, return_logprobs=True), reply)
        plain = await raw.complete([5, 6, 7], max_tokens=8, seed=1, return_ids=False)
        assert (plain.text, plain.token_ids, plain.logprobs) == (reply.text, None, None)
        other = await raw.complete([5, 6, 8], max_tokens=8, seed=1)
        assert other.token_ids != reply.token_ids

    with_server(Settings(), use)


def _untimed(reply: Any, like: Any) -> Any:
    return replace(reply, seconds=like.seconds)


@pytest.mark.parametrize("dialect", ["openai", "sglang"])
def test_any_other_json_goes_the_same_way(dialect: Any) -> None:
    question = {
        "openai": {"type": "predicate", "name": "A", "instructions": "it is short"},
        "sglang": {"type": "yes_no", "id": "A", "question": "it is short"},
    }[dialect]

    async def use(server: MockServer, client: RemoteChat) -> None:
        noul = {"type": "noul", "instructions": "it is short"}
        one = await client.post_json("/systemone", {"state": "s", "questions": {"A": noul}})
        two = await client.post_json("/decisions", {"input": "s", "questions": [question]})
        p = two["answers"][0]["probability"] if dialect == "openai" else two["answers"]["A"]["probabilities"]["yes"]
        assert one["answers"]["A"]["noul"] == p
        with pytest.raises(EngineError, match=r"answered 400: .*64"):
            await client.post_json("/systemone", {"state": "s", "questions": {str(i): noul for i in range(65)}})
        (account,) = client._ledger.accounts.values()
        seen = server.counters()["paths"]
        assert account.prompt_tokens == sum(path["prompt_tokens"] for path in seen.values()) > 0
        assert (account.delivered, account.refused) == (2, 1)

    with_server(Settings(decisions=dialect), use)


def answered(*bodies: Any, **settings: Any) -> tuple[Ledger, Callable[[], Awaitable[ChatReply]], RemoteCompletions]:
    """A chat call, and completions, to a server that gives these bodies, one a call."""
    ledger, left = Ledger(), iter(bodies)
    endpoint = Endpoint("http://127.0.0.1:1/v1", RemoteOptions(**settings))

    async def exchange(method: str, path: str, data: bytes, call: Any) -> _Exchange:
        json.loads(data)
        call.sent()
        return _Exchange(f"http://127.0.0.1:1/v1{path}", 200, {}, json.dumps(next(left)).encode(), 0.5)

    endpoint._exchange = exchange  # type: ignore[method-assign, assignment]
    chat = RemoteChat(endpoint, "m", role="judge", ledger=ledger)
    raw = RemoteCompletions(endpoint, "m", role="judge", ledger=ledger)
    return ledger, lambda: chat.chat(ask("a lone \ud800 surrogate")), raw


def choice(message: Any, finish: Any = "stop") -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": {"prompt_tokens": 2}}


@pytest.mark.parametrize(
    ("message", "reason", "text", "finish"),
    [
        ({"content": "yes"}, "stop", "yes", "stop"),
        ({"content": "yes"}, "eos_token", "yes", "stop"),
        ({"content": "ye"}, "length", "ye", "length"),
        ({"content": None}, "length", "", "length"),
        ({"content": "no"}, "content_filter", "no", "refused"),
        ({"content": None, "refusal": "I will not"}, "stop", "", "refused"),
        ({"content": "yes", "refusal": None}, None, "yes", "other"),
        ({"content": None, "tool_calls": []}, "tool_calls", "", "other"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "stop", "ab", "stop"),
        ({"content": "yes"}, ["stop"], "yes", "other"),
    ],
)
def test_replies_in_the_shapes_that_servers_give(message: Any, reason: Any, text: str, finish: str) -> None:
    _, chat, _ = answered(choice(message, reason))
    reply = asyncio.run(chat())
    assert (reply.text, reply.finish, reply.model) == (text, finish, "m")
    json.dumps(dict(reply.raw), allow_nan=False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "not a JSON object"),
        ({}, "it has no choices"),
        ({"choices": []}, "it has no choices"),
        ({"choices": ["x"]}, "it has no choices"),
        ({"error": {"message": f"no\nway with {KEY}"}}, r"it has no choices \(no way with \*\*\*\)"),
        (choice(None), "its choice has no message"),
        # Half an answer of a server that failed is no answer, and an empty one is no silence.
        (choice({"content": "Half an"}, "abort"), "it was broken off by an error"),
        (choice({"content": ""}, "error"), "it was broken off by an error"),
        (
            {"choices": [{"message": {"content": "Half"}, "error": {"message": "upstream"}}]},
            r"by an error \(upstream\)",
        ),
        (choice({"content": 7}), "its content is not text"),
    ],
)
def test_a_200_that_cannot_be_read_is_transient_and_undelivered(
    body: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ledger, chat, _ = answered(body)
    with pytest.raises(TransientError, match=words) as caught:
        asyncio.run(chat())
    assert "\n" not in str(caught.value)
    (account,) = ledger.accounts.values()
    assert (account.delivered, account.undelivered) == (0, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no text"),
        ({"text": "x", "prompt_token_ids": [1, 2]}, "another prompt"),
        ({"text": "x", "token_ids": ["1"]}, "ids are no integers"),
        ({"text": "x", "token_ids": [True]}, "ids are no integers"),
        ({"text": "x", "logprobs": {"token_logprobs": [float("nan")]}}, "log-probabilities are no numbers"),
        ({"text": "x", "token_ids": [1], "logprobs": {"token_logprobs": [-1, -2]}}, "1 token ids and 2 log-prob"),
    ],
)
def test_completions_that_cannot_be_read(given: Any, words: str) -> None:
    _, _, raw = answered({"choices": [given]})
    with pytest.raises(TransientError, match=words):
        asyncio.run(raw.complete([1, 2, 3], max_tokens=4, return_logprobs=True))


def test_a_reply_without_usage_is_untold() -> None:
    ledger, chat, _ = answered({**choice({"content": "x"}), "usage": None})
    assert asyncio.run(chat()).tokens is None
    (account,) = ledger.accounts.values()
    assert (account.delivered, account.untold) == (1, 1)


def test_every_attempt_takes_a_turn_and_settles_what_it_cost() -> None:
    class Recording(Limiter):
        def __init__(self) -> None:
            super().__init__()
            self.reserved: list[int] = []
            self.settled: list[int] = []

        async def turn(self, tokens: int) -> Turn:
            self.reserved.append(tokens)
            return await super().turn(tokens)

        def settle(self, turn: Turn, tokens: int) -> None:
            self.settled.append(tokens)

    async def main() -> None:
        limiter = Recording()
        async with MockServer(Settings(errors=0.7, faults="500,drop")) as server:
            client = await open_chat(server.url, RemoteOptions(), role="judge", ledger=Ledger(), limiter=limiter)
            async with client:
                outcomes = await asyncio.gather(
                    *(client.chat(ask(str(i), max_tokens=50)) for i in range(20)), return_exceptions=True
                )
            replies = [one for one in outcomes if isinstance(one, ChatReply)]
            assert 0 < len(replies) < 20
            # one or two digits in a message: 8 and a completion of 50 at most
            assert limiter.reserved == [58] * 20
            costs = [one.tokens.prompt + one.tokens.completion for one in replies if one.tokens is not None]
            assert sorted(limiter.settled) == sorted(costs)
            assert max(costs) <= 58

    asyncio.run(main())


def opened(name: str, options: RemoteOptions | None = None, ledger: Ledger | None = None) -> RemoteChat:
    async def main() -> RemoteChat:
        client = await open_chat(name, options or RemoteOptions(), role="judge", ledger=ledger or Ledger())
        await client.aclose()
        return client

    return asyncio.run(main())


def test_an_unreachable_endpoint_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached .*start the server") as caught:
        opened("m@http://127.0.0.1:9/v1")
    assert "\n" not in str(caught.value)


def test_a_server_that_went_away_is_transient() -> None:
    async def main() -> None:
        async with MockServer() as server:
            client = await open_chat(server.url, RemoteOptions(), role="judge", ledger=Ledger())
        async with client:
            with pytest.raises(TransientError, match=r"cannot be reached any more|broke the connection off"):
                await client.chat(ask())

    asyncio.run(main())


def test_a_url_alone_means_the_only_model() -> None:
    async def main(models: str) -> str:
        async with MockServer(Settings(models=models)) as server:
            client = await open_chat(server.url, RemoteOptions(), role="judge", ledger=Ledger())
            await client.aclose()
            assert client.describe() == {
                "transport": "http",
                "url": server.url,
                "model": client.model,
                "dialect": "chat.completions",
            }
            return client.name.replace(server.url, "URL")

    assert asyncio.run(main("only")) == "only@URL"
    with pytest.raises(InputError, match=r"has several models \(a, b\): type one of them, as in a@http://127"):
        asyncio.run(main("a,b"))
    with pytest.raises(InputError, match=r"does not list its models: type MODEL@http://127"):
        asyncio.run(main(""))


def test_an_unknown_model_and_a_wrong_path_are_input_errors() -> None:
    async def use(server: MockServer, client: RemoteChat) -> None:
        wrong = RemoteChat(client.endpoint, "nobody", role="judge", ledger=Ledger())
        with pytest.raises(InputError, match=r"answered 404: The model 'nobody' does not exist\. Check the URL"):
            await wrong.chat(ask())
        with pytest.raises(InputError, match="answered 404: no path /v1/nowhere"):
            await client.post_json("/nowhere", {})

    with_server(Settings(), use)


def test_the_key_is_sent_and_is_in_no_error_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    options = RemoteOptions(key_variable="MY_KEY")
    reply = with_server(Settings(key=KEY), lambda _, client: client.chat(ask()), options)
    assert reply.finish == "stop"

    async def refused(server: MockServer, client: RemoteChat) -> str:
        with pytest.raises(InputError, match=r"answered 401: .*\. Check the key in MY_KEY") as caught:
            await client.chat(ask())
        held = [client, client.endpoint, client._ledger, client.describe(), client.name, caught.value, options]
        return "".join(map(repr, held)) + str(caught.value) + str(vars(client))

    # The server repeats the key that it was sent.
    assert KEY not in with_server(Settings(key="another"), refused, options)


def test_a_refused_call_without_a_key_says_how_to_give_one() -> None:
    async def use(server: MockServer, client: RemoteChat) -> None:
        with pytest.raises(InputError, match="No key was sent: type export OPENAI_API_KEY="):
            await client.chat(ask())

    with_server(Settings(key=KEY), use)


def test_the_key_does_not_go_over_http_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    plain = Endpoint("http://models.example.com/v1", RemoteOptions())
    assert plain._key.value is None
    assert "OPENAI_API_KEY was not sent over http://" in plain._key.advice
    for url in ("http://localhost:1/v1", "http://127.0.0.2:1/v1", "http://[::1]:1/v1", "https://models.example.com/v1"):
        assert Endpoint(url, RemoteOptions())._key.value == KEY
    assert Endpoint("http://models.example.com/v1", RemoteOptions(key_over_http=True))._key.value == KEY
    # A name that only begins like one of this machine.
    assert Endpoint("http://localhost.example.com/v1", RemoteOptions())._key.value is None


def test_a_variable_that_is_named_must_hold_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="MY_KEY is not set: type export MY_KEY="):
        opened("m@https://a.example/v1", RemoteOptions(key_variable="MY_KEY"))
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(InputError, match="MY_KEY holds no key") as caught:
        opened("m@https://a.example/v1", RemoteOptions(key_variable="MY_KEY"))
    assert "lines" not in str(caught.value)


def test_the_budget_stops_before_the_call_that_would_pass_it() -> None:
    async def main() -> None:
        async with MockServer() as server:
            # 100 a token out: 12 to 40 words are at least 10 tokens.
            ledger = Ledger(prices={"mock-1": Price(input=0, output=1e8)}, budget=5000.0)
            client = await open_chat(server.url, RemoteOptions(), role="subject", ledger=ledger)
            async with client:

                async def spend() -> None:
                    for i in range(100):
                        await client.chat(ask(str(i), max_tokens=30))

                with pytest.raises(RunError, match=r"budget of 5000 has no room .* may cost 3000") as caught:
                    await spend()
                assert "\n" not in str(caught.value)
            (account,) = ledger.accounts.values()
            assert account.cost is not None
            assert 2000 < account.cost <= 5000
            assert server.counters()["paths"]["/v1/chat/completions"]["requests"] == account.delivered

    asyncio.run(main())


def test_without_aiohttp_the_error_says_what_to_install() -> None:
    code = """
import asyncio, sys
sys.modules["aiohttp"] = None
from inferalign.core.errors import InputError
from inferalign.engines.remote import open_chat
from inferalign.engines.remote_http import RemoteOptions
from inferalign.engines.remote_ledger import Ledger
try:
    asyncio.run(open_chat("m@http://127.0.0.1:9/v1", RemoteOptions(), role="judge", ledger=Ledger()))
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'inferalign[agency]'" in done.stdout


def test_the_server_runs_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.mock_server", "--models", "shell"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert opened(url).model == "shell"
        finally:
            process.terminate()


def test_a_redirect_is_not_followed_and_takes_no_key_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    seen: list[str] = []

    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({"choices": [{"message": {"content": "stolen"}}]})

    async def main() -> None:
        target = web.ServerRunner(web.Server(elsewhere))
        await target.setup()
        await web.TCPSite(target, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{target.addresses[0][1]}/v1"

        async def redirect(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": url})

        first = web.ServerRunner(web.Server(redirect))
        await first.setup()
        await web.TCPSite(first, "127.0.0.1", 0).start()
        try:
            endpoint = Endpoint(f"http://127.0.0.1:{first.addresses[0][1]}/v1", RemoteOptions())
            async with RemoteChat(endpoint, "m", role="subject", ledger=Ledger()) as client:
                with pytest.raises(InputError, match=f"redirects to {url}: name that URL"):
                    await client.chat(ask())
        finally:
            await first.cleanup()
            await target.cleanup()

    asyncio.run(main())
    assert seen == []


def test_a_key_that_may_not_list_the_models_may_still_ask_them() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"error": {"message": "Missing scopes: api.model.read"}}, status=403)
        return web.json_response({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})

    async def main() -> str:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            with pytest.raises(InputError, match="does not list its models: type MODEL@"):
                await open_chat(url, RemoteOptions(), role="judge", ledger=Ledger())
            async with await open_chat(f"m@{url}", RemoteOptions(), role="judge", ledger=Ledger()) as client:
                return (await client.chat(ask())).text
        finally:
            await runner.cleanup()

    assert asyncio.run(main()) == "hello"
