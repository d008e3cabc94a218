"""The chat judge: a model behind a chat endpoint names issue letters in JSON, as in arXiv 2509.08494, section 3.

The published judge sees the issues in their own order and answers once; this one sees them shuffled and is asked once
more for what cannot be read. A verdict that is still not one then is unscored. `shuffle=False` is the published order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferalign.agency import judge_prompt
from inferalign.agency.asking import Malformed, ask
from inferalign.agency.dimension import Dimension
from inferalign.agency.judge import dimension_of, hashes, unscored
from inferalign.agency.judge_parse import parse_verdict
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.config import to_dict
from inferalign.core.types import Message, RoleUsage, Unscored
from inferalign.engines.chat_api import ChatClient, ChatRequest

ASKED_AGAIN = "\n----- asked again -----\n"
"""Between the two texts of a judge that was asked twice, in a verdict's `raw`."""


@dataclass(frozen=True, kw_only=True)
class ChatJudgeSettings:
    seed: int = 0
    """The orders of the letters are derived from it."""
    shuffle: bool = True
    """Whether the issues are shown in a drawn order, mapped back afterwards."""
    temperature: float | None = 0.0
    """None for servers that take none (reasoning models)."""
    max_tokens: int | None = 8192
    """Room for hidden reasoning, too; the published setting."""
    json_schema: bool = True
    """Whether the server is asked to hold the answer to a JSON schema; False for servers that refuse to."""


class ChatJudge:
    """Asks one model about replies in any of `dimensions`."""

    def __init__(
        self, client: ChatClient, dimensions: Mapping[str, Dimension], settings: ChatJudgeSettings | None = None
    ) -> None:
        self._client = client
        self._dimensions = dimensions
        self._settings = settings or ChatJudgeSettings()

    @property
    def name(self) -> str:
        return self._client.name

    def describe(self) -> Mapping[str, object]:
        return {
            "judge": "chat",
            "client": dict(self._client.describe()),
            "prompt_sha256": judge_prompt.prompt_sha256("judge_chat"),
            "settings": to_dict(self._settings),
            "dimensions": hashes(self._dimensions),
        }

    async def judge(self, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage) -> Verdict:
        dimension = dimension_of(self._dimensions, item, reply)
        settings = self._settings
        lettering = (
            judge_prompt.shuffled(dimension, item, seed=settings.seed, repeat=repeat)
            if settings.shuffle
            else judge_prompt.original(dimension)
        )
        code = judge_prompt.fence_code(settings.seed, item, reply, repeat)
        prompt = judge_prompt.chat_prompt(dimension, item, reply, lettering, code)
        request = ChatRequest(
            messages=(Message(role="user", content=prompt),),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            json_schema=verdict_schema(lettering.shown) if settings.json_schema else None,
        )
        asked = await ask(self._client, request, lambda text: parse_verdict(text, lettering.shown))
        usage.tokens_fed += asked.tokens.get("prompt", 0)
        usage.new_tokens += asked.tokens.get("completion", 0)
        facts: dict[str, Any] = {
            "letter_order": lettering.order,
            "raw": ASKED_AGAIN.join(one.text for one in asked.replies),
            "tokens": asked.tokens,
            "seconds": asked.seconds,
        }
        if isinstance(asked.value, Malformed):
            reason = f"the judge's answer cannot be read: {asked.value.reason}"
            return unscored(self.name, reply, repeat, Unscored(reason, blame="judge"), **facts)
        named = asked.value
        letters = judge_prompt.letters_of(lettering, named.letters, dimension)
        mended = (*(("a second request",) if asked.status == "repaired" else ()), *named.oddities)
        return Verdict(
            reply=reply.id,
            judge=self.name,
            judge_repeat=repeat,
            status="repaired" if mended else "ok",
            letters=letters,
            score=dimension.rubric.score(letters),
            assessment=named.assessment,
            reason="; ".join(mended),
            **facts,
        )


def verdict_schema(shown: tuple[str, ...]) -> dict[str, Any]:
    """The JSON schema of a verdict in these letters."""
    return {
        "type": "object",
        "properties": {
            "assessment": {"type": "string"},
            "issues": {"type": "array", "items": {"type": "string", "enum": list(shown)}},
        },
        "required": ["assessment", "issues"],
        "additionalProperties": False,
    }
