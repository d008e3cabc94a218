"""Models by name: `sandbox`, a directory, or a hub id. Nothing heavy is imported until one is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from inferalign.core.errors import ModelError
from inferalign.core.lookup import load as load_object

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

LOCAL = "inferalign.engines.local:load_local"


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
    return model == "sandbox" or (Path(model) / "sandbox.json").is_file()


def load(model: str, options: ModelOptions) -> LoadedModel:
    """Load a model and its chat format. Raises `ModelError` with what to do when it cannot be used."""
    if model == "sandbox":
        folder = Path(str(files("inferalign.sandbox"))) / "model"
        if not (folder / "model.safetensors").is_file():
            raise ModelError(
                f"the sandbox model's weights are not in {folder}: train them with "
                "`inferalign sandbox train --out DIR` and name DIR as the model"
            )
        model = str(folder)
    loaded: LoadedModel = load_object(LOCAL)(model, options)
    return loaded
