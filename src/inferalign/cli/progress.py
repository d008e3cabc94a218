"""Progress on stderr: a bar on a terminal, a line now and then elsewhere. Nothing here touches stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_SECONDS = 10.0
"""Without a terminal a line is written at most this often, and once at the end."""


def kept_steps(run: Path, every: int, flag: str = "", seconds: float | None = None) -> tuple[str, ...]:
    """What a stopped training keeps and, if it is nothing, what repeating it does: words of a `KeyboardInterrupt`.

    every: steps between its checkpoints. flag: what changes that, if anything does. seconds: after which there is one,
    too.
    """
    sooner = "" if seconds is None else f" or after {seconds:.0f} seconds"
    if any((run / "checkpoint").glob("*.safetensors")):
        return (f"steps up to the last checkpoint (one every {every}{sooner})",)
    return "no steps", f"to begin again (the first checkpoint is at step {every}{sooner}{flag and ': '}{flag})"


class Bar:
    """A `core.jobs.Progress` for people. Use it in a `with`; `finished` counts what was advanced."""

    def __init__(self, label: str, total: int, stream: TextIO | None = None, *, shared: Progress | None = None) -> None:
        """`shared`: a display that other bars are on, too, and that somebody else starts."""
        self.finished = 0
        self._label, self._total, self._text = label, total, ""
        self._stream = stream or sys.stderr
        self._began = self._spoke = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._stream.isatty():
            self._bar = shared or _display(self._stream)
            self._task = self._bar.add_task(label, total=total, note="")

    def advance(self, n: int = 1) -> None:
        self.finished += n
        if self._bar is not None:
            self._bar.update(self._task, advance=n)
        elif time.monotonic() - self._spoke >= QUIET_SECONDS:
            self._say()

    def note(self, text: str) -> None:
        """Say what goes on beside the count, such as a call that is made again: it may be all that happens for long."""
        self._text = text
        if self._bar is not None:
            self._bar.update(self._task, note=text)
        elif time.monotonic() - self._spoke >= QUIET_SECONDS:
            self._say()

    def _say(self) -> None:
        self._spoke = time.monotonic()
        took = self._spoke - self._began
        note = f" ({self._text})" if self._text else ""
        print(f"{self._label}: {self.finished} of {self._total}, {took:.0f} s{note}", file=self._stream, flush=True)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.finished:
            self._say()


class StageBars:
    """One bar a stage of a run whose stages go on at the same time. Use it in a `with`."""

    def __init__(self, totals: Mapping[str, int], stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._display = _display(stream) if stream.isatty() else None
        self._bars = {label: Bar(label, total, stream, shared=self._display) for label, total in totals.items()}

    def __getitem__(self, label: str) -> Bar:
        return self._bars[label]

    def __enter__(self) -> StageBars:
        if self._display is not None:
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            return
        for bar in self._bars.values():
            bar.__exit__(kind, error, trace)


def _display(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream),
    )
