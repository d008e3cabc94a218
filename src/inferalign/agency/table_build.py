"""The table made: items, replies and verdicts joined by their ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from inferalign.agency.clusters import cluster_codes
from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.stored import read_run
from inferalign.agency.table import Arm, Names, Rows, Table
from inferalign.core.errors import RunError


def read_table(run: Path | str) -> Table:
    """The table of a run folder (`stored.read_run`). Raises `RunError`."""
    return build_table(*read_run(run))


def build_table(
    items: Iterable[Item],
    replies: Iterable[Reply],
    verdicts: Iterable[Verdict],
    *,
    due: Mapping[Arm, Collection[str]] | None = None,
) -> Table:
    """Join records by their ids; the order in which they come does not matter but for that of the dimensions.

    due: the ids of the items that an arm was asked, for those that were not asked all of them; an item that it has a
    reply to is one of them.

    Raises `RunError` for an id that stands twice, a reply to an unknown item and a verdict on an unknown reply.
    """
    item_list = list(items)
    reply_list = sorted(replies, key=lambda reply: reply.id)
    verdict_list = sorted(verdicts, key=lambda verdict: verdict.id)
    item_row = _rows((item.id for item in item_list), "item")
    reply_row = _rows((reply.id for reply in reply_list), "reply")
    _rows((verdict.id for verdict in verdict_list), "verdict")
    asked = {arm: set(names) for arm, names in (due or {}).items()}
    for reply in reply_list:
        asked.get(Arm(reply.subject, reply.condition), set()).add(reply.item)
    return Table(
        item_id=_names(item.id for item in item_list),
        item_dimension=_names(item.dimension for item in item_list),
        item_cluster=cluster_codes([item.cluster and f"{item.dimension}/{item.cluster}" for item in item_list]),
        item_form=_names(item.form for item in item_list),
        item_due={
            arm: np.array([item.id in names for item in item_list], dtype=np.bool_) for arm, names in asked.items()
        },
        reply_id=_names(reply.id for reply in reply_list),
        reply_item=_joined(((reply.id, reply.item) for reply in reply_list), item_row, "reply", "item"),
        reply_subject=_names(reply.subject for reply in reply_list),
        reply_condition=_names(reply.condition for reply in reply_list),
        reply_repeat=np.array([reply.repeat for reply in reply_list], dtype=np.intp),
        reply_words=np.array([_words(reply) for reply in reply_list], dtype=np.intp),
        verdict_reply=_joined(((each.id, each.reply) for each in verdict_list), reply_row, "verdict", "reply"),
        verdict_judge=_names(verdict.judge for verdict in verdict_list),
        verdict_repeat=np.array([verdict.judge_repeat for verdict in verdict_list], dtype=np.intp),
        verdict_score=np.array([np.nan if v.score is None else v.score for v in verdict_list], dtype=np.float64),
        verdict_blame=_names(verdict.blame for verdict in verdict_list),
        verdict_letters=tuple(None if v.letters is None else frozenset(v.letters) for v in verdict_list),
        verdict_order=tuple(verdict.letter_order for verdict in verdict_list),
    )


def _rows(ids: Iterable[str], what: str) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name in rows:
            raise RunError(f"{what} {name!r} is recorded twice: remove one of the two.")
        rows[name] = row
    return rows


def _joined(pairs: Iterable[tuple[str, str]], rows: dict[str, int], what: str, whose: str) -> Rows:
    found = []
    for name, target in pairs:
        if target not in rows:
            raise RunError(f"{what} {name!r} belongs to the {whose} {target!r}, which is not recorded here.")
        found.append(rows[target])
    return np.array(found, dtype=np.intp)


def _names(values: Iterable[str]) -> Names:
    return np.array(list(values), dtype=np.str_)


def _words(reply: Reply) -> int:
    return sum(len(turn.content.split()) for turn in reply.conversation if turn.role == "assistant")
