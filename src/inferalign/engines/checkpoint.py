"""The state of a training as one safetensors file: trained weights and what the optimisers keep. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from inferalign.core.errors import RunError
from inferalign.core.files import disk_errors
from inferalign.core.records import differences

FILE = "state.safetensors"
MOST_CHANGES = 5
"""Differences that a message names."""


def require_no_model(out: Path, state: Path) -> None:
    """Raises `RunError` where `out` holds a model and no checkpoint in `state` says that it was begun here."""
    if (out / "config.json").exists() and not (state / FILE).exists():
        raise RunError(f"{out} holds a model that this training would overwrite: name another --out")


def save_state(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimisers: Sequence[torch.optim.Optimizer],
    step: int,
    made_by: Mapping[str, Any],
    *,
    write: bool = True,
) -> None:
    """Atomic: the new state lies beside the old one before it takes its place. `made_by` decides the weights.

    Where several processes hold a part of each tensor all call it, and one with `write`. Raises `RunError` when it
    cannot be written.
    """
    tensors = {f"weight.{name}": _whole(p.detach(), write) for name, p in parameters.items()}
    for name, p in parameters.items():
        (optimiser,) = (o for o in optimisers if p in o.state)
        tensors |= {f"{kept}.{name}": _whole(value, write) for kept, value in optimiser.state[p].items()}
    if not write:
        return
    temporary = folder / f"{FILE}.new"
    with disk_errors(folder, "keep a checkpoint in"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, temporary, metadata={"step": str(step), "made_by": json.dumps(made_by, sort_keys=True)})
        except SafetensorError as error:
            raise RunError(f"cannot write {temporary}: {error}. Free some space, then repeat the command.") from error
        os.replace(temporary, folder / FILE)


def saved_step(folder: Path, made_by: Mapping[str, Any]) -> int:
    """The steps that are done according to the saved state; 0 where there is none.

    Raises `RunError` when it was made by something else, or is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        step, before = int(metadata["step"]), json.loads(metadata["made_by"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    now = json.loads(json.dumps(made_by))
    if changes := list(differences(before, now)):
        raise RunError(
            f"{folder} holds a checkpoint of another training ({'; '.join(changes[:MOST_CHANGES])}): repeat the "
            f"command as it was to go on, name another folder, or remove {folder}"
        )
    return step


def load_state(
    folder: Path, parameters: Mapping[str, torch.nn.Parameter], optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put the saved state in place. Raises `RunError` when it is damaged."""
    path = folder / FILE
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    owner = {id(p): o for o in optimisers for group in o.param_groups for p in group["params"]}
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        what, name = key.split(".", 1)
        kept.setdefault(name, {})[what] = value
    if odd := [name for name, p in parameters.items() if not _fits(kept.get(name, {}).get("weight"), p)]:
        raise _damaged(path, f"it has no {odd[0]} of the right shape")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(_like(kept[name].pop("weight"), p))
            # Adam counts its steps on the CPU, wherever the weights lie.
            owner[id(p)].state[p] = {what: _like(v, p) if v.ndim else v for what, v in kept[name].items()}


def _whole(tensor: torch.Tensor, wanted: bool) -> torch.Tensor:
    """A copy in the CPU's memory, put together of all processes' parts; nothing where it is not wanted."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.to("cpu", copy=True) if wanted else torch.empty(0)


def _like(value: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """On the device of `p`, and this process's part of it where `p` is a part; no process sends another anything."""
    here = value.to(p.device)
    return distribute_tensor(here, p.device_mesh, p.placements, src_data_rank=None) if isinstance(p, DTensor) else here


def _fits(value: torch.Tensor | None, p: torch.Tensor) -> bool:
    return value is not None and value.shape == p.shape


def _damaged(path: Path, why: object) -> RunError:
    return RunError(f"{path} is damaged, or no checkpoint ({why!r}): remove it, then repeat the same command")
