"""docs/agency.md: its example runs, it names no flag that is not there, its prices are prices."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from inferalign.agency.conditions import parse_conditions
from inferalign.agency.stored import read_run
from inferalign.cli.main import main
from inferalign.engines.remote_ledger import read_prices

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agency.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_a_dimension_from_one_file_runs_end_to_end(
    tmp_path: Path, small_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("bash")
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        if program == "printf":
            *lines, arrow, name = arguments[1:]
            assert arrow == ">"
            Path(name).write_text("".join(f"{text}\n" for text in lines))
            continue
        assert main([small_model if word == "sandbox" else word for word in arguments]) == 0, capsys.readouterr().err
    stored = read_run(tmp_path / "runs" / "mine")
    assert [item.id for item in stored.items] == ["m1", "m2"]
    assert {item.dimension for item in stored.items} == {"say_what_is_uncertain"}
    assert len(stored.verdicts) == 2


def test_every_flag_of_the_page_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    known = "".join((ROOT / "docs" / "cli.md").read_text())
    flags = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert len(flags) > 15
    assert [flag for flag in sorted(flags) if f"{flag} " not in known] == []


def test_the_price_file_of_the_page_is_read(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "prices.toml").write_text(text)
    assert read_prices(tmp_path / "prices.toml")["judge-1"].cached == 0.5


def test_the_conditions_of_the_page_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("Be brief.")
    names = re.findall(r"^\| `([a-z0-9.-]+)` \| ", PAGE.split("| `--conditions` |")[1].split("\n\n")[0], re.MULTILINE)
    assert names == ["default", "none", "150-words", "mine.txt"]
    assert len(parse_conditions(names, {})) == 4
