"""Pages of docs/ with parts that the code writes: between `<!-- begin NAME -->` and `<!-- end NAME -->`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


def rewrite(page: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The page with each of its parts made again; a part that it has no place for is left out."""
    for name, make in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            page = f"{before}{begin}{make()}\n{end}{rest.partition(end)[2]}"
    return page


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
