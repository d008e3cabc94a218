"""Models behind OpenAI-compatible endpoints, over plain asynchronous HTTP: chat, completions, and any other JSON.

`open_chat("gpt-x@https://api.example.com/v1", ...)` gives a `ChatClient`. Completions take token ids and give token ids
back where the server can (vLLM's `return_token_ids`). They are not an `Engine`: no such server embeds a prefix or gives
the probability of any label that is asked for, and none promises equal draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from inferalign.core.errors import InputError, TransientError
from inferalign.core.types import TokenIds
from inferalign.engines.chat_api import ChatReply, ChatRequest, ChatTokens
from inferalign.engines.remote_http import Endpoint, RemoteOptions, Unreadable, parse_name, usage_of
from inferalign.engines.remote_ledger import Ledger, most_tokens, reservation
from inferalign.engines.remote_limits import Limiter

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


class _RemoteModel:
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


class RemoteChat(_RemoteModel):
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


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
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


def _finish(reason: object) -> Finish:
    return _FINISH.get(reason, "other") if isinstance(reason, str) else "other"


def _read_chat(body: Mapping[str, Any]) -> _Read:
    choice = _choice(body)
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
    return _Read(content or "", _finish(reason), raw)


@dataclass(frozen=True, kw_only=True)
class CompletionReply:
    """What follows a prefix of token ids."""

    text: str
    token_ids: TokenIds | None
    """None when the server does not give them; never encoded from the text."""
    logprobs: tuple[float, ...] | None
    """Per token, natural log, as the server says them; None when they were not asked for or not given."""
    finish: Finish
    tokens: ChatTokens | None
    model: str
    seconds: float


class RemoteCompletions(_RemoteModel):
    """`POST {url}/completions`, token ids in and, from servers with `return_token_ids` (vLLM), token ids out."""

    async def complete(
        self,
        prefix: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        seed: int | None = None,
        return_ids: bool = True,
        return_logprobs: bool = False,
    ) -> CompletionReply:
        """One continuation. `return_ids=False` is for servers that refuse the parameter.

        Raises as `ChatClient.chat` does.
        """
        sent = list(prefix)
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": sent,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if seed is not None:
            body["seed"] = seed
        if return_ids:
            body["return_token_ids"] = True
        if return_logprobs:
            body["logprobs"] = 1
        choice, answer = await self.endpoint.post(
            "/completions",
            body,
            lambda got: _read_completion(got, sent, return_logprobs),
            ledger=self._ledger,
            account=self._account,
            reserve=ChatTokens(prompt=len(sent), completion=max_tokens),
        )
        return CompletionReply(
            text=choice.text,
            token_ids=choice.token_ids,
            logprobs=choice.logprobs,
            finish=choice.finish,
            tokens=usage_of(answer.body),
            model=str(answer.body.get("model") or self.model),
            seconds=answer.seconds,
        )


class _Continuation(NamedTuple):
    text: str
    token_ids: TokenIds | None
    logprobs: tuple[float, ...] | None
    finish: Finish


def _read_completion(body: Mapping[str, Any], sent: list[int], with_logprobs: bool) -> _Continuation:
    choice = _choice(body)
    text = choice.get("text")
    if not isinstance(text, str):
        raise Unreadable("its choice has no text")
    prompt, ids = choice.get("prompt_token_ids"), choice.get("token_ids")
    if prompt is not None and prompt != sent:
        raise Unreadable("the server answered another prompt than the ids that it was sent")
    details = choice.get("logprobs")
    logprobs = details.get("token_logprobs") if with_logprobs and isinstance(details, dict) else None
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
        raise Unreadable("its token ids are no integers")
    if logprobs is not None and not (isinstance(logprobs, list) and all(map(_is_finite, logprobs))):
        raise Unreadable("its log-probabilities are no numbers")
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise Unreadable(f"it has {len(ids)} token ids and {len(logprobs)} log-probabilities")
    return _Continuation(
        text,
        None if ids is None else tuple(ids),
        None if logprobs is None else tuple(map(float, logprobs)),
        _finish(choice.get("finish_reason")),
    )


def _is_finite(x: object) -> bool:
    return isinstance(x, int | float) and math.isfinite(x)


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
