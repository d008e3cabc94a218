"""Writes docs/cli.md from the help of each verb: `python -m inferalign.cli.docs > docs/cli.md` (or `make docs`).

A test compares the file with what this prints, so the page cannot go stale.
"""

from __future__ import annotations

import io
import sys

from rich.console import Console

from inferalign.cli.main import build_app

SANDBOX = ("sample", "grade", "audit", "train", "pairs", "train-reward")
AGENCY = ("run", "build", "new-dimension", "report", "compare", "audit", "export")
PAGES = (
    (),
    ("agency",),
    *(("agency", verb) for verb in AGENCY),
    ("demo",),
    ("generate",),
    ("plan",),
    ("calibrate",),
    ("compare",),
    ("doctor",),
    ("train",),
    ("sandbox",),
    *(("sandbox", verb) for verb in SANDBOX),
)
WIDTH = 110


def render() -> str:
    """The whole page: one heading and one help text a verb."""
    parts = [
        "# The command line\n",
        "Written by `make docs` from the help of each verb; do not edit. Every flag is also a key of a TOML file given",
        "with `--config FILE.toml` (`top-k = 15`); a flag wins over the file. Progress goes to stderr. The last line",
        "on stdout is one JSON object. Exit codes: 0 done, 1 an error with its message on stderr (none where nobody",
        "reads stdout any more), 2 a flag or key that cannot be used, 130 stopped by Ctrl-C.\n",
    ]
    for page in PAGES:
        parts += [f"## `{' '.join(('inferalign', *page))}`\n", "```text", help_text(page), "```\n"]
    return "\n".join(parts).rstrip() + "\n"


def help_text(verb: tuple[str, ...]) -> str:
    """What `inferalign VERB --help` shows, without colour, at a fixed width."""
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=False, color_system=None, legacy_windows=False)
    build_app().meta([*verb, "--help"], console=console, exit_on_error=False, result_action="return_value")
    out = console.file
    assert isinstance(out, io.StringIO)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


if __name__ == "__main__":
    sys.stdout.write(render())
