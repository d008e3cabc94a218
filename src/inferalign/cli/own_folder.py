"""The folder of a verb that keeps no records at its top: whose it is, and what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"


def require_own(run: Path, verb: str) -> None:
    """Raises `InputError` for the folder of another command, whose configuration would be written over."""
    from inferalign.core.errors import InputError
    from inferalign.core.files import read_json

    if (run / CONFIG).is_file() and read_json(run / CONFIG).get("verb") != verb:
        raise InputError(
            f"--run {run} holds what another command made: give a folder of its own, such as --run {run}-{verb}"
        )


def write_asked(run: Path, config: Mapping[str, Any]) -> None:
    """Write what was asked (`verb` in it), and where it runs. Raises `RunError` when the disk refuses."""
    from inferalign.core.environment import environment
    from inferalign.core.files import write_json_atomic

    write_json_atomic(run / CONFIG, config)
    write_json_atomic(run / "env.json", environment())
