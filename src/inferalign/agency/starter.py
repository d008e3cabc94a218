"""A dimension to begin with: a commented YAML file that passes every check and runs, shipped beside this module."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from inferalign.core.errors import InputError


def starter_text() -> str:
    return (files("inferalign.agency") / "starter.yaml").read_text(encoding="utf-8")


def write_starter(path: Path) -> None:
    """Write the starter to a new file. Raises `InputError` for one that is there, and where it cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter_text())
    except FileExistsError as error:
        raise InputError(f"{path} is there already: name another file, or remove it first.") from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}. Name a file in a directory that is there.") from error
