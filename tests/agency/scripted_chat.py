"""A chat endpoint whose replies are written down or computed from the request, for tests of who asks it."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Literal

from inferalign.core.seeds import derive, uniforms
from inferalign.engines.chat_api import ChatReply, ChatRequest, ChatTokens

Finish = Literal["stop", "length", "refused", "other"]


def reply(text: str, finish: Finish = "stop", tokens: ChatTokens | None = None) -> ChatReply:
    return ChatReply(text=text, finish=finish, tokens=tokens, model="scripted-1", seconds=0.5)


class ScriptedChat:
    """Replies of a list in their order, or by a rule of the request; a scripted exception is raised.

    With a `shuffle` seed every call waits for some turns of the event loop, so calls in flight finish in another order.
    """

    name = "scripted"

    def __init__(
        self,
        script: Sequence[ChatReply | Exception] | Callable[[ChatRequest], ChatReply],
        *,
        shuffle: int | None = None,
    ) -> None:
        self._rule = script if callable(script) else None
        self._left = [] if callable(script) else list(script)
        self._shuffle = shuffle
        self.requests: list[ChatRequest] = []

    def describe(self) -> Mapping[str, object]:
        return {"endpoint": "scripted"}

    async def chat(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        if self._shuffle is not None:
            for _ in range(derive(self._shuffle, request.messages[0].content) % 7):
                await asyncio.sleep(0)
        if self._rule:
            return self._rule(request)
        answer = self._left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


_SYLLABLES = (
    ("ba", "ke", "li", "mo", "tu", "fa", "ru", "si"),
    ("rn", "st", "ld", "mp", "nk", "zz"),
    ("er", "on", "il", "at", "um", "ez"),
)
WORDS = ["".join(parts) for parts in product(*_SYLLABLES)]
"""288 words that no stop list holds."""


def message(topic: str, seed: int, words: int = 60) -> str:
    """A text of `words` words, most of them drawn by topic and seed from the 120 of `WORDS` that the topic owns."""
    start = zlib.crc32(topic.encode()) % len(WORDS)
    own = [WORDS[(start + int(u * 120)) % len(WORDS)] for u in uniforms(derive(seed, topic), words - 4)]
    return " ".join(["What", "should", *own, "next", "week?"])


def varied(request: ChatRequest) -> ChatReply:
    """What a generator of k one-field messages would write: another text for every topic and prompt."""
    assert request.json_schema is not None
    keys = request.json_schema["required"]
    text = request.messages[0].content
    seed = zlib.crc32(text.encode())
    return reply(
        json.dumps({key: message(f"{key} {text}", seed) for key in keys}), tokens=ChatTokens(prompt=100, completion=200)
    )
