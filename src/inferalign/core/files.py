"""Files that are whole or absent, and JSON that never holds a NaN.

Writes go to a private temporary file (mode 0600) in the same directory, are fsynced, and are renamed over the target.
Operating-system errors are mapped here, once, to `RunError` (`disk_errors`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inferalign.core.errors import InferalignError, RunError

_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space, then repeat the same command.",
    errno.EDQUOT: "The disk quota is used up: free some space, then repeat the same command.",
    errno.EACCES: "Choose a place that you may write to.",
    errno.EPERM: "Choose a place that you may write to.",
    errno.EROFS: "The file system is read-only: choose another place.",
    errno.ENOTDIR: "A part of the path is a file: choose another place.",
    errno.EEXIST: "A file stands where a directory is needed: choose another place.",
    errno.EISDIR: "A directory stands where a file is needed: choose another place.",
    errno.ENOLCK: "This file system cannot lock files: choose a local disk.",
}


@contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an `OSError` into a `RunError` that names the path, the act and what to do; ours pass as they are."""
    try:
        yield
    except InferalignError:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "Check the disk, then repeat the same command.")
        raise RunError(f"cannot {doing} {path}: {error.strerror or error}. {advice}") from error


def dump_json(value: Any, *, indent: int | None = None) -> bytes:
    """UTF-8 JSON, text kept readable. Raises `RunError` naming the key of a NaN, an infinity or a non-JSON value."""
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
    except (ValueError, TypeError) as error:
        raise RunError(f"cannot write as JSON: {_unwritable(value) or error}.") from error
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8 form; its JSON escape has, and reads back as the same string.
        return json.dumps(value, allow_nan=False, indent=indent, separators=separators).encode()


def parse_json(data: bytes) -> Any:
    """Strict JSON: no NaN, no Infinity, no number beyond a float, no key twice in an object.

    Raises `ValueError` (also for bad UTF-8).
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> Any:
    """The JSON value of a file. Raises `RunError` when it cannot be read or is not strict JSON."""
    with disk_errors(path, "read"):
        data = path.read_bytes()
    try:
        return parse_json(data)
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}). Remove it or restore it from a copy.") from error


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON: afterwards the file is the old one or the new one, never a part."""
    write_bytes_atomic(path, dump_json(value, indent=2) + b"\n")


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """As `write_json_atomic`, for bytes. Makes the parent directories. Raises `RunError`."""
    with disk_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # whatever came, Ctrl-C too: leave no half-written file behind, and pass it on
            os.unlink(temporary)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable: without it a power cut may forget a rename."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one object")
    return result


def _unwritable(value: Any, where: str = "") -> str | None:
    """The first key under `value` that JSON cannot hold, with what is there; None when all is well."""
    here = where or "the value itself"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{here} is {value}"
    if value is None or isinstance(value, str | int | float):
        return None
    if isinstance(value, Mapping):
        children = [(f"{where}.{key}" if where else str(key), child) for key, child in value.items()]
    elif isinstance(value, Sequence):
        children = [(f"{where}[{i}]", child) for i, child in enumerate(value)]
    else:
        return f"{here} is of the type {type(value).__name__}"
    return next((found for name, child in children if (found := _unwritable(child, name))), None)
