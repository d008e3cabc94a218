"""Questions about a response, answered by the next token of a model: how they are put together, and asked.

A question is made of token ids: preamble, conversation, the response's own ids, what follows. Nothing that was
generated is ever encoded again, and what questions share (the preamble, the conversation, the response) is computed
once by an engine that keeps prefixes. What the answers mean is not known here: `self_eval` and `decisions` know it.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from inferalign.core.errors import InputError
from inferalign.core.types import Completion, Prompt, RoleUsage, TokenIds, Unscored
from inferalign.engines.base import Engine, LabelLogprobs

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat

Conversation = Literal["transcript", "chat"]
"""`transcript`: the last user turn as a Human/Assistant text. `chat`: the model's own chat format, as generated."""
Reading = tuple[tuple[float, ...], ...]
"""`[phrasing][label]`: probabilities under the full softmax."""
TRANSCRIPT = "Human: {user}\n\nAssistant:"
KEPT_PROMPTS = 256
"""Prompts whose token ids are kept: more than are ever in flight."""


@dataclass(frozen=True, kw_only=True)
class Phrasing:
    """One way of putting a question."""

    text: str
    """What follows the response, up to the label."""
    labels: tuple[str, ...]
    """The possible answers, as text that is one token after `text`."""


class _Encoded(NamedTuple):
    suffix: TokenIds
    labels: TokenIds


class Questions:
    """Asks `engine`'s model several questions, each in one or several phrasings, about responses to a prompt."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        conversation: Conversation,
        preamble: str,
        questions: Sequence[Sequence[Phrasing]],
    ) -> None:
        """Raises `ModelError` when a label is not one token of this tokenizer after its text."""
        self._engine = engine
        self._chat = chat
        self._conversation = conversation
        self._preamble = chat.start_ids + chat.encode(preamble)
        self._questions = [
            [_Encoded(chat.encode(one.text), chat.label_ids(one.text, one.labels)) for one in phrasings]
            for phrasings in questions
        ]
        self._labels = sorted({label for phrasings in self._questions for one in phrasings for label in one.labels})
        self._kept: dict[object, TokenIds] = {}

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        """Preamble, conversation from the last user turn on, and the response's ids as they are."""
        return self._before(prompt) + token_ids

    def _before(self, prompt: Prompt) -> TokenIds:
        """What precedes the response: a search asks for it hundreds of times, so the newest prompts' are kept."""
        key = (prompt.messages, prompt.token_ids)
        if key not in self._kept:
            if len(self._kept) >= KEPT_PROMPTS:
                del self._kept[next(iter(self._kept))]
            if self._conversation == "chat":
                self._kept[key] = self._chat.prompt_ids(prompt)
            else:
                self._kept[key] = self._preamble + self._chat.encode(TRANSCRIPT.replace("{user}", prompt.text))
        return self._kept[key]

    def room(self, prompt: Prompt) -> int:
        """The most tokens a response may have for every question about it to fit (may be negative)."""
        return min(self._rooms(prompt))

    def _rooms(self, prompt: Prompt) -> list[int]:
        """The same for each question alone, its longest phrasing being what counts."""
        room = self._engine.context_length - len(self._before(prompt))
        return [room - max(len(one.suffix) for one in phrasings) for phrasings in self._questions]

    async def ask(
        self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage
    ) -> list[list[Reading | Unscored]]:
        """`[response][question]`, by one request to the engine.

        `Unscored`, blame judge: the question does not fit the model's context, or a label has no finite probability.
        """
        rooms = self._rooms(prompt)
        fits = [[len(response.token_ids) <= room for room in rooms] for response in responses]
        asked = [
            self.context(prompt, response.token_ids) + one.suffix
            for response, fit in zip(responses, fits, strict=True)
            for phrasings, fitting in zip(self._questions, fit, strict=True)
            if fitting
            for one in phrasings
        ]
        answers = iter(await self._engine.label_logprobs(asked, self._labels, usage) if asked else ())
        overflow = Unscored(
            "the question about the answer needs more than the model's context of "
            f"{self._engine.context_length} tokens",
            blame="judge",
        )
        return [
            [
                self._reading(phrasings, answers) if fitting else overflow
                for phrasings, fitting in zip(self._questions, fit, strict=True)
            ]
            for fit in fits
        ]

    def _reading(self, phrasings: Sequence[_Encoded], answers: Iterator[LabelLogprobs]) -> Reading | Unscored:
        """The next answers, one a phrasing."""
        reading: Reading = ()
        for one in phrasings:
            at = dict(zip(self._labels, next(answers).logprobs, strict=True))
            reading += (tuple(math.exp(at[label]) for label in one.labels),)
        if not all(math.isfinite(p) for labels in reading for p in labels):
            return Unscored("the model gave a label no finite probability", blame="judge")
        return reading


def read_prompt_file(path: Path, what: str, entries: str) -> tuple[dict[str, Any], str]:
    """A TOML file that says how a model is asked, and its sha256.

    `what` names the kind of file, `entries` the key of its list. Raises `InputError` that names the file, and the key
    that is missing, unknown or wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}; give a TOML file") from error
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    expected = {"name": str, "conversation": str, "preamble": str, entries: list}
    for key, kind in expected.items():
        if not isinstance(table.get(key), kind):
            raise InputError(
                f"{path}: key {key!r} is missing or is not a {kind.__name__}; see the shipped prompts/*.toml"
            )
    if unknown := sorted(set(table) - set(expected)):
        raise InputError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(expected)}")
    if table["conversation"] not in ("transcript", "chat"):
        raise InputError(f"{path}: conversation is {table['conversation']!r}; it must be 'transcript' or 'chat'")
    if table["conversation"] == "chat" and table["preamble"]:
        raise InputError(
            f"{path}: a template with conversation = 'chat' shares the generation's prefix: empty the preamble"
        )
    return table, hashlib.sha256(data).hexdigest()
