"""Inspect's model layer as a `ChatClient`: `inspect:PROVIDER/MODEL`, for the providers that Inspect can reach.

It costs two to four times the processor time of the HTTP client, and needs the provider's own package; it is for
providers that speak no OpenAI-compatible HTTP. Nothing is cached and, unless asked for, nothing repeated by Inspect:
who runs the job does that. This file and `inspect_provider`, which goes the other way, are the seams to its models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from inferalign.core.errors import EngineError, InferalignError, InputError, TransientError
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatReply, ChatRequest, ChatTokens
from inferalign.engines.remote_errors import one_line, status_error
from inferalign.engines.remote_ledger import Ledger, reservation
from inferalign.engines.remote_limits import Limiter

if TYPE_CHECKING:
    from inspect_ai.model import GenerateConfig, Model, ModelOutput, ModelUsage

PREFIX = "inspect:"
_FINISH: Mapping[str, Literal["stop", "length", "refused", "other"]] = {
    "stop": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "refused",
}


class InspectChat:
    """One model of Inspect's, in one role of a run."""

    def __init__(
        self,
        model: Model,
        *,
        role: str,
        ledger: Ledger | None = None,
        limiter: Limiter | None = None,
        max_retries: int | None = 0,
    ) -> None:
        """
        Args:
            ledger, limiter: a run's own; None inside Inspect, which keeps count and pace itself.
            max_retries: how often Inspect repeats a call by itself; None leaves that to Inspect's configuration.

        Raises `InputError` when the ledger has a budget and no price for the model.
        """
        self._model = model
        self._ledger = ledger or Ledger()
        self._account = self._ledger.account(role, self.name)
        self._limiter = limiter
        self._max_retries = max_retries

    @property
    def name(self) -> str:
        return f"{PREFIX}{self._model}"

    def describe(self) -> Mapping[str, object]:
        from importlib.metadata import version

        own = self._model.config.model_dump(exclude_none=True, exclude={"max_connections", "max_retries"})
        said: dict[str, object] = {
            "transport": "inspect",
            "model": str(self._model),
            "inspect_ai": version("inspect-ai"),
        }
        if self._model.api.base_url:
            url = urlsplit(self._model.api.base_url)
            said["url"] = f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"
        # Headers and bodies of a user's own may hold a key.
        if shown := {key: own[key] for key in own if key not in ("extra_headers", "extra_body")}:
            said["config"] = shown
        return said

    async def chat(self, request: ChatRequest) -> ChatReply:
        """As `ChatClient.chat`. What the model's own configuration sets (`--model-role`) wins over the request."""
        reserve = reservation(request)
        # Before the call: a defect in these is ours, and no provider's error.
        messages, config = _messages(request), self._config(request)
        await self._ledger.room(self._account, reserve)
        with self._ledger.call(self._account, reserve) as call:
            turn = await self._limiter.turn(reserve.prompt + reserve.completion) if self._limiter else None
            started = time.monotonic()
            call.sent()
            try:
                output = await self._model.generate(messages, config=config, cache=False)
            except Exception as error:  # thirty providers raise errors of their own; every one goes on up as ours
                if _has_status(error):
                    call.outcome = "refused"
                raise _ours(error, self._model) from error
            tokens = tokens_of(output.usage)
            call.arrived(tokens)
            if turn is not None and tokens is not None:
                turn.settle(tokens.prompt + tokens.completion)
        return ChatReply(
            text=output.completion,
            finish=finish_of(output),
            tokens=tokens,
            model=output.model or str(self._model),
            seconds=time.monotonic() - started,
            raw=_raw(output),
        )

    async def aclose(self) -> None:
        await self._model.api.aclose()

    def _config(self, request: ChatRequest) -> GenerateConfig:
        from inspect_ai.model import GenerateConfig

        asked = GenerateConfig(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            response_schema=None if request.json_schema is None else _schema(request.json_schema),
        )
        merged = asked.merge(self._model.config)
        return merged if self._max_retries is None else merged.merge({"max_retries": self._max_retries})


