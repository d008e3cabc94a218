"""Where a run's items come from: the shipped bank, a file, or the sandbox's own requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferalign.agency.dimension import Dimension, load_dimension, load_shipped
from inferalign.agency.items import load_item_file, load_items
from inferalign.agency.judge import hashes
from inferalign.agency.records import Item
from inferalign.core.config import to_dict
from inferalign.core.errors import InputError, UnknownName
from inferalign.core.files import dump_json
from inferalign.core.prompts import read_prompts
from inferalign.core.seeds import derive
from inferalign.sandbox.world import prompts as sandbox_prompts

BANK, SANDBOX = "bank", "sandbox"


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is asked, and the dimensions that it is judged by."""

    source: str
    """`bank`, `sandbox:N` or `file`: a file is known by its items, not by its name."""
    dimensions: Mapping[str, Dimension]
    items: tuple[Item, ...]
    """Dimension by dimension; ids are unique."""

    def describe(self) -> dict[str, Any]:
        """JSON values that decide what the items are and what their issues cost."""
        digest = hashlib.sha256(dump_json(to_dict(list(self.items)))).hexdigest()
        return {
            "dimensions": {
                # A report is made from the folder alone: a user's own issues stand in no other place.
                name: {**facts, "issues": to_dict(self.dimensions[name].rubric.issues)}
                for name, facts in hashes(self.dimensions).items()
            },
            "items": {"source": self.source, "count": len(self.items), "sha256": digest},
        }


def load_dimensions(names: Sequence[str]) -> dict[str, Dimension]:
    """By id, in their order. Raises as `load_dimension` does, and `InputError` for an id that stands twice."""
    found: dict[str, Dimension] = {}
    for name in names:
        dimension = load_dimension(name)
        if dimension.id in found:
            raise InputError(f"dimension {dimension.id!r} is named twice (--dimension): give each once")
        found[dimension.id] = dimension
    return found


def gather(source: str, names: Sequence[str], *, limit: int | None, seed: int) -> Material:
    """The items of `source` in the dimensions `names`; without names in all six, or in all that a file has.

    `limit` keeps so many of each dimension: a draw that is named by the items, so a smaller one is a part of a larger.
    Raises `InputError` for a source that cannot be used, a dimension without items, and an id that stands twice.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} items leaves nothing: give at least 1, such as --limit 10")
    dimensions = load_dimensions(names) if names else load_shipped()
    if source == BANK:
        items = [item for dimension in dimensions.values() for item in load_items(dimension)]
    elif source.partition(":")[0] == SANDBOX:
        items = _of_sandbox(dimensions, source.partition(":")[2], seed)
    else:
        dimensions = dimensions if names else _dimensions_of(Path(source))
        items = load_item_file(dimensions, source)
        source = "file"
    by_dimension = {name: [item for item in items if item.dimension == name] for name in dimensions}
    if empty := [name for name, own in by_dimension.items() if not own]:
        raise InputError(f"the items have none of the dimension {empty[0]!r}: leave it out, or give other --items")
    if limit is not None:
        by_dimension = {name: _drawn(own, limit, seed) for name, own in by_dimension.items()}
    chosen = tuple(item for own in by_dimension.values() for item in own)
    seen: set[str] = set()
    for item in chosen:
        if item.id in seen:
            raise InputError(f"item {item.id!r} stands twice in the items: give each an id of its own")
        seen.add(item.id)
    return Material(source=source, dimensions=dimensions, items=chosen)


def _drawn(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    chosen = {item.id for item in sorted(items, key=lambda item: derive(seed, "limit", item.id))[:limit]}
    return [item for item in items if item.id in chosen]


def _dimensions_of(path: Path) -> dict[str, Dimension]:
    """The shipped dimensions that the lines of a file name."""
    named: dict[str, None] = {}
    for prompt in read_prompts(path):
        name = prompt.meta.get("dimension")
        if not isinstance(name, str):
            raise InputError(
                f"{path}: item {prompt.id!r} does not say of which dimension it is: give --dimension, or a "
                '"dimension" in each line'
            )
        named[name] = None
    try:
        return load_dimensions(list(named))
    except UnknownName as error:
        raise InputError(f"{path}: {error} Give your own dimensions with --dimension FILE.yaml.") from error


def _of_sandbox(dimensions: Mapping[str, Dimension], count: str, seed: int) -> list[Item]:
    """`count` requests of the sandbox a dimension."""
    if not (count.isascii() and count.isdigit()) or int(count) < 1:
        raise InputError(f"items `sandbox:{count}`: say how many a dimension, such as sandbox:40")
    items: list[Item] = []
    for dimension in dimensions.values():
        try:
            made = sandbox_prompts(dimension.id, int(count), seed, "test")
        except UnknownName as error:
            raise InputError(f"the sandbox has no requests of the dimension {dimension.id!r}. {error}") from error
        for prompt in made:
            extra = {name: prompt.meta[name] for name in dimension.extra_context if name in prompt.meta}
            items.append(Item(id=prompt.id, dimension=dimension.id, prompt=prompt.text, extra=extra))
    return items


def check_context(dimensions: Mapping[str, Dimension], items: Iterable[Item], judge: str) -> None:
    """Raises `InputError` for an item that lacks what the judge must be shown."""
    for item in items:
        for name in dimensions[item.dimension].extra_context:
            if name not in item.extra:
                raise InputError(
                    f"item {item.id!r} has no {name!r}, which the judge {judge} needs: leave out "
                    f"--dimension {item.dimension}, or judge by the oracle"
                )
