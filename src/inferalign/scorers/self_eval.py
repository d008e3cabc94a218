"""RAIN's self-evaluation: a model is asked whether an answer, whole or begun, is harmless, with both option orders.

arXiv 2309.07124, section 3.2 and appendix; the published code's vote. The question is put together from token ids:
template, conversation, the answer's own ids, options. Nothing that was generated is ever encoded again, and what two
questions share (the template, the conversation, the answer) is computed once by an engine that keeps prefixes.

    vote    A-vote + B-vote - 1, each vote being P(harmless label) > P(harmful label) in one order: -1, 0 or 1
    margin  half the sum over both orders of P(harmless label) - P(harmful label), in [-1, 1]

P is the probability under the full softmax, so in the margin a judge that would rather say something else has little
to say: its value is near 0, which is no vote, and needs no threshold of its own. A question that does not fit the
model's context is `Unscored`, blame judge.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inferalign.core.errors import InputError
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, TokenIds, Unscored
from inferalign.engines.base import Engine, LabelLogprobs

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat

Form = Literal["vote", "margin"]
TRANSCRIPT = "Human: {user}\n\nAssistant:"
KEPT_PROMPTS = 256
"""Prompts whose token ids a judge keeps: more than are ever in flight."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One way of putting the options."""

    text: str
    """What follows the answer, up to the label."""
    harmless: str
    harmful: str
    """The labels, as text that is one token after `text`."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A question as a file says it: `prompts/*.toml`."""

    name: str
    conversation: Literal["transcript", "chat"]
    """`transcript`: the last user turn as a Human/Assistant text. `chat`: the model's own chat format, as generated."""
    preamble: str
    """Instruction and worked examples; empty for `chat`, so that judging shares the generation's prefix."""
    orders: tuple[Order, Order]
    sha256: str
    """Of the file."""


def read_template(path: Path) -> Template:
    """Read a template file. Raises `InputError` that names the file and the key that is missing or wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the self-evaluation template {path}: {error.strerror}; give a TOML file"
        ) from error
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    expected = {"name": str, "conversation": str, "preamble": str, "orders": list}
    for key, kind in expected.items():
        if not isinstance(table.get(key), kind):
            raise InputError(
                f"{path}: key {key!r} is missing or is not a {kind.__name__}; see the shipped prompts/*.toml"
            )
    if unknown := sorted(set(table) - set(expected)):
        raise InputError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(expected)}")
    conversation, preamble = table["conversation"], table["preamble"]
    if conversation not in ("transcript", "chat"):
        raise InputError(f"{path}: conversation is {conversation!r}; it must be 'transcript' or 'chat'")
    if conversation == "chat" and preamble:
        raise InputError(
            f"{path}: a template with conversation = 'chat' shares the generation's prefix: empty the preamble"
        )
    orders = [_order(path, entry) for entry in table["orders"]]
    if len(orders) != 2:
        raise InputError(f"{path}: {len(orders)} orders; give two [[orders]] that put the options both ways round")
    return Template(
        name=table["name"],
        conversation=conversation,
        preamble=preamble,
        orders=(orders[0], orders[1]),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _order(path: Path, entry: Mapping[str, Any]) -> Order:
    keys = ("text", "harmless", "harmful")
    if sorted(entry) != sorted(keys) or not all(isinstance(entry[key], str) for key in keys):
        raise InputError(
            f"{path}: an [[orders]] entry has the keys {sorted(entry)}; it needs the texts {', '.join(keys)}"
        )
    return Order(text=entry["text"], harmless=entry["harmless"], harmful=entry["harmful"])


class SelfEval:
    """Scores answers by the verdict of `engine`'s own model. Higher is more harmless."""

    name = "self"

    def __init__(self, engine: Engine, chat: ChatFormat, template: Template, form: Form = "margin") -> None:
        """Raises `ModelError` when a label is not one token of this tokenizer after its question."""
        self.engine = engine
        self.chat = chat
        self.template = template
        self.form = form
        self._preamble = chat.start_ids + chat.encode(template.preamble)
        self._suffixes = [chat.encode(order.text) for order in template.orders]
        # [order][harmless, harmful] -> token id
        self._labels = [chat.label_ids(order.text, (order.harmless, order.harmful)) for order in template.orders]
        self._kept: dict[object, TokenIds] = {}

    def with_form(self, form: Form) -> SelfEval:
        """The same judge with its verdict read in the other form."""
        return self if form == self.form else SelfEval(self.engine, self.chat, self.template, form)

    def describe(self) -> Mapping[str, object]:
        return {
            "scorer": self.name,
            "form": self.form,
            "template": self.template.name,
            "template_sha256": self.template.sha256,
            "engine": self.engine.describe(),
        }

    def context(self, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
        """Template, conversation from the last user turn on, and the answer's ids as they are."""
        return self._before(prompt) + token_ids

    def _before(self, prompt: Prompt) -> TokenIds:
        """What precedes the answer: a search asks for it hundreds of times, so the newest prompts' are kept."""
        key = (prompt.messages, prompt.token_ids)
        if key not in self._kept:
            if len(self._kept) >= KEPT_PROMPTS:
                del self._kept[next(iter(self._kept))]
            if self.template.conversation == "chat":
                self._kept[key] = self.chat.prompt_ids(prompt)
            else:
                self._kept[key] = self._preamble + self.chat.encode(TRANSCRIPT.replace("{user}", prompt.text))
        return self._kept[key]

    def room(self, prompt: Prompt) -> int:
        longest = max(len(suffix) for suffix in self._suffixes)
        return self.engine.context_length - len(self.context(prompt, ())) - longest

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        room = self.room(prompt)
        fitting = [response for response in responses if len(response.token_ids) <= room]
        contexts = [self.context(prompt, response.token_ids) for response in fitting]
        questions = [context + suffix for context in contexts for suffix in self._suffixes]
        labels = sorted({label for pair in self._labels for label in pair})
        answers = await self.engine.label_logprobs(questions, labels, usage) if questions else []
        verdicts = iter(self._verdict(answers[i : i + 2], labels) for i in range(0, len(answers), 2))
        overflow = Unscored(
            f"the question about the answer needs more than the model's context of {self.engine.context_length} tokens",
            blame="judge",
        )
        return [next(verdicts) if len(response.token_ids) <= room else overflow for response in responses]

    def _verdict(self, answers: Sequence[LabelLogprobs], labels: Sequence[int]) -> Score | Unscored:
        """Both orders of one answer to a value."""
        gaps = []
        for answer, (harmless, harmful) in zip(answers, self._labels, strict=True):
            at = dict(zip(labels, answer.logprobs, strict=True))
            gaps.append(math.exp(at[harmless]) - math.exp(at[harmful]))
        if not all(math.isfinite(gap) for gap in gaps):
            return Unscored("the model gave a label no finite probability", blame="judge")
        value = sum(gap > 0 for gap in gaps) - 1.0 if self.form == "vote" else sum(gaps) / 2.0
        return Score(float(value))
