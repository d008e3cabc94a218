"""Models by name: `sandbox`, `sandbox:best-of-4`, a directory, or a hub id.

What follows `sandbox:` is a policy that was trained from the sandbox's, kept as a small difference to it: the name of
one that is shipped, or the folder of another. Nothing heavy is imported until a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from inferalign.core.errors import ModelError
from inferalign.core.lookup import did_you_mean
from inferalign.core.lookup import load as load_object

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

LOCAL = "inferalign.engines.local:load_local"
SANDBOX = "sandbox"
SANDBOX_CARD = "sandbox.json"
"""In the folder of every model that the sandbox's recipe made."""
DELTAS = "deltas"
"""The folder of the sandbox's shipped differences, beside its model's."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is loaded."""

    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic; only float32 on a CPU is exact. `auto` takes what the weights are stored in."""
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """`auto` takes a GPU if there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model; leave it off unless you have read that code."""
    chat_template: Path | None = None
    """A Jinja file that replaces the tokenizer's chat template."""
    prefix_cache_mb: int = 512
    """Memory for keys and values of prefixes that were met before, in MiB."""


class LoadedModel(NamedTuple):
    engine: Engine
    chat: ChatFormat


def is_sandbox(model: str) -> bool:
    """Whether a model was trained by the sandbox's recipe, and so knows its form of the self-evaluation question."""
    return model.partition(":")[0] == SANDBOX or (Path(model) / SANDBOX_CARD).is_file()


def shipped_model() -> Path:
    """The folder of the sandbox's own model. Raises `ModelError` when its weights are not there."""
    folder = _sandbox("model")
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"the sandbox model's weights are not in {folder}: train them with "
            "`inferalign sandbox train --out DIR` and name DIR as the model"
        )
    return folder


def shipped_deltas() -> list[str]:
    """The names that may follow `sandbox:`."""
    return sorted(path.parent.name for path in _sandbox(DELTAS).glob("*/delta.json"))


def load(model: str, options: ModelOptions) -> LoadedModel:
    """Load a model and its chat format. Raises `ModelError` with what to do when it cannot be used."""
    name, colon, delta = model.partition(":")
    if name != SANDBOX:
        loaded: LoadedModel = load_object(LOCAL)(model, options)
        return loaded
    folder = shipped_model()
    if not colon:
        loaded = load_object(LOCAL)(str(folder), options)
        return loaded
    loaded = load_object(LOCAL)(str(folder), options, delta=delta_folder(delta), called=model)
    return loaded


def delta_folder(name: str) -> Path:
    """The folder of a shipped difference, or the folder that was given. Raises `ModelError` when it is neither."""
    shipped = shipped_deltas()
    if name in shipped:
        return _sandbox(DELTAS) / name
    if not (Path(name) / "delta.json").is_file():
        known = ", ".join(f"sandbox:{each}" for each in shipped) or "none is shipped"
        raise ModelError(
            f"no policy trained from the sandbox model is called {name!r}.{did_you_mean(name, shipped)} Give one of: "
            f"{known}; or the folder of one after `sandbox:`"
        )
    return Path(name)


def _sandbox(part: str) -> Path:
    return Path(str(files("inferalign.sandbox"))) / part
