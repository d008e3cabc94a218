"""What a model directory must hold before it is loaded, and the name of its weights in a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig
from transformers.utils import logging

from inferalign.core.errors import ModelError

HASHED_WHOLE = 1 << 30
"""Bytes up to which the weights are hashed whole; beyond, parts of every tensor are."""
PART = 1 << 14
"""Bytes of a tensor's beginning, middle and end that are hashed of large models."""


def check_folder(name: str) -> None:
    """Raises `ModelError` for a directory without config, tokenizer or safetensors. A name that is none is a hub id."""
    folder = Path(name)
    if not folder.is_dir():
        if "@" in name:
            raise ModelError(f"{name!r} is no model directory: an endpoint is typed MODEL@http://HOST/v1, or https")
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise ModelError(
                f"there is no model directory {name!r}: give 'sandbox', a directory that holds a transformers model, "
                "or a hub id of the form owner/name"
            )
        return
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{name} is a LoRA adapter and no whole model: give the merged one (`inferalign train` puts it in "
            "model/, beside), or merge it with PeftModel.merge_and_unload() and save_pretrained"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json, so it is no transformers model: save one with save_pretrained")
    if not any(folder.glob("*.safetensors")):
        if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
            raise ModelError(
                f"{name} has only pickled weights ({pickled[0].name}), and loading a pickle can run any code: convert "
                "them where you trust them, with model.save_pretrained(DIR), which writes safetensors"
            )
        raise ModelError(f"{name} has no weights: expected model.safetensors; copy it there, or name another directory")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ModelError(f"{name} has no tokenizer: save it there with tokenizer.save_pretrained({name!r})")


def check_there(name: str) -> None:
    """As `check_folder`, and a hub id is asked for its config. Raises `ModelError`."""
    check_folder(name)
    if not Path(name).is_dir():
        try:
            with quiet():
                AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"there is no model directory {name!r}, and no model of that name on the hub can be read: "
                f"{str(error).splitlines()[0]}"
            ) from error


def check_loaded(name: str, model: Any, tokenizer: Any, info: Mapping[str, Any]) -> None:
    """Raises `ModelError` when weights are missing or of another shape, or the tokenizer is another model's.

    transformers fills what it does not find with random numbers, and only warns.
    """
    if missing := sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"]))):
        raise ModelError(
            f"{name} lacks weights that its config.json asks for ({len(missing)}, such as {missing[0]}): they are "
            "another model's or were cut short; copy the directory again"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer in {name} has {len(tokenizer)} tokens and the model embeds {rows}: it is another model's; "
            "copy the right one there"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers: ours are the only ones on stderr."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def weights_digest(name: str) -> str:
    """`sha256:...` of a model's safetensors, or `parts-sha256:...` of large ones, in which every tensor has a part.

    A training, a merged adapter or another revision changes all of a tensor, so that its parts tell.

    Those of a hub id lie in the cache that it was loaded from: the id alone would not tell one revision from the next.
    It is `hub` only where that cache cannot be found.
    """
    folder = Path(name)
    if not folder.is_dir():
        cached = try_to_load_from_cache(name, "config.json")
        if not isinstance(cached, str):
            return "hub"
        folder = Path(cached).parent
    shards = sorted(folder.glob("*.safetensors"))
    whole = sum(shard.stat().st_size for shard in shards) <= HASHED_WHOLE
    digest = hashlib.sha256()
    for shard in shards:
        with shard.open("rb") as file:
            if whole:
                while block := file.read(1 << 22):
                    digest.update(block)
            else:
                for part in _parts(file):
                    digest.update(part)
    return f"{'sha256' if whole else 'parts-sha256'}:{digest.hexdigest()}"


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """The header of a safetensors file, and what `PART` says of each tensor."""
    size = file.read(8)
    header = file.read(int.from_bytes(size, "little"))
    yield size + header
    data = file.tell()
    told = json.loads(header)
    for name in sorted(told.keys() - {"__metadata__"}):
        begin, end = told[name]["data_offsets"]
        for at in (begin, (begin + end - PART) // 2, end - PART):
            file.seek(data + max(begin, at))
            yield file.read(min(PART, end - begin))
