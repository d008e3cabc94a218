"""Models behind OpenAI-compatible endpoints, over plain asynchronous HTTP: chat, and any other JSON.

`open_chat("gpt-x@https://api.example.com/v1", ...)` gives a `ChatClient`; `remote_completions` takes token ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from inferalign.core.errors import InputError, TransientError
from inferalign.engines.chat_api import ChatReply, ChatRequest, ChatTokens
from inferalign.engines.remote_http import Endpoint, RemoteOptions, Unreadable, usage_of
from inferalign.engines.remote_ledger import Ledger, most_tokens, reservation
from inferalign.engines.remote_limits import Limiter
from inferalign.engines.remote_names import parse_name

Finish = Literal["stop", "length", "refused", "other"]
_FINISH: Mapping[str, Finish] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "refused",
}


class RemoteModel:
    """One model of an endpoint, in one role of a run."""

    def __init__(self, endpoint: Endpoint, model: str, *, role: str, ledger: Ledger) -> None:
        """Several may use one endpoint, and so its connections and limits; closing one closes it for all.

        Raises `InputError` when the ledger has a budget and no price for the model.
        """
        self.endpoint = endpoint
        self.model = model
        self._ledger = ledger
        self._account = ledger.account(role, self.name)

    @property
    def name(self) -> str:
        return f"{self.model}@{self.endpoint.url}"

    def describe(self) -> Mapping[str, object]:
        return {"transport": "http", "url": self.endpoint.url, "model": self.model}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self.endpoint.aclose()

    async def post_json(self, path: str, body: Mapping[str, Any], *, max_tokens: int = 0) -> Mapping[str, Any]:
        """POSTs any other body to a path below the URL, such as `/decisions`; `model` is put in where it is missing.

        `max_tokens` is what the call may generate. Raises as `ChatClient.chat` does.
        """
        body = {"model": self.model, **body}
        reserve = ChatTokens(prompt=most_tokens(json.dumps(body, ensure_ascii=False)), completion=max_tokens)
        _, answer = await self.endpoint.post(
            path, body, lambda _: None, ledger=self._ledger, account=self._account, reserve=reserve
        )
        return answer.body


class RemoteChat(RemoteModel):
    """A `ChatClient` over `POST {url}/chat/completions`."""

    def describe(self) -> Mapping[str, object]:
        return {**super().describe(), "dialect": "chat.completions"}

    async def chat(self, request: ChatRequest) -> ChatReply:
        """As `ChatClient.chat`. `RunError` when the ledger's budget has no room.

        An empty text with the finish "length" is a reply: reasoning that is not shown has used up `max_tokens`.
        """
        read, answer = await self.endpoint.post(
            "/chat/completions",
            self._body(request),
            _read_chat,
            ledger=self._ledger,
            account=self._account,
            reserve=reservation(request),
        )
        return ChatReply(
            text=read.text,
            finish=read.finish,
            tokens=usage_of(answer.body),
            model=str(answer.body.get("model") or self.model),
            seconds=answer.seconds,
            raw={**read.raw, **({"request_id": answer.request_id} if answer.request_id else {})},
        )

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        optional = {
            self.endpoint.options.max_tokens_field: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            **{key: value for key, value in optional.items() if value is not None},
        }
        if request.json_schema is not None:
            schema = {"name": "reply", "strict": True, "schema": dict(request.json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


class _Read(NamedTuple):
    text: str
    finish: Finish
    raw: dict[str, Any]


def first_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice. Raises `Unreadable`, with the server's own error where a 200 carries one."""
    choices = body.get("choices")
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        raise Unreadable("it has no choices" + _said(body))
    choice = choices[0]
    # A server that failed half way may still say 200; what it had written until then is no reply.
    if choice.get("error") or choice.get("finish_reason") in _BROKEN:
        raise Unreadable("it was broken off by an error" + _said(choice))
    return choice


_BROKEN = ("error", "abort")
"""Reasons to finish: the first is OpenRouter's, the second vLLM's and SGLang's."""


def _said(part: Mapping[str, Any]) -> str:
    error = part.get("error")
    said = error.get("message") if isinstance(error, dict) else None
    return f" ({said})" if isinstance(said, str) else ""


def finish_of(reason: object) -> Finish:
    return _FINISH.get(reason, "other") if isinstance(reason, str) else "other"


def _read_chat(body: Mapping[str, Any]) -> _Read:
    choice = first_choice(body)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unreadable("its choice has no message")
    content = message.get("content")
    if isinstance(content, list):  # some servers give the text in parts
        content = "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str | None):
        raise Unreadable("its content is not text")
    reason, refusal = choice.get("finish_reason"), message.get("refusal")
    raw = {key: body[key] for key in ("id", "system_fingerprint") if isinstance(body.get(key), str)}
    if isinstance(reason, str):
        raw["finish_reason"] = reason
    if isinstance(refusal, str) and refusal and not content:
        return _Read("", "refused", {**raw, "refusal": refusal})
    return _Read(content or "", finish_of(reason), raw)


async def open_chat(
    name: str, options: RemoteOptions, *, role: str, ledger: Ledger, limiter: Limiter | None = None
) -> RemoteChat:
    """The model that `name` means (`MODEL@URL`, or the URL of a server with one model), once its server has answered.

    Raises `InputError` for a name that is none, a server that cannot be reached or refuses the key, and a URL alone
    whose server has several models or does not list them.
    """
    model, url = parse_name(name)
    endpoint = Endpoint(url, options, limiter=limiter)
    try:
        listed = await _listed(endpoint, needed=model is None)
        return RemoteChat(endpoint, model or _only(listed, url), role=role, ledger=ledger)
    except BaseException:  # whatever came: nobody else holds the connections to close them; it goes on up
        await endpoint.aclose()
        raise


async def _listed(endpoint: Endpoint, *, needed: bool) -> list[str] | None:
    """Its models. A server that is merely busy will do, unless the list is needed."""
    try:
        return await endpoint.models()
    except TransientError:
        if needed:
            raise
        return None


def _only(listed: list[str] | None, url: str) -> str:
    if not listed:
        raise InputError(f"{url} does not list its models: type MODEL@{url}")
    if len(listed) > 1:
        shown = ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")
        raise InputError(f"{url} has several models ({shown}): type one of them, as in {listed[0]}@{url}")
    return listed[0]
