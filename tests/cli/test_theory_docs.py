"""docs/theory.md holds the tables that the code makes, figures that are there, and commands that run."""

from __future__ import annotations

import re
import shlex

import pytest

from inferalign.cli.main import main
from inferalign.cli.theory_docs import FIGURES, PAGE, TABLES, render

TEXT = PAGE.read_text()


def test_the_tables_are_what_the_code_says() -> None:
    assert render(TEXT) == TEXT, "docs/theory.md is stale: run `python -m inferalign.cli.theory_docs`"


def test_every_table_has_its_place_and_a_stale_one_is_seen() -> None:
    for name in TABLES:
        assert TEXT.count(f"<!-- begin {name} -->\n| ") == TEXT.count(f"<!-- end {name} -->") == 1


def test_the_figures_are_there_and_small() -> None:
    shown = re.findall(r"!\[[^]]+\]\(figures/([^)]+)\)", TEXT)
    assert sorted(shown) == sorted(path.name for path in FIGURES.glob("theory-*.svg"))
    assert all((FIGURES / name).stat().st_size < 400_000 for name in shown)


def test_the_names_in_the_page_exist() -> None:
    import importlib

    for dotted in re.findall(r"`(theory(?:\.\w+)+)`", TEXT):
        module, _, name = dotted.rpartition(".")
        holder = importlib.import_module(f"inferalign.{module}") if module != "theory" else None
        assert hasattr(holder, name) if holder else importlib.import_module(f"inferalign.{dotted}"), dotted


@pytest.mark.parametrize(
    "command", [line for line in TEXT.splitlines() if line.startswith("inferalign plan") and "my_" not in line][:2]
)
def test_the_commands_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command, comments=True)[1:]) == 0, capsys.readouterr().err
