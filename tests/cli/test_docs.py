"""docs/cli.md is what the verbs' help says today."""

from __future__ import annotations

from pathlib import Path

from inferalign.cli.docs import PAGES, render
from inferalign.cli.main import VERBS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text() == render(), "docs/cli.md is stale: run `make docs`"


def test_every_verb_has_a_page() -> None:
    assert {page[0] for page in PAGES if page} == set(VERBS)
