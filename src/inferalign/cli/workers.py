"""One `inferalign generate` by several worker processes, each with one thread and its shard of the run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from inferalign.core.errors import RunError

if TYPE_CHECKING:
    from inferalign.core.types import Prompt

POLL_SECONDS = 0.2
STOPPED = (130, -signal.SIGINT)
"""Exit codes of a worker that `stop` ended."""


def keep_prompts(path: Path, asked: Sequence[Prompt]) -> None:
    """Write the prompts of a demo. Raises `RunError` for a folder of other ones: its records would be counted in."""
    from inferalign.core.prompts import read_prompts, write_prompts

    if path.exists() and read_prompts(path) != list(asked):
        raise RunError(
            f"{path.parent} holds a demo of another --n or --seed: repeat it with those, or name another --run"
        )
    write_prompts(path, asked)


def generate(folder: Path, arguments: Sequence[str], label: str, total: int) -> float:
    """Bring the run in `folder` to its end, showing how far it is of `total` prompts. Returns the wall seconds it took.

    `arguments` are those of `inferalign generate` but `--run` and `--shard`. Raises `RunError` with the message of a
    worker that failed.
    """
    count, began = min(2, os.cpu_count() or 1), time.monotonic()
    command = [sys.executable, "-m", "inferalign.cli.main", "generate", *arguments, "--run", str(folder)]
    # Two processes with one thread each beat one process with two: the model is small and the steps are short.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ExitStack() as files:
        logs = [files.enter_context(tempfile.TemporaryFile(mode="w+")) for _ in range(count)]
        workers = [
            subprocess.Popen(
                [*command, "--shard", f"{i}/{count}"], env=environment, stdout=subprocess.DEVNULL, stderr=log
            )
            for i, log in enumerate(logs, start=1)
        ]
        try:
            watch(workers, folder, label, total)
        except KeyboardInterrupt:
            stop(workers)
            raise KeyboardInterrupt(recorded(folder)) from None
        ends = [(worker.returncode, last_line(log)) for worker, log in zip(workers, logs, strict=True)]
    if cause := failure(ends):
        raise RunError(f"{label}: a worker ended with code {cause[0]}: {cause[1]}")
    return time.monotonic() - began


def watch(workers: Sequence[subprocess.Popen[bytes]], folder: Path, label: str, total: int) -> None:
    """Show how far a run is until its workers have ended; when one fails, the others are stopped too."""
    from inferalign.cli.progress import Bar

    with Bar(label, total) as bar:
        while any(worker.poll() is None for worker in workers):
            if any(worker.returncode for worker in workers):
                stop(workers)
            time.sleep(POLL_SECONDS)
            bar.advance(recorded(folder) - bar.finished)
        bar.advance(recorded(folder) - bar.finished)


def recorded(folder: Path) -> int:
    """Finished prompts of a run that is being written: whole lines, less one header a shard."""
    shards = list((folder / "records").glob("*.jsonl"))
    return max(0, sum(path.read_bytes().count(b"\n") for path in shards) - len(shards))


def stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the workers that still run to keep what they have and end, and wait until they have."""
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGINT)
    for worker in workers:
        worker.wait()


def failure(ends: Sequence[tuple[int, str]]) -> tuple[int, str] | None:
    """The (exit code, last line) that says why a run failed: one that was stopped on another's account comes last."""
    failed = [end for end in ends if end[0]]
    return min(failed, key=lambda end: end[0] in STOPPED, default=None)


def last_line(log: IO[str]) -> str:
    """The last thing a worker said, which is its error message when it failed."""
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1].removeprefix("inferalign: ") if lines else "no message"
