"""Pages of docs/ with parts that the code writes: between `<!-- begin NAME -->` and `<!-- end NAME -->`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from inferalign.core.errors import InputError


def rewrite(page: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The page with each of its parts made again; a part that it has no place for is left out.

    Raises `InputError` for a part that begins and does not end: all of the page after it would be lost.
    """
    for name, make in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            _, closed, after = rest.partition(end)
            if not closed:
                raise InputError(f"the page begins the part {name} and does not end it: write `{end}` behind it")
            page = f"{before}{begin}{make()}\n{end}{after}"
    return page


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
