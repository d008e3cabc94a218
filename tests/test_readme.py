"""The README's commands and code run, its links lead somewhere, and no name of somebody's machine is in the docs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import inferalign
from inferalign.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_two_commands_come_first() -> None:
    targets = re.findall(r"make (\w+)", fenced("bash")[0])
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_quickstart_runs(
    tmp_path: Path, small_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in fenced("bash")[1].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "inferalign"
        code = main([small_model if word == "sandbox" and place else word for place, word in enumerate(arguments)])
        assert code == 0, (line, capsys.readouterr().err)


def test_the_python_snippet_runs(small_model: str) -> None:
    (snippet,) = fenced("python")
    exec(compile(snippet.replace('"sandbox"', repr(small_model)), "README.md", "exec"), {"inferalign": inferalign})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
