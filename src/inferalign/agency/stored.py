"""Items, replies and verdicts as JSON records, and back.

RUN/items      a run folder of items, replies and verdicts each: the three stages of a run are resumed apart,
RUN/replies    and another judge's verdicts need no new reply
RUN/verdicts*  one folder or several (`verdicts-JUDGE`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from inferalign.agency.records import Item, Reply, Verdict
from inferalign.core.config import to_dict
from inferalign.core.errors import RunError
from inferalign.core.lookup import did_you_mean
from inferalign.core.records import read_records
from inferalign.core.types import Message

ITEMS, REPLIES, VERDICTS = "items", "replies", "verdicts"
"""Names of the folders; the kinds of their records are `agency-items` and so on."""
Made = TypeVar("Made", Item, Reply, Verdict)


class Stored(NamedTuple):
    items: list[Item]
    replies: list[Reply]
    verdicts: list[Verdict]


def kind_of(stage: str) -> str:
    """The kind that a stage's run folder is opened with: `RunFolder.open(..., kind=kind_of(REPLIES))`."""
    return f"agency-{stage}"


def to_record(made: Item | Reply | Verdict) -> dict[str, Any]:
    """One line of a run folder."""
    return {"id": made.id, **to_dict(made)}


def to_item(record: Mapping[str, Any]) -> Item:
    """Raises `RunError` for a missing or unknown key, as the other two do."""
    return Item(**_checked(Item, record, own_id=True))


def to_reply(record: Mapping[str, Any]) -> Reply:
    values = _checked(Reply, record)
    return Reply(**values | {"conversation": tuple(Message(**turn) for turn in values["conversation"])})


def to_verdict(record: Mapping[str, Any]) -> Verdict:
    values = _checked(Verdict, record)
    letters, order = values["letters"], values.get("letter_order", ())
    if not isinstance(values["score"], int | float | None):
        raise RunError(f"the score {values['score']!r} is no number")
    return Verdict(**values | {"letters": None if letters is None else tuple(letters), "letter_order": tuple(order)})


def read_run(run: Path | str) -> Stored:
    """All items, replies and verdicts of a run. Raises `RunError` for a missing or damaged part."""
    run = Path(run)
    verdicts = sorted(path for path in run.glob(f"{VERDICTS}*") if path.is_dir())
    if not verdicts:
        raise RunError(f"{run} holds no {VERDICTS}: expected the --run folder of an agency run that was judged.")
    # In the order in which one needs the other: a run that is being written has a reply before its verdict.
    judged = [verdict for path in verdicts for verdict in _read(path, VERDICTS, to_verdict)]
    replies = _read(run / REPLIES, REPLIES, to_reply)
    items = _read(run / ITEMS, ITEMS, to_item)
    _require({reply.id for reply in replies}, ((each.id, each.reply) for each in judged), run, "verdict", "reply")
    _require({item.id for item in items}, ((each.id, each.item) for each in replies), run, "reply", "item")
    return Stored(items=items, replies=replies, verdicts=judged)


def _require(known: set[str], pairs: Iterable[tuple[str, str]], run: Path, what: str, whose: str) -> None:
    for name, target in pairs:
        if target not in known:
            raise RunError(f"{run}: {what} {name!r} belongs to the {whose} {target!r}, which is not recorded there.")


def _read(folder: Path, stage: str, made: Callable[[Mapping[str, Any]], Made]) -> list[Made]:
    found = []
    for record in read_records(folder, kind_of(stage)):
        try:
            found.append(made(record))
        except RunError as error:
            raise RunError(f"{folder}: record {record['id']!r}: {error}") from error
        except (TypeError, ValueError) as error:
            raise RunError(f"{folder}: record {record['id']!r} is not what a run writes ({error})") from error
    return found


def _checked(kind: type[Item] | type[Reply] | type[Verdict], record: Mapping[str, Any], own_id: bool = False) -> Any:
    """The record's fields of `kind`; an id that is made of other fields is not one of them."""
    values = {key: value for key, value in record.items() if own_id or key != "id"}
    known = {field.name: field for field in fields(kind)}
    for key in values:
        if key not in known:
            raise RunError(f"unknown key {key!r}.{did_you_mean(key, known)} Another version of inferalign wrote it.")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise RunError(f"no {name!r}: another version of inferalign wrote it.")
    return values
