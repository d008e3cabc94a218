"""Names of endpoints, usage in every spelling, and what statuses mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from inferalign.core.errors import ContextOverflow, EngineError, InferalignError, InputError, TransientError
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_errors import retry_after, status_error
from inferalign.engines.remote_http import usage_of
from inferalign.engines.remote_names import is_remote, parse_name


@pytest.mark.parametrize(
    ("name", "model", "url"),
    [
        ("gpt-x@https://api.example.com/v1", "gpt-x", "https://api.example.com/v1"),
        ("org/m:free@http://127.0.0.1:8000/v1/", "org/m:free", "http://127.0.0.1:8000/v1"),
        ("m@2026@https://a.example/v1", "m@2026", "https://a.example/v1"),
        ("http://[::1]:8000/v1", None, "http://[::1]:8000/v1"),
        # One endpoint has one name.
        ("m@https://API.Example.com:443/v1/Path", "m", "https://api.example.com/v1/Path"),
        ("http://LOCALHOST:80/v1", None, "http://localhost/v1"),
        ("http://localhost:8080/v1", None, "http://localhost:8080/v1"),
        ("http://localhost:443/v1", None, "http://localhost:443/v1"),
    ],
)
def test_names(name: str, model: str | None, url: str) -> None:
    assert is_remote(name)
    assert parse_name(name) == (model, url)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpt-x", "'gpt-x' names no endpoint: type MODEL@URL"),
        ("@https://a.example/v1", "names no endpoint"),
        ("m@ftp://a.example", "names no endpoint"),
        ("m@https://user:hunter2@a.example/v1", "holds a user, a password or a query"),
        ("m@https://a.example/v1?key=hunter2", "holds a user, a password or a query"),
        ("m@https://user:hunter2@a.example/v1 x", "names no endpoint"),
        ("m@https://:80/v1", "has no host"),
        ("m@https://a.example:port/v1", "cannot be read"),
    ],
)
def test_names_that_are_none(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_name(name)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["sandbox", "./model", "org/model", "user@host", "C:\\model", ""])
def test_models_that_are_not_remote(name: str) -> None:
    assert not is_remote(name)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, ChatTokens(prompt=9, completion=4)),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}},
            ChatTokens(prompt=9, completion=4, cached=5),
        ),
        (
            {"input_tokens": 9, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 5}},
            ChatTokens(prompt=9, cached=5),
        ),
        ({"prompt_tokens": 9, "total_tokens": 9, "prompt_tokens_details": None}, ChatTokens(prompt=9)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}, ChatTokens(prompt=3, cached=3)),
        ({"prompt_tokens": "9"}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 1.5}, None),
        ({"prompt_tokens": True}, None),
        ({"completion_tokens": 4}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage(usage: Any, tokens: ChatTokens | None) -> None:
    assert usage_of({"usage": usage}) == tokens


def error(status: int, body: bytes = b"", key: str | None = None, **headers: str) -> InferalignError:
    given = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return status_error(status, given, body, url="https://a.example/v1/x", key=key, key_advice="Check the key in K")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, TransientError) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *((status, InputError) for status in (301, 307, 401, 403, 404)),
        *((status, EngineError) for status in (201, 400, 402, 413, 422, 501)),
    ],
)
def test_statuses(status: int, kind: type[InferalignError]) -> None:
    found = error(status, b'{"error": {"message": "as it is"}}')
    assert type(found) is kind
    assert str(found).startswith(f"https://a.example/v1/x answered {status}: as it is")


def test_a_prompt_that_is_too_long_is_its_own_error() -> None:
    assert type(error(400, b'{"error": {"message": "no", "code": "context_length_exceeded"}}')) is ContextOverflow
    vllm = b'{"error": {"message": "This model\'s maximum context length is 4096 tokens", "code": 400}}'
    assert type(error(400, vllm)) is ContextOverflow


def test_no_credit_is_not_worth_waiting_for() -> None:
    found = error(429, b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}')
    assert type(found) is EngineError
    assert "no credit" in str(found)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "Sat, 21 Nov 2026 20:00:30 GMT", "Date": "Sat, 21 Nov 2026 20:00:00 GMT"}, 30.0),
        ({"Retry-After": "Sat, 21 Nov 2026 20:00:30 GMT"}, None),
        ({"Retry-After": "soon", "Date": "now"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(CIMultiDict(headers)) == seconds


def test_a_server_that_asks_for_an_hour_is_left_alone() -> None:
    found = error(429, Retry_After="600")
    assert isinstance(found, TransientError)
    assert found.retry_after == 600
    found = error(429, Retry_After="3600")
    assert type(found) is EngineError
    assert "asks to wait 3600 s" in str(found)


def test_a_redirect_names_where_to() -> None:
    assert "redirects to https://b.example/v1: name that URL" in str(error(308, Location="https://b.example/v1"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "plain words"}', "plain words"),
        (b'{"detail": "as FastAPI has it"}', "as FastAPI has it"),
        (b'{"detail": [{"loc": ["body"], "msg": "missing"}]}', '[{"loc": ["body"], "msg": "missing"}]'),
        (b'{"object": "error", "message": "as vLLM had it"}', "as vLLM had it"),
        (b"<html><body><h1>502 Bad\nGateway</h1></body></html>", "502 Bad Gateway"),
        (b'"text"', "text"),
        (b"[" * 100_000, "["),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_what_the_server_says(body: bytes, said: str) -> None:
    assert said in str(error(400, body))


def test_secrets_are_taken_out() -> None:
    body = b'{"error": {"message": "bad key abc.def, bad Bearer xyz123 and sk-proj-****abcd"}}'
    words = str(error(401, body, key="abc.def"))
    assert words == "https://a.example/v1/x answered 401: bad key ***, bad *** and ***. Check the key in K"


@given(st.sampled_from([400, 401, 404, 429, 500]), st.binary(max_size=400) | st.text(max_size=3000).map(str.encode))
def test_a_message_is_one_short_line(status: int, body: bytes) -> None:
    words = str(error(status, body))
    assert len(words.splitlines()) == 1
    assert len(words) < 500
