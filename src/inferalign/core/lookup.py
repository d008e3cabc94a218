"""Names to things: plain tables, a did-you-mean for what is not in them, and back ends loaded only when used.

A table is an ordinary dict from a name to a value; heavy values are `"module:Name"` strings that `load` imports.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from inferalign.core.errors import InputError, UnknownName

T = TypeVar("T")

_EXTRA_OF = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors"), "local"),
    **dict.fromkeys(("trl", "accelerate", "datasets", "peft"), "train"),
    "vllm": "vllm",
    "matplotlib": "report",
    "ray": "scale",
    **dict.fromkeys(("aiohttp", "yaml", "sklearn", "inspect_ai"), "agency"),
}


def resolve(table: Mapping[str, T], name: str, kind: str = "procedure") -> T:
    """The value of `name` in `table`; `kind` is what the table holds, for the message.

    Raises `UnknownName` with the nearest known name and the whole list.
    """
    if name in table:
        return table[name]
    raise UnknownName(f"unknown {kind} {name!r}.{did_you_mean(name, table)} Known: {', '.join(sorted(table))}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence ` Did you mean 'x'?`, or nothing when no known name is near."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


def load(target: str) -> Any:
    """Import `"module:Name"` and return the object.

    Raises `InputError` when the text has another form, when a library is missing (with the install command) and when
    the module has no such name.
    """
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute.isidentifier()):
        raise InputError(f"cannot load {target!r}: expected the form 'package.module:Name'.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise InputError(f"cannot load {target!r}: {missing!r} is not installed. {_install(missing)}") from error
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, vars(module))
        raise InputError(f"cannot load {target!r}: module {module_name!r} has no {attribute!r}.{hint}")
    return getattr(module, attribute)


def _install(module_name: str) -> str:
    top = module_name.partition(".")[0]
    wanted = f"inferalign[{_EXTRA_OF[top]}]" if top in _EXTRA_OF else top
    return f"Type: pip install '{wanted}'"
