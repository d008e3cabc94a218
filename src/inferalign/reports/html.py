"""HTML that holds other people's text safely, and pages that need nothing but themselves.

What is not `Html` is escaped wherever it goes, so a forgotten call cannot let markup through. Characters that are not
seen but act (controls, marks of direction) are written out: a reply cannot turn the text around it.
The page's content-security policy allows one style sheet and one script, by their hashes, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls but for tab and line feed, marks of direction, invisible characters, halves of surrogate pairs, tags. The
two joiners stay: emoji and several scripts are written with them."""
_VOID = ("meta", "input", "br")


class Html(str):
    """Markup that is safe to stand in a page: made by this module, or written in this package."""

    __slots__ = ()


Content = Html | str
"""Children of an element: markup as it is, any other text escaped."""


class Cell(NamedTuple):
    shown: Content
    sort: float | None = None
    """What a column is sorted by where that is a number; None: its text."""


Row = list[Cell | Content]


def escape(text: str) -> Html:
    """Text as markup, in an element or between the double quotes of an attribute."""
    lines = text.replace("\r\n", "\n")
    return Html(html.escape(_ACTING.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", lines)))


def join(parts: Sequence[Content]) -> Html:
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def element(name: str, /, *children: Content, **attributes: str) -> Html:
    """`<name ...>children</name>`; `class_` is `class`, and an underscore in any other attribute is a dash."""
    written = "".join(
        f' {"class" if key == "class_" else key.replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>" + ("" if name in _VOID else f"{join(children)}</{name}>"))


def clipped(text: str, most: int) -> tuple[str, str]:
    """The first `most` characters, and a note on what is left out ("" for nothing)."""
    if len(text) <= most:
        return text, ""
    return text[:most], f"[cut here: the first {most:,} of {len(text):,} characters]"


def table(caption: Content, head: Sequence[str], rows: Sequence[Row], *, sortable: bool = True) -> Html:
    """A captioned table in a frame of its own that scrolls sideways; each row's first cell is its heading."""
    titles = [
        element("th", element("button", name, type="button") if sortable and name else name, scope="col")
        for name in head
    ]
    body = [element("tr", *(_cell(cell, heading=column == 0) for column, cell in enumerate(row))) for row in rows]
    return element(
        "div",
        element(
            "table",
            element("caption", element("span", caption, class_="caption")),
            element("thead", element("tr", *titles)),
            element("tbody", *body),
            **({"class_": "sortable"} if sortable else {}),
        ),
        class_="scroll",
        tabindex="0",
    )


def _cell(cell: Cell | Content, *, heading: bool) -> Html:
    shown, sort = cell if isinstance(cell, Cell) else (cell, None)
    attributes = {} if sort is None else {"class_": "number", "data_sort": f"{sort:.9g}"}
    return element("th", shown, scope="row", **attributes) if heading else element("td", shown, **attributes)


def facts(pairs: Mapping[str, Content]) -> Html:
    """Names and values, one beside the other."""
    return element("dl", *(part for k, v in pairs.items() for part in (element("dt", k), element("dd", v))))


def page(title: str, body: Html, *, style: str, script: str) -> bytes:
    """The whole document, UTF-8. The same arguments give the same bytes."""
    policy = (
        f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            Html(f"<style>{style}</style>"),
        ]
    )
    document = f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>{body}<script>{script}</script></body>\n'
    return f"{document}</html>\n".encode()


def digest(source: str) -> str:
    """A source as a content-security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
