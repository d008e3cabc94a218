"""Settings as plain data: a TOML file read with clear errors, and a dataclass turned into JSON values.

Parsing settings into typed dataclasses (unknown keys, wrong types, flags over file over defaults) is the command
line's work, and cyclopts does it: hand `read_toml`'s answer to `cyclopts.config.Dict(data, source=...)`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError


def read_toml(path: Path | str) -> dict[str, Any]:
    """The tables of a TOML file. Raises `InputError` for a missing, unreadable or malformed file (with the line)."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no file {path}: expected a TOML file. Check the path.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # malformed TOML and bad UTF-8 are both ValueErrors
        raise InputError(f"{path} is not TOML: {error}.") from error


def to_dict(config: Any) -> Any:
    """A dataclass, with everything nested in it, as JSON values: tuples become lists, paths become strings."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, set | frozenset):
        return sorted(to_dict(value) for value in config)
    if isinstance(config, Path):
        return str(config)
    return config
