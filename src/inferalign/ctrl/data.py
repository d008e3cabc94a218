"""Prompts as TRL takes them: token ids rendered once, in an order that is fixed before training starts.

Each epoch is a permutation of its own. Steps take the prompts one after the other, across the ends of epochs, so that
none is dropped; a training that goes on is given those that are left.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from datasets import Dataset

from inferalign.core.errors import ContextOverflow, InputError
from inferalign.core.files import dump_json
from inferalign.core.seeds import derive
from inferalign.core.types import Prompt, TokenIds
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.chat import ChatFormat


class Rendered(NamedTuple):
    """A prompt's id and what its answer follows."""

    prompt_id: str
    token_ids: TokenIds


def render(prompts: Sequence[Prompt], chat: ChatFormat, *, room: int) -> list[Rendered]:
    """Prompts as token ids, `room` being how many of them leave place for an answer.

    Raises `ContextOverflow` for one that is longer, `InputError` for ids that stand twice, and for a chat format that
    ends answers by a text: training ends them by tokens alone, so its answers would be others than the anchors.
    """
    if chat.stop_strings:
        raise InputError(
            f"this model has no chat template, so its answers end at the text {chat.stop_strings[0]!r}, which training "
            "cannot see: give one (--chat-template FILE)"
        )
    rendered = [Rendered(prompt.id, chat.prompt_ids(prompt)) for prompt in prompts]
    if len({prompt.prompt_id for prompt in rendered}) < len(rendered):
        raise InputError("two prompts have the same id: ids key the anchors, so give each prompt its own")
    for prompt_id, token_ids in rendered:
        if len(token_ids) > room:
            raise ContextOverflow(
                f"prompt {prompt_id!r} has {len(token_ids)} tokens, and {room} leave room for an answer: shorten it, "
                "leave it out, or give a smaller max_new_tokens, and draw anchors for that (`inferalign calibrate`, "
                "another --run): those of other prompts or of a longer answer are refused"
            )
    return rendered


def order(prompts: int, settings: CtrlSettings) -> list[int]:
    """Places of prompts in the order of training: `prompts_a_step` for each step.

    Raises `InputError` for fewer prompts than a step takes: TRL would take no step at all, and only warn.
    """
    each = settings.prompts_a_step
    if prompts < each:
        raise InputError(
            f"{prompts} prompts are fewer than the {each} that a step takes (batch_size {settings.batch_size} / "
            f"generations {settings.generations}): give more prompts or a smaller batch_size"
        )
    places: list[int] = []
    epoch = 0
    while len(places) < each * settings.steps:
        permutation = list(range(prompts))
        random.Random(derive(settings.seed, "order", epoch)).shuffle(permutation)
        places += permutation
        epoch += 1
    return places[: each * settings.steps]


def dataset(rendered: Sequence[Rendered], places: Sequence[int]) -> Dataset:
    """Rows `prompt` (token ids) and `prompt_id`, one a place."""
    columns = {"prompt": [list(p.token_ids) for p in rendered], "prompt_id": [p.prompt_id for p in rendered]}
    return Dataset.from_dict(columns).select(list(places))


def digest(rendered: Sequence[Rendered]) -> str:
    """SHA-256 of ids and token ids in their order, which decides the order of training."""
    return hashlib.sha256(dump_json([[p.prompt_id, p.token_ids] for p in rendered])).hexdigest()
