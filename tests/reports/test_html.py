"""Markup that other people's text cannot leave, and a policy that names what the page holds."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.reports.html import Cell, Html, clipped, digest, element, escape, facts, join, page, table

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onclick='alert(1)",
    "<!-- ",
    "]]>",
    "&lt;script&gt;",
    '<meta http-equiv="refresh" content="0;url=http://x">',
    "<base href=http://x>",
    "a\u202eb\u2066c\u200bd\x00e\x1bf\ud800g\r\nh",
]


class Seen(HTMLParser):
    """Elements, attributes and text as a parser reads them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Seen:
    seen = Seen()
    seen.feed(markup)
    seen.close()
    return seen


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    seen = read(element("p", text, title=text))
    assert seen.tags == ["p"]
    assert [name for name, _ in seen.attributes] == ["title"]
    assert seen.text == seen.attributes[0][1]


@given(st.text())
def test_any_text_comes_back_but_for_what_acts(text: str) -> None:
    seen = read(element("p", text))
    assert seen.tags == ["p"]
    plain = re.sub(r"⟨U\+([0-9A-F]{4,6})⟩", lambda found: chr(int(found[1], 16)), seen.text)
    assert plain == text.replace("\r\n", "\n") or "⟨U+" in text


def test_characters_that_act_are_written_out() -> None:
    assert escape("a\u202eb\u2067\x07\ufeff") == "a⟨U+202E⟩b⟨U+2067⟩⟨U+0007⟩⟨U+FEFF⟩"
    assert escape("\ud800").encode() == "⟨U+D800⟩".encode()
    assert escape("tab\tline\nfamily \u200d and \u05d0") == "tab\tline\nfamily \u200d and \u05d0"


def test_only_markup_is_left_as_it_is() -> None:
    assert join([Html("<b>x</b>"), "<b>"]) == "<b>x</b>&lt;b&gt;"
    assert element("div", element("b", "1 < 2"), class_="x", data_sort="1") == (
        '<div class="x" data-sort="1"><b>1 &lt; 2</b></div>'
    )


def test_a_cut_says_how_much_is_left_out() -> None:
    assert clipped("short", 10) == ("short", "")
    assert clipped("x" * 100_000, 4_000) == ("x" * 4_000, "[cut here: the first 4,000 of 100,000 characters]")


def test_tables_have_captions_headings_and_sort_keys() -> None:
    made = table("Caption & more", ["name", "value"], [["<a>", Cell("1.5", 1.5)], ["b", "none"]])
    assert "Caption &amp; more</span></caption>" in made
    assert '<th scope="row">&lt;a&gt;</th><td class="number" data-sort="1.5">1.5</td>' in made
    assert made.count('<th scope="col"><button type="button">') == 2
    assert read(facts({"k": "<v>"})).text == "k<v>"


def test_the_policy_names_the_style_and_the_script_and_nothing_else() -> None:
    style, script = "p { color: red }\n", "let a = '<b>' && 1;\n"
    document = page("T <x>", element("p", "hello"), style=style, script=script).decode()
    policy = next(value for name, value in read(document).attributes if name == "content" and value and "src" in value)
    assert policy == (
        f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert document.index("Content-Security-Policy") < document.index("<style>")
    assert "<title>T &lt;x&gt;</title>" in document


def test_a_digest_is_what_a_browser_computes() -> None:
    # echo -n "alert('Hello, world.');" | openssl dgst -sha256 -binary | openssl base64: MDN's example of the policy
    assert digest("alert('Hello, world.');") == "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng="
