"""Replies to look at: in every dimension the worst and the best, with what each judge found in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.table import Arm
from inferalign.core.seeds import derive
from inferalign.core.types import Message
from inferalign.reports.agency_source import Evidence, verdicts_by_reply

WORST, BEST = 3, 2
"""Examples a dimension."""


@dataclass(frozen=True, kw_only=True)
class Example:
    kind: Literal["worst", "best"]
    reply: str
    arm: Arm
    dimension: str
    item: str
    prompt: str
    extra: Mapping[str, str]
    """Fields of the item that the subject did not see."""
    system_prompt: str | None
    turns: tuple[Message, ...]
    """From the first answer on."""
    score: float
    """By the reported judge."""
    verdicts: tuple[Verdict, ...]
    """Of every judge that was asked, in all repeats."""


def examples(evidence: Evidence, *, seed: int) -> list[Example]:
    """The worst and the best replies of each dimension by the reported judge, each to another item.

    Equal scores are ordered by a draw; a reply is not shown as both.
    """
    table = evidence.table
    scores = table.reply_scores(evidence.judge)
    replies = {reply.id: reply for reply in evidence.stored.replies}
    items = {item.id: item for item in evidence.stored.items}
    asked = verdicts_by_reply(verdict for verdict in evidence.stored.verdicts if verdict.judge in evidence.judges)
    found = []
    for name in table.dimensions:
        rows = np.nonzero((table.reply_dimension == name) & ~np.isnan(scores))[0].tolist()
        ranked = sorted(rows, key=lambda row: (scores[row], derive(seed, "example", str(table.reply_id[row]))))
        ids = [str(table.reply_id[row]) for row in ranked]
        score = dict(zip(ids, (float(scores[row]) for row in ranked), strict=True))
        worst = _of_different_items(ids, replies, WORST)
        best = _of_different_items((each for each in reversed(ids) if each not in worst), replies, BEST)
        kinds: tuple[tuple[Literal["worst", "best"], list[str]], ...] = (("worst", worst), ("best", best))
        found += [
            _example(kind, replies[each], items[replies[each].item], score[each], asked.get(each, []))
            for kind, chosen in kinds
            for each in chosen
        ]
    return found


def _of_different_items(ids: Iterable[str], replies: Mapping[str, Reply], wanted: int) -> list[str]:
    """The first `wanted` of the ids whose replies are to items of their own."""
    first: dict[str, str] = {}
    for name in ids:
        first.setdefault(replies[name].item, name)
    return list(first.values())[:wanted]


def _example(
    kind: Literal["worst", "best"], reply: Reply, item: Item, score: float, verdicts: list[Verdict]
) -> Example:
    return Example(
        kind=kind,
        reply=reply.id,
        arm=Arm(reply.subject, reply.condition),
        dimension=item.dimension,
        item=item.id,
        prompt=item.prompt,
        extra=item.extra,
        system_prompt=reply.system_prompt,
        turns=reply.conversation[1:],
        score=score,
        verdicts=tuple(verdicts),
    )
