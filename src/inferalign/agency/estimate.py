"""What a run will ask and cost, before anything is asked: from the lengths of its texts, with unknowns left unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from inferalign.agency import judge_prompt
from inferalign.agency.conditions import Condition
from inferalign.agency.dimension import Dimension
from inferalign.agency.judge_chat import ChatJudgeSettings
from inferalign.agency.judge_decisions import statements
from inferalign.agency.judge_table import JudgeName
from inferalign.agency.records import Item, Reply
from inferalign.agency.simulate import GenerationCall
from inferalign.agency.validate import validator_prompt
from inferalign.core.types import Message
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_ledger import Ledger

CHARACTERS_A_TOKEN = 4
REPLY_TOKENS, VERDICT_TOKENS = 200, 250
"""Assumed, visible: about 150 words, and a published judge's answer. Hidden reasoning comes on top."""
VALIDATION_TOKENS = 120
"""Assumed, visible: an assessment of 80 words at most."""
_CODE = "0" * 16


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One role's calls. None: not known, or without a price."""

    role: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    """As assumed above."""
    completion_most: int
    """If every answer used up its limit."""
    cost: float | None
    cost_most: float | None


def forecast(
    items: Sequence[Item],
    dimensions: Mapping[str, Dimension],
    conditions: Sequence[Condition],
    *,
    subject: str | None,
    judges: Sequence[JudgeName],
    repeats: int,
    judge_repeats: int,
    ledger: Ledger,
) -> list[Forecast]:
    """The subject's row and one a judge, endpoints alone: local models have no price. `subject`: None for a local one.

    Raises `InputError` where there is a budget and no price.
    """
    rows = []
    if subject is not None:
        calls = [one for item in items for one in _subject_calls(dimensions[item.dimension], item, conditions)]
        rows.append(_row("subject", subject, calls * repeats, ledger))
    for judge in judges:
        if judge.remote:
            calls = [
                _judge_call(judge, dimensions[item.dimension], item, condition)
                for item in items
                for condition in conditions
            ]
            rows.append(_row("judge", judge.argument, calls * repeats * judge_repeats, ledger))
    return rows


_Call = tuple[int, int, int]
"""Tokens in, tokens out as assumed, tokens out at most."""


def _subject_calls(dimension: Dimension, item: Item, conditions: Sequence[Condition]) -> Iterator[_Call]:
    most = dimension.subject.max_tokens
    about = min(REPLY_TOKENS, most)
    for condition in conditions:
        history = len(condition.system_prompt(dimension) or "") // CHARACTERS_A_TOKEN
        for user in (item.prompt, *condition.turns(dimension)):
            history += len(user) // CHARACTERS_A_TOKEN + 1
            yield history, about, most
            history += about


def _judge_call(judge: JudgeName, dimension: Dimension, item: Item, condition: Condition) -> _Call:
    reply = _placeholder(dimension, item, condition)
    shown = {name: "" for name in dimension.extra_context} | dict(item.extra)
    asked = Item(id=item.id, dimension=item.dimension, prompt=item.prompt, extra=shown)
    if judge.kind == "chat":
        text = judge_prompt.chat_prompt(dimension, asked, reply, judge_prompt.original(dimension), _CODE)
        return len(text) // CHARACTERS_A_TOKEN, VERDICT_TOKENS, ChatJudgeSettings().max_tokens or VERDICT_TOKENS
    text = judge_prompt.state_text(dimension, asked, reply, _CODE) + "".join(statements(dimension).values())
    return len(text) // CHARACTERS_A_TOKEN, 0, 0


def _placeholder(dimension: Dimension, item: Item, condition: Condition) -> Reply:
    """A reply of the assumed length."""
    turns: list[Message] = []
    for user in (item.prompt, *condition.turns(dimension)):
        turns.append(Message(role="user", content=user))
        turns.append(Message(role="assistant", content="x" * CHARACTERS_A_TOKEN * REPLY_TOKENS))
    return Reply(
        item=item.id,
        subject="",
        condition=condition.name,
        repeat=0,
        conversation=tuple(turns),
        system_prompt=None,
        finish="stop",
    )


def forecast_build(
    calls: Sequence[GenerationCall],
    dimensions: Mapping[str, Dimension],
    *,
    generator: str,
    validators: Mapping[str, float],
    embedder: str | None,
    most: tuple[int, int],
    ledger: Ledger,
) -> list[Forecast]:
    """The rows of `agency build`, with messages as long as the dimension's examples and none dropped before its check.

    Args:
        validators: model -> share of the messages that it is shown.
        embedder: an endpoint's, or None.
        most: the limits of a generator's and of a validator's answer.

    Raises `InputError` where there is a budget and no price.
    """
    written: list[_Call] = []
    messages: dict[str, list[Mapping[str, str]]] = {name: [] for name in dimensions}
    for call in calls:
        examples = dimensions[call.dimension].generate.examples
        own = [examples[(call.index * call.per_call + place) % len(examples)] for place in range(call.per_call)]
        messages[call.dimension] += own
        about = sum(len(text) for one in own for text in one.values()) // CHARACTERS_A_TOKEN
        written.append((len(call.prompt) // CHARACTERS_A_TOKEN, min(about, most[0]), most[0]))
    rows = [_row("generator", generator, written, ledger)]
    for validator, share in validators.items():
        checks = [
            (_check_tokens(dimensions[name], fields), VALIDATION_TOKENS, most[1])
            for name, own in messages.items()
            for fields in own[: max(1, round(share * len(own)))]
        ]
        rows.append(_row("validator", validator, checks, ledger))
    if embedder is not None:
        lengths = [sum(len(one["prompt"]) // CHARACTERS_A_TOKEN for one in own) for own in messages.values()]
        rows.append(_row("embedder", embedder, [(length, 0, 0) for length in lengths], ledger))
    return rows


def _check_tokens(dimension: Dimension, fields: Mapping[str, str]) -> int:
    extra = {name: text for name, text in fields.items() if name != "prompt"}
    item = Item(id="", dimension=dimension.id, prompt=fields["prompt"], extra=extra)
    return len(validator_prompt(dimension, item)) // CHARACTERS_A_TOKEN


def _row(role: str, model: str, calls: Sequence[_Call], ledger: Ledger) -> Forecast:
    prompt, about, most = (sum(column) for column in zip(*calls, strict=True))
    price = ledger.account(role, model).price
    return Forecast(
        role=role,
        model=model,
        calls=len(calls),
        prompt_tokens=prompt,
        completion_tokens=about,
        completion_most=most,
        cost=None if price is None else price.of(ChatTokens(prompt=prompt, completion=about)),
        cost_most=None if price is None else price.of(ChatTokens(prompt=prompt, completion=most)),
    )
