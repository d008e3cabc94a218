"""A reward model as a small difference to its base: the head and the last layers, with the hash of what lies below.

    reward.safetensors   the tensors that were trained, by their names in the sequence-classification model
    reward.json          the base by content hash, the names of the tensors, the padding token, the question that
                         follows an answer, facts of the training

What is not in the file is the base's, bit for bit; on any other base the numbers would mean nothing, so its hash is
checked before a tensor is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from inferalign.core.errors import ModelError, RunError
from inferalign.core.files import disk_errors, read_json, write_json_atomic
from inferalign.engines.weights import weights_digest

CARD = "reward.json"
"""Written last: its presence says that the model is whole."""
TENSORS = "reward.safetensors"


@dataclass(frozen=True, kw_only=True)
class DeltaCard:
    """What `reward.json` says."""

    base: str
    """The base's `weights_digest`."""
    tensors: tuple[str, ...]
    """Names of the tensors in `reward.safetensors`, sorted."""
    pad_token_id: int
    """Which token is not looked at where the end of a row is sought."""
    question: str = ""
    """What follows an answer, at whose end the head reads; empty: the end of the turn."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was made and how well it orders held-out pairs; JSON values only."""


def is_delta(folder: Path) -> bool:
    return (folder / CARD).is_file()


def trained_names(model: Any, layers: int | Literal["all"]) -> tuple[str, ...]:
    """The parameters of the head, of what comes after the layers (the final norm), and of the last `layers` of them.

    `"all"` takes every parameter, embeddings too. `model` is a sequence-classification model. Raises `ModelError` when
    there are not so many layers, or no list of them.
    """
    if layers == "all":
        return tuple(sorted(name for name, _ in model.named_parameters()))
    trunk, depth = model.base_model, model.config.get_text_config().num_hidden_layers
    children = list(trunk.named_children())
    place = next((i for i, (_, m) in enumerate(children) if isinstance(m, nn.ModuleList) and len(m) == depth), None)
    if place is None:
        raise ModelError(f"{type(model).__name__} has no list of its {depth} layers: train all of it")
    if not 0 <= layers <= depth:
        raise ModelError(f"{layers} layers were asked for and the base has {depth}: give 0 to {depth}, or all")
    kept = [f"{model.base_model_prefix}.{children[place][0]}.{i}." for i in range(depth - layers, depth)]
    kept += [f"{model.base_model_prefix}.{name}." for name, _ in children[place + 1 :]]
    inside = f"{model.base_model_prefix}."
    return tuple(
        sorted(
            name for name, _ in model.named_parameters() if not name.startswith(inside) or name.startswith(tuple(kept))
        )
    )


def write_delta(folder: Path, model: Any, names: Iterable[str], *, dtype: torch.dtype, card: DeltaCard) -> None:
    """Write the named parameters of `model`, rounded to `dtype`, and the card. Raises `RunError` when it cannot."""
    parameters = dict(model.named_parameters())
    tensors = {name: parameters[name].detach().to(dtype).contiguous() for name in names}
    with disk_errors(folder, "write a reward model into"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, folder / TENSORS)
        except SafetensorError as error:
            raise RunError(f"cannot write {folder / TENSORS}: {error}. Free some space, then repeat it.") from error
    write_json_atomic(
        folder / CARD,
        {
            "base": card.base,
            "tensors": list(card.tensors),
            "pad_token_id": card.pad_token_id,
            "question": card.question,
            "training": dict(card.training),
        },
    )


def read_card(folder: Path) -> DeltaCard:
    """Raises `RunError` for a file that is no JSON, `ModelError` for one that says something else."""
    data = read_json(folder / CARD)
    match data:
        case {
            "base": str(base),
            "tensors": [*tensors],
            "pad_token_id": int(pad),
            "question": str(question),
            "training": dict(training),
        } if all(isinstance(name, str) for name in tensors):
            return DeltaCard(base=base, tensors=tuple(tensors), pad_token_id=pad, question=question, training=training)
    raise ModelError(
        f"{folder / CARD} is not what a reward model's training writes: expected the keys base, tensors, pad_token_id, "
        "question and training; copy the folder again"
    )


def find_base(folder: Path, card: DeltaCard, bases: Sequence[str]) -> str:
    """Which of `bases` (directories or hub ids) the difference is to. Raises `ModelError` when it is to none."""
    digests = {name: weights_digest(name) for name in bases}
    found = next((name for name, digest in digests.items() if digest == card.base), None)
    if found is None:
        given = ", ".join(f"{name} is {_short(digest)}" for name, digest in digests.items()) or "none was given"
        raise ModelError(
            f"the reward model in {folder} belongs on a base whose weights are {_short(card.base)}, and {given}: "
            "give --model the one that it was trained on, or train a reward model on yours"
        )
    return found


def apply_delta(folder: Path, card: DeltaCard, model: Any) -> None:
    """Copy the tensors into `model`. Raises `ModelError` when they are unreadable, not those of the card, or misfit."""
    path = folder / TENSORS
    if not path.is_file():
        raise ModelError(f"{folder} has no {TENSORS}, which alone is read (a pickle can run any code): copy it there")
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}; copy it again") from error
    parameters = dict(model.named_parameters())
    if odd := sorted(set(tensors) ^ set(card.tensors)) or sorted(set(tensors) - set(parameters)):
        raise ModelError(f"{path} and {CARD} do not agree with the base about {odd[0]!r}: copy the folder again")
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.shape != parameters[name].shape:
                raise ModelError(
                    f"{path}: {name} is {list(tensor.shape)} and the base has {list(parameters[name].shape)}: they do "
                    "not belong together; copy the folder again"
                )
            parameters[name].copy_(tensor)


def _short(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"{kind}:{value[:12]}" if value else digest
