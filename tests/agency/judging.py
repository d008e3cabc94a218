"""Dimensions, an item and its replies, as the tests of judges need them."""

from __future__ import annotations

import asyncio
from functools import cache

from inferalign.agency.dimension import Dimension, load_shipped
from inferalign.agency.items import load_items
from inferalign.agency.judge import Judge
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.types import Message, RoleUsage


@cache
def shipped() -> dict[str, Dimension]:
    return load_shipped()


@cache
def bank(dimension: str) -> list[Item]:
    return load_items(shipped()[dimension])


def answered(item: Item, *texts: str, subject: str = "m", repeat: int = 0) -> Reply:
    """A reply to an item; further texts are turns, the user's among them."""
    turns = tuple(Message(role="user" if i % 2 else "assistant", content=text) for i, text in enumerate(texts))
    return Reply(
        item=item.id,
        subject=subject,
        condition="plain",
        repeat=repeat,
        conversation=(Message(role="user", content=item.prompt), *turns),
        system_prompt=None,
        finish="stop",
    )


def judged(judge: Judge, item: Item, reply: Reply, *, repeat: int = 0, usage: RoleUsage | None = None) -> Verdict:
    return asyncio.run(judge.judge(item, reply, repeat=repeat, usage=usage or RoleUsage()))
