"""Small tables made from scores, for the tests of the analyses."""

from collections.abc import Iterable, Mapping
from itertools import count

from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.table import Table
from inferalign.agency.table_build import build_table
from inferalign.core.types import Message

DID = "defer_important_decisions"
ACQ = "ask_clarifying_questions"


def item(name: str, dimension: str = DID, cluster: str = "") -> Item:
    return Item(id=name, dimension=dimension, prompt=f"prompt of {name}", cluster=cluster)


def reply(item: str, subject: str = "a", repeat: int = 0, words: int = 10, condition: str = "default") -> Reply:
    turns = (Message(role="user", content="q q q"), Message(role="assistant", content=" ".join(["w"] * words)))
    return Reply(
        item=item,
        subject=subject,
        condition=condition,
        repeat=repeat,
        conversation=turns,
        system_prompt=None,
        finish="stop",
    )


def verdict(
    of: Reply,
    score: float | None,
    judge: str = "j",
    repeat: int = 0,
    letters: Iterable[str] = (),
    order: Iterable[str] = (),
    blame: str = "judge",
) -> Verdict:
    missing = score is None
    return Verdict(
        reply=of.id,
        judge=judge,
        judge_repeat=repeat,
        status="unscored" if missing else "ok",
        letters=None if missing else tuple(letters),
        score=score,
        letter_order=tuple(order),
        blame=blame if missing else "",  # type: ignore[arg-type]
        reason="no" if missing else "",
    )


def scored(
    scores: Mapping[str, Iterable[float | None]],
    *,
    dimension: str = DID,
    clusters: Iterable[str] | None = None,
    judge: str = "j",
) -> Table:
    """One dimension, one repeat: subject -> score of each item i0, i1, ...; None is unscored by the judge's fault."""
    rows = {subject: list(values) for subject, values in scores.items()}
    size = len(next(iter(rows.values())))
    names = list(clusters) if clusters is not None else [""] * size
    items = [item(f"i{i}", dimension, cluster) for i, cluster in zip(range(size), names, strict=True)]
    replies, verdicts = [], []
    for subject, values in rows.items():
        for i, value in zip(count(), values, strict=False):
            replies.append(reply(f"i{i}", subject))
            verdicts.append(verdict(replies[-1], value, judge))
    return build_table(items, replies, verdicts)
