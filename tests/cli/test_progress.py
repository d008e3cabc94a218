"""The bar is for people: nothing on stdout, few lines where nobody watches."""

from __future__ import annotations

import io

import pytest

from inferalign.cli import progress
from inferalign.cli.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("work", 3) as bar:
        bar.advance()
        bar.note("so far")
        bar.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "work: 3 of 3, 0 s (so far)\n"


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *(4.0 * step for step in range(1, 40))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Bar("work", 6, stream) as bar:
        for _ in range(6):
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) < 6
    assert lines[-1].startswith("work: 6 of 6")


def test_calls_that_are_made_again_are_seen_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes may pass before anything is finished."""
    clock = iter([0.0, *(4.0 * step for step in range(1, 40))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with Bar("work", 6, stream) as bar:
        for second in range(6):
            bar.note(f"again in {second} s")
        lines = stream.getvalue().splitlines()
    assert lines[0].startswith("work: 0 of 6, 16 s (again in 2 s)")
    assert 1 <= len(lines) < 4


def test_on_a_terminal_there_is_a_bar() -> None:
    stream = Terminal()
    with Bar("work", 2, stream) as bar:
        bar.advance(2)
        bar.note("almost")
    assert "2/2" in stream.getvalue()
    assert bar.finished == 2


def test_what_a_server_said_is_shown_as_it_is() -> None:
    """Rich would take `[bold]` for markup, and raise for `[/INST]`."""
    stream = Terminal()
    with Bar("[bold]work", 3, stream) as bar:
        bar.note("item-1: again in 3 s (server says [/INST] [red]no)")
        bar.advance()
    assert "[bold]work" in stream.getvalue()
    assert "[/INST] [red]no" in stream.getvalue().replace("\n", " ")