def open_inspect(
    name: str, *, role: str, ledger: Ledger, limiter: Limiter | None = None, concurrency: int = 16
) -> InspectChat:
    """The model that `inspect:PROVIDER/MODEL` means; nothing is asked of it yet.

    Raises `InputError` for another form, an unknown provider, a missing package and a missing key.
    """
    try:
        from inspect_ai.model import GenerateConfig, get_model
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name} needs inspect-ai, which is not installed. Type: pip install 'inferalign[agency]'"
        ) from error
    model = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or "/" not in model.strip("/"):
        raise InputError(
            f"{name!r} names no model of Inspect: type {PREFIX}PROVIDER/MODEL, such as {PREFIX}openai/gpt-x"
        )
    try:
        found = get_model(model, config=GenerateConfig(max_connections=concurrency, max_retries=0), memoize=False)
    except InferalignError:
        raise
    except Exception as error:  # an unknown provider, its package, its key: every provider has errors of its own
        raise InputError(f"Inspect cannot open {model!r}: {_words(error)}") from error
    return InspectChat(found, role=role, ledger=ledger, limiter=limiter)


def _messages(request: ChatRequest) -> list[Any]:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return [kinds[message.role](content=message.content) for message in request.messages]


def own_messages(messages: list[Any]) -> tuple[Message, ...]:
    """Inspect's messages as ours, text alone. Raises `InputError` for a tool's result or a call of one."""
    made = []
    for message in messages:
        if message.role == "tool" or getattr(message, "tool_calls", None):
            raise InputError(
                "a conversation with tool calls: this takes system, user and assistant turns of text alone"
            )
        made.append(Message(role=message.role, content=message.text))
    return tuple(made)


def _schema(schema: Mapping[str, Any]) -> Any:
    from inspect_ai.model import ResponseSchema
    from inspect_ai.util import JSONSchema

    return ResponseSchema(name="reply", json_schema=JSONSchema.model_validate(schema), strict=True)


def tokens_of(usage: ModelUsage | None) -> ChatTokens | None:
    """Inspect counts cached tokens apart from the input; we count them in it."""
    if usage is None:
        return None
    read, written = usage.input_tokens_cache_read or 0, usage.input_tokens_cache_write or 0
    return ChatTokens(prompt=usage.input_tokens + read + written, completion=usage.output_tokens, cached=read)


def finish_of(output: ModelOutput) -> Literal["stop", "length", "refused", "other"]:
    if output.empty:
        return "refused" if output.error else "other"
    return _FINISH.get(output.stop_reason, "other")


def _raw(output: ModelOutput) -> dict[str, Any]:
    said = {"id": output.response_id, "error": output.error}
    if not output.empty:
        said["stop_reason"] = output.stop_reason
    return {key: value for key, value in said.items() if value}


def _has_status(error: Exception) -> bool:
    return _status(error) is not None


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of a provider's package carries, under either name that is in use."""
    for one in (error, error.__cause__):
        for name in ("status_code", "code"):
            value = getattr(one, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _ours(error: Exception, model: Model) -> Exception:
    """A provider's error in the words of the error tree; what is ours or Inspect's own control flow stays as it is."""
    from inspect_ai.util import LimitExceededError

    if isinstance(error, InferalignError | LimitExceededError):
        return error
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    words = f"{model}: {_words(cause)}"
    decision = model.api.should_retry(cause)
    if decision:
        return TransientError(words, retry_after=getattr(decision, "retry_after", None))
    if (status := _status(error)) is not None:
        advice = "Set the provider's key in its environment variable."
        return status_error(status, {}, str(cause).encode(), url=str(model), key=None, key_advice=advice)
    if isinstance(cause, TimeoutError | ConnectionError):
        return TransientError(words)
    return EngineError(words)


def _words(error: BaseException) -> str:
    return one_line(str(error), None) or type(error).__name__
