"""The assistant under test: a conversation in, its next turn out.

A model behind an endpoint, or a local model under any procedure. What could not be answered is raised and never
becomes a reply; an empty text is a reply, since that is what the user would see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from inferalign.core.config import to_dict
from inferalign.core.types import Message, Prompt
from inferalign.engines.chat_api import ChatClient, ChatRequest
from inferalign.engines.table import LoadedModel, is_sandbox
from inferalign.procedures.base import Procedure, Sampling
from inferalign.procedures.table import PROCEDURES, build, parse
from inferalign.scorers.table import build_scorer


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a subject is to answer."""

    id: str
    """Item, condition, repeat and number of the turn: keys the draws of a local model."""
    messages: tuple[Message, ...]
    """From the system prompt, if there is one, to a user turn."""
    max_tokens: int
    temperature: float
    top_p: float


@dataclass(frozen=True, kw_only=True)
class Said:
    """A subject's turn."""

    text: str
    finish: str
    tokens: Mapping[str, int] = field(default_factory=dict)
    """`requests`, and `prompt`, `completion`, `cached` where they are known."""
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the record."""


class Subject(Protocol):
    """May be called concurrently."""

    @property
    def name(self) -> str:
        """Goes into records and ids, so it holds no key."""
        ...

    def describe(self) -> Mapping[str, object]: ...

    async def answer(self, turn: Turn) -> Said:
        """Raises as `ChatClient.chat` does."""
        ...


class RemoteSubject:
    """A model behind an endpoint."""

    def __init__(self, client: ChatClient, *, server_sampling: bool = False) -> None:
        """`server_sampling` sends no temperature and no top_p, for models that refuse them."""
        self._client = client
        self._server_sampling = server_sampling

    @property
    def name(self) -> str:
        return self._client.name

    def describe(self) -> Mapping[str, object]:
        return {"subject": "endpoint", **self._client.describe(), "server_sampling": self._server_sampling}

    async def answer(self, turn: Turn) -> Said:
        request = ChatRequest(
            messages=turn.messages,
            max_tokens=turn.max_tokens,
            temperature=None if self._server_sampling else turn.temperature,
            top_p=None if self._server_sampling else turn.top_p,
        )
        reply = await self._client.chat(request)
        told = {} if reply.tokens is None else to_dict(reply.tokens)
        # A refusal that the server keeps apart from the content is what the user reads.
        text = reply.text or str(reply.raw.get("refusal", ""))
        return Said(
            text=text,
            finish=reply.finish,
            tokens={"requests": 1, **told},
            seconds=reply.seconds,
            facts={"model": reply.model, **reply.raw},
        )


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """How a local model answers, beside what the dimensions say."""

    procedure: str = "sample"
    scorer: str = "self"
    """The guide of a procedure that has one."""
    seed: int = 0
    temperature: float | None = None
    """None: under `sample` the dimension's own, which is 0 in the shipped ones; 1 under any other procedure, since N
    draws at 0 are one."""
    max_tokens: int | None = None
    """None: the dimension's own."""
    allow_oracle_guide: bool = False


class LocalSubject:
    """A local model under a procedure. Requests in flight together share the engine's passes."""

    def __init__(self, model: str, loaded: LoadedModel, settings: LocalSettings) -> None:
        """`model` is its name in records. Raises as `procedures.table.build` does."""
        self.name = f"{settings.procedure}/{model}"
        self._loaded = loaded
        self._settings = settings
        self._kind, _ = parse(settings.procedure)
        self._guide = None
        if PROCEDURES[self._kind].guided:
            self._guide = build_scorer(
                settings.scorer, engine=loaded.engine, chat=loaded.chat, sandbox=is_sandbox(loaded.engine.name)
            )
        self._made: dict[Sampling, Procedure] = {}
        self._procedure(Sampling())  # what is wrong with it is said before anything is asked

    def describe(self) -> Mapping[str, object]:
        procedure = self._procedure(Sampling()).describe()
        return {
            "subject": "local",
            "model": self._loaded.engine.describe(),
            "chat": self._loaded.chat.describe(),
            **to_dict(self._settings),
            "procedure": {key: value for key, value in procedure.items() if key not in ("sampling", "max_new_tokens")},
        }

    async def answer(self, turn: Turn) -> Said:
        """Draws by temperature and length alone: a local engine has no top_p."""
        result = await self._procedure(self._sampling(turn))(Prompt(id=turn.id, messages=turn.messages))
        spent = result.usage.generator
        return Said(
            text=result.response.text,
            finish=str(result.response.stop),
            tokens={"prompt": spent.tokens_fed + spent.tokens_reused, "completion": spent.new_tokens},
            seconds=result.seconds,
            facts={"usage": to_dict(result.usage), "candidates": len(result.candidates), "trace": dict(result.trace)},
        )

    def _sampling(self, turn: Turn) -> Sampling:
        settings = self._settings
        own = turn.temperature if self._kind == "sample" else 1.0
        return Sampling(
            temperature=own if settings.temperature is None else settings.temperature,
            max_new_tokens=turn.max_tokens if settings.max_tokens is None else settings.max_tokens,
        )

    def _procedure(self, sampling: Sampling) -> Procedure:
        if sampling not in self._made:
            self._made[sampling] = build(
                self._settings.procedure,
                engine=self._loaded.engine,
                chat=self._loaded.chat,
                scorer=self._guide,
                seed=self._settings.seed,
                sampling=sampling,
                allow_oracle_guide=self._settings.allow_oracle_guide,
            )
        return self._made[sampling]

    def check(self, messages: tuple[Message, ...]) -> None:
        """Raises `InputError` when the model's chat template refuses such a conversation."""
        self._loaded.chat.render(messages)
