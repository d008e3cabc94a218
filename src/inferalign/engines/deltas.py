"""A trained policy as a small difference to its base: low-rank factors of every matrix, added where the base is loaded.

    delta.safetensors   of each matrix W that changed: W.up [rows, r] and W.down [r, columns], so that W + up @ down
                        stands for the trained one; of each vector its whole difference; all float16
    delta.json          the base by content hash, and what was measured of the delta

The factors are the largest singular components of the difference (Eckart and Young 1936), the ones that save most
squared error a byte, over all matrices together, until a number of bytes is spent. A truncated policy is another policy
than the trained one: its KL and win rates are to be measured, and `scale` stretches it to the KL that is wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inferalign.core.errors import InputError, ModelError, RunError
from inferalign.core.files import disk_errors, read_json, write_json_atomic
from inferalign.engines.weights import weights_digest

CARD, TENSORS = "delta.json", "delta.safetensors"
UP, DOWN = ".up", ".down"
BYTES_EACH = 2
"""Of a number in float16."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What was read from a delta's folder."""

    base: str
    """The base's `weights_digest`."""
    digest: str
    """Names the merged weights: of base and tensors together."""
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    """How it was made and what was measured; JSON values."""

    def difference(self, name: str) -> Tensor | None:
        """What is added to a parameter, float32; None where nothing is."""
        if name in self.tensors:
            return self.tensors[name].float()
        if name + UP in self.tensors:
            return self.tensors[name + UP].float() @ self.tensors[name + DOWN].float()
        return None

    @property
    def parameters(self) -> set[str]:
        """Names of the parameters that it changes."""
        return {name.removesuffix(UP).removesuffix(DOWN) for name in self.tensors}


def write_delta(
    base: Path, trained: Path, out: Path, *, most_bytes: int, scale: float = 1.0, facts: Mapping[str, Any] | None = None
) -> None:
    """Write the difference of two model directories into `out`, in at most `most_bytes` of numbers.

    scale: what the difference is multiplied by. Raises `ModelError` for weights that do not belong together, `RunError`
    when the disk refuses, `InputError` when the vectors alone need more bytes.
    """
    before, after = _weights(base), _weights(trained)
    if before.keys() != after.keys() or any(before[name].shape != after[name].shape for name in before):
        raise ModelError(f"{trained} and {base} have other tensors: give the model that was trained, and what from")
    difference = {name: scale * (after[name] - before[name]) for name in before}
    tensors = truncated({name: each for name, each in difference.items() if bool(each.any())}, most_bytes)
    with disk_errors(out, "write a delta into"):
        out.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, out / TENSORS)
        except SafetensorError as error:
            raise RunError(f"cannot write {out / TENSORS}: {error}. Free some space, then repeat it.") from error
    write_json_atomic(out / CARD, {"base": weights_digest(str(base)), "facts": dict(facts or {})})


def truncated(difference: Mapping[str, Tensor], most_bytes: int) -> dict[str, Tensor]:
    """Vectors whole, and the singular components of all matrices with the most square a number, float16.

    Raises `InputError` when the vectors alone need more than `most_bytes`.
    """
    tensors = {name: each.half().contiguous() for name, each in difference.items() if each.ndim != 2}
    left = most_bytes // BYTES_EACH - sum(each.numel() for each in tensors.values())
    if left < 0:
        raise InputError(f"{most_bytes} bytes do not hold the vectors alone: give more")
    parts = {name: torch.linalg.svd(each, full_matrices=False) for name, each in difference.items() if each.ndim == 2}
    worth = [
        (float(value) ** 2 / sum(difference[name].shape), name)
        for name, (_, values, _) in parts.items()
        for value in values
    ]
    ranks = dict.fromkeys(parts, 0)
    for _, name in sorted(worth, reverse=True):
        price = sum(difference[name].shape)
        if price <= left:
            left, ranks[name] = left - price, ranks[name] + 1
    for name, rank in ranks.items():
        if rank:
            u, values, v = parts[name]
            root = values[:rank].sqrt()
            tensors[name + UP] = (u[:, :rank] * root).half().contiguous()
            tensors[name + DOWN] = (root[:, None] * v[:rank]).half().contiguous()
    return tensors


def read_delta(folder: Path) -> Delta:
    """Raises `ModelError` for a folder without a delta, or with a damaged one."""
    if not (folder / CARD).is_file() or not (folder / TENSORS).is_file():
        raise ModelError(f"{folder} has no {CARD} and {TENSORS}: copy the folder again")
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or not isinstance(card.get("base"), str) or not isinstance(card.get("facts"), dict):
        raise ModelError(f"{folder / CARD} does not say which base it belongs on: copy the folder again")
    try:
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {folder / TENSORS}: {error}; copy it again") from error
    with disk_errors(folder, "read"):
        content = hashlib.sha256(card["base"].encode() + (folder / TENSORS).read_bytes()).hexdigest()
    delta = Delta(base=card["base"], digest=f"sha256:{content}", tensors=tensors, facts=card["facts"])
    for name in delta.parameters - tensors.keys():
        up, down = tensors.get(name + UP), tensors.get(name + DOWN)
        if up is None or down is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise ModelError(
                f"{folder / TENSORS} lacks a factor of {name!r}, or has two that do not fit: copy it again"
            )
    return delta


def add_delta(delta: Delta, model: Any, digest: str) -> None:
    """Add the differences to a loaded model whose weights are `digest`. Raises `ModelError` on any other base."""
    if delta.base != digest:
        raise ModelError(
            f"the delta belongs on a base whose weights are {delta.base[:19]}, and these are {digest[:19]}: it was "
            "made for another version of the model; make it again from a training of this one"
        )
    parameters = dict(model.named_parameters())
    if unknown := sorted(delta.parameters - parameters.keys()):
        raise ModelError(f"the delta changes {unknown[0]!r}, which the model does not have: copy its folder again")
    with torch.no_grad():
        for name, parameter in parameters.items():
            difference = delta.difference(name)
            if difference is None:
                continue
            if difference.shape != parameter.shape:
                raise ModelError(
                    f"the delta's {name} is {list(difference.shape)} and the model's {list(parameter.shape)}: copy its "
                    "folder again"
                )
            parameter.add_(difference.to(parameter))


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model directory, float32."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no safetensors: give a model directory")
    try:
        return {name: each.float() for file in files for name, each in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {files[0]}: {error}; copy the directory again") from error
