"""One question to a chat endpoint that has to be answered by a JSON object: asked, parsed strictly, repaired once.

What cannot be read is a value (`Malformed`), never an exception and never a guess: a lenient parse would turn the
words around a verdict, or a quotation inside it, into the verdict. The repair asks for the same content in the right
form; a reply that was refused or cut off is not repaired, since no repeat of the form would mend it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from inferalign.core.files import parse_json
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatClient, ChatReply, ChatRequest

T = TypeVar("T")
_FENCED = re.compile(r"\A```[A-Za-z]*[ \t]*\n(.*)\n?```\Z", re.DOTALL)


@dataclass(frozen=True)
class Malformed:
    """A reply that is not what was asked for."""

    reason: str
    """A few words out of a fixed list, to count by."""
    detail: str = ""
    """What exactly was wrong, for the repair and for the reader of the record."""


@dataclass(frozen=True, kw_only=True)
class Asked(Generic[T]):
    """What came of a question."""

    value: T | Malformed
    """What the last reply says, or why it cannot be used."""
    replies: tuple[ChatReply, ...]
    """One, or two after a repair, in the order of the calls."""

    @property
    def status(self) -> Literal["ok", "repaired", "failed"]:
        if isinstance(self.value, Malformed):
            return "failed"
        return "ok" if len(self.replies) == 1 else "repaired"

    @property
    def seconds(self) -> float:
        return sum(reply.seconds for reply in self.replies)

    @property
    def tokens(self) -> dict[str, int]:
        """Sums over the calls. Without a key for them when one of the calls did not say: an unknown is not a 0."""
        told = [reply.tokens for reply in self.replies if reply.tokens is not None]
        requests = {"requests": len(self.replies)}
        if len(told) < len(self.replies):
            return requests
        sums = {name: sum(getattr(t, name) for t in told) for name in ("prompt", "completion", "cached")}
        return requests | sums


def parse_object(text: str) -> dict[str, Any] | Malformed:
    """The JSON object that the whole text is, with or without one code fence around it; no NaN and no key twice."""
    bare = text.strip()
    if fenced := _FENCED.match(bare):
        bare = fenced[1].strip()
    try:
        value = parse_json(bare.encode("utf-8", "surrogatepass"))
    except ValueError as error:
        return Malformed("not JSON", str(error))
    return value if isinstance(value, dict) else Malformed("not an object", f"it is a JSON {type(value).__name__}")


async def ask(client: ChatClient, request: ChatRequest, parse: Callable[[str], T | Malformed]) -> Asked[T]:
    """The parsed answer to `request`, after one repair at most. Raises what the client raises."""
    first = await client.chat(request)
    value = _read(first, parse)
    if not isinstance(value, Malformed) or first.finish in _FINAL:
        return Asked(value=value, replies=(first,))
    second = await client.chat(_repair(request, first.text, value))
    return Asked(value=_read(second, parse), replies=(first, second))


_FINAL: Mapping[str, Malformed] = {
    "refused": Malformed("refused", "the server or the model refused to answer"),
    "length": Malformed("cut off", "the reply reached max_tokens: allow more of them, or ask for less in one call"),
}
"""Ways to finish that leave nothing to parse, even if a part of the text happens to be an object."""


def _read(reply: ChatReply, parse: Callable[[str], T | Malformed]) -> T | Malformed:
    return _FINAL[reply.finish] if reply.finish in _FINAL else parse(reply.text)


def _repair(request: ChatRequest, text: str, fault: Malformed) -> ChatRequest:
    words = (
        f"That was not the JSON object that I asked for ({fault.reason}: {fault.detail}). "
        "Send the same content again in the form that I asked for: the JSON object and nothing else."
    )
    # Many servers refuse an assistant turn without content.
    said = Message(role="assistant", content=text if text.strip() else "(no answer)")
    return replace(request, messages=(*request.messages, said, Message(role="user", content=words)))
