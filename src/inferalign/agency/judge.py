"""The judge contract: an item and a reply in, a verdict out.

A judge that could not reach a verdict returns one with the status "unscored" and never a score. What a transport could
not deliver is raised, as in `engines.chat_api`: whoever runs the job decides how often a call is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from inferalign.agency.dimension import Dimension
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.errors import InputError
from inferalign.core.lookup import resolve
from inferalign.core.types import RoleUsage, Unscored


class Judge(Protocol):
    """May be called concurrently."""

    @property
    def name(self) -> str:
        """Goes into records, so it holds no key."""
        ...

    def describe(self) -> Mapping[str, object]:
        """What a record must say of this judge: its kind, model, prompt, settings and dimensions."""
        ...

    async def judge(self, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage) -> Verdict:
        """The verdict number `repeat` (0, 1, ...) on a reply; its cost is added to `usage`, too."""
        ...


def dimension_of(dimensions: Mapping[str, Dimension], item: Item, reply: Reply) -> Dimension:
    """The dimension to judge by. Raises `UnknownName`, and `InputError` for a reply to something else."""
    if reply.item != item.id:
        raise InputError(f"reply {reply.id!r} answers the item {reply.item!r}, not {item.id!r}: pair them by their ids")
    return resolve(dimensions, item.dimension, "dimension of this judge")


def hashes(dimensions: Mapping[str, Dimension]) -> dict[str, dict[str, object]]:
    """What a record must say of the dimensions."""
    return {name: {"version": one.version, "sha256": one.sha256} for name, one in dimensions.items()}


def unscored(judge: str, reply: Reply, repeat: int, why: Unscored, **facts: Any) -> Verdict:
    """A verdict that was not reached; `facts` are further fields of the record."""
    return Verdict(
        reply=reply.id,
        judge=judge,
        judge_repeat=repeat,
        status="unscored",
        letters=None,
        score=None,
        reason=why.reason,
        blame=why.blame,
        **facts,
    )


async def judged(judge: Judge, item: Item, reply: Reply, *, repeat: int, usage: RoleUsage) -> Verdict:
    """The judge's verdict; a reply without a word is not shown to it, and is unscored by its own fault."""
    if not reply.conversation[-1].content.strip():
        why = Unscored(f"the reply is empty (finish: {reply.finish})", blame="response")
        return unscored(judge.name, reply, repeat, why)
    return await judge.judge(item, reply, repeat=repeat, usage=usage)
