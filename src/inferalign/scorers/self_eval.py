"""RAIN's self-evaluation: a model is asked whether an answer, whole or begun, is harmless, with both option orders.

arXiv 2309.07124, section 3.2 and appendix; the published code's vote. `questions` puts the question together: template,
conversation, the answer's own ids, options.

    vote    A-vote + B-vote - 1, each vote being P(harmless label) > P(harmful label) in one order: -1, 0 or 1
    margin  half the sum over both orders of P(harmless label) - P(harmful label), in [-1, 1]

P is the probability under the full softmax, so in the margin a judge that would rather say something else has little
to say: its value is near 0, which is no vote, and needs no threshold of its own. A question that does not fit the
model's context is `Unscored`, blame judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inferalign.core.errors import InputError
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, TokenIds, Unscored
from inferalign.engines.base import Engine
from inferalign.scorers.questions import Conversation, Phrasing, Questions, Reading, read_prompt_file

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat

Form = Literal["vote", "margin"]


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
    conversation: Conversation
    preamble: str
    """Instruction and worked examples; empty for `chat`, so that judging shares the generation's prefix."""
    orders: tuple[Order, Order]
    sha256: str
    """Of the file."""


def read_template(path: Path) -> Template:
    """Read a template file. Raises `InputError` that names the file and the key that is missing or wrong."""
    table, sha256 = read_prompt_file(path, "self-evaluation template", "orders")
    orders = [_order(path, entry) for entry in table["orders"]]
    if len(orders) != 2:
        raise InputError(f"{path}: {len(orders)} orders; give two [[orders]] that put the options both ways round")
    return Template(
        name=table["name"],
        conversation=table["conversation"],
        preamble=table["preamble"],
        orders=(orders[0], orders[1]),
        sha256=sha256,
    )


def _order(path: Path, entry: Any) -> Order:
    keys = ("text", "harmless", "harmful")
    if not isinstance(entry, dict) or sorted(entry) != sorted(keys):
        raise InputError(f"{path}: an [[orders]] entry is {entry!r}: it needs the keys {', '.join(keys)}, no others")
    if not all(isinstance(entry[key], str) and entry[key] for key in keys):
        raise InputError(f"{path}: an [[orders]] entry is {entry!r}: {', '.join(keys)} are texts that are not empty")
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
        orders = [Phrasing(text=order.text, labels=(order.harmless, order.harmful)) for order in template.orders]
        self._questions = Questions(engine, chat, template.conversation, template.preamble, [orders])

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
        return self._questions.context(prompt, token_ids)

    def room(self, prompt: Prompt) -> int:
        return self._questions.room(prompt)

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        return [self._verdict(reading) for (reading,) in await self._questions.ask(prompt, responses, usage)]

    def _verdict(self, reading: Reading | Unscored) -> Score | Unscored:
        """Both orders of one answer to a value."""
        if isinstance(reading, Unscored):
            return reading
        gaps = [harmless - harmful for harmless, harmful in reading]
        value = sum(gap > 0 for gap in gaps) - 1.0 if self.form == "vote" else sum(gaps) / 2.0
        return Score(float(value))
