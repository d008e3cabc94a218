"""All items that a simulation has made so far, and what became of its calls: read from its records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inferalign.agency.records import Item
from inferalign.agency.stored import to_item


@dataclass(frozen=True, kw_only=True)
class Pool:
    items: tuple[Item, ...]
    """By id; each text once."""
    calls: Mapping[str, int]
    """By status: ok, repaired, failed."""
    failures: Mapping[str, int]
    """Failed calls by reason."""
    rejected: Mapping[str, int]
    """Messages that did not become items, by reason."""
    duplicates: int
    """Messages that an earlier call had made word for word."""
    tokens: Mapping[str, int]
    """Sums over the calls whose server said what they cost, and `requests` over all."""


def gather(records: Iterable[Mapping[str, Any]]) -> Pool:
    """The pool of the records of `simulate`, which may come in any order."""
    ordered = sorted(records, key=lambda record: record["id"])
    items: dict[str, Item] = {}
    made = 0
    for record in ordered:
        for fields in record["items"]:
            made += 1
            items.setdefault(fields["id"], to_item(fields))
    tokens: Counter[str] = Counter()
    for record in ordered:
        tokens.update(record["tokens"])
    return Pool(
        items=tuple(items[name] for name in sorted(items)),
        calls=_counts(record["status"] for record in ordered),
        failures=_counts(record["reason"] for record in ordered if record["status"] == "failed"),
        rejected=_counts(reject["reason"] for record in ordered for reject in record["rejected"]),
        duplicates=made - len(items),
        tokens=dict(sorted(tokens.items())),
    )


def _counts(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))
