"""What a chat endpoint is asked and answers: the seam between who needs a model's text and who carries it.

A transport (`engines.remote` over HTTP, a provider of Inspect, a scripted one in a test) is a `ChatClient`. It retries
nothing and hides nothing: a request that failed raises, `TransientError` where a repeat may succeed, so that whoever
runs the job decides how often, and no error text can pass for a reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from inferalign.core.types import Message


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One call. None leaves the server's own default, for servers that refuse a parameter they do not take."""

    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    json_schema: Mapping[str, Any] | None = None
    """Asks for a reply of this shape, where the server can constrain it; the reply is parsed strictly either way."""


@dataclass(frozen=True, kw_only=True)
class ChatTokens:
    """What the server says a call cost."""

    prompt: int = 0
    completion: int = 0
    """Visible and hidden (reasoning) tokens together."""
    cached: int = 0
    """Of `prompt`, those that the server billed as cached."""


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    text: str
    finish: Literal["stop", "length", "refused", "other"]
    """`refused`: the server's content filter, or a `refusal` in place of the content."""
    tokens: ChatTokens | None
    """None when the server did not say."""
    model: str
    """The model's name as the server gives it, which may be more exact than the one asked for."""
    seconds: float
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The request's id and anything else that a record should keep; JSON values only, never a secret."""


class ChatClient(Protocol):
    """A model behind an endpoint. May be called concurrently."""

    @property
    def name(self) -> str:
        """As the user named it: goes into records, so it holds no key."""
        ...

    def describe(self) -> Mapping[str, object]:
        """What a record must say: endpoint without credentials, model, dialect."""
        ...

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Raises `TransientError` (429, 5xx, timeouts, dropped connections), `EngineError` for what a repeat cannot
        mend, `InputError` for an endpoint or a model that is not there."""
        ...
