"""The state of a training as one safetensors file: trained weights and Adam's two moments. Nothing is pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from inferalign.core.errors import RunError
from inferalign.core.files import disk_errors

FILE = "state.safetensors"


def save_state(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    step: int,
    made_by: Mapping[str, Any],
) -> None:
    """Atomic: the new state lies beside the old one before it takes its place. `made_by` decides the weights.

    Raises `RunError` when it cannot be written.
    """
    tensors = {f"weight.{name}": p.detach().clone() for name, p in parameters.items()}
    for name, p in parameters.items():
        moments = optimiser.state[p]
        tensors |= {f"m.{name}": moments["exp_avg"], f"v.{name}": moments["exp_avg_sq"]}
    temporary = folder / f"{FILE}.new"
    with disk_errors(folder, "keep a checkpoint in"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, temporary, metadata={"step": str(step), "made_by": json.dumps(made_by, sort_keys=True)})
        except SafetensorError as error:
            raise RunError(f"cannot write {temporary}: {error}. Free some space, then repeat the command.") from error
        os.replace(temporary, folder / FILE)


def load_state(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    made_by: Mapping[str, Any],
) -> int:
    """Put a saved state in place, if there is one; returns the steps that are done.

    Raises `RunError` when it was made by something else, or is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}): remove it, then repeat the same command") from error
    if metadata["made_by"] != json.dumps(made_by, sort_keys=True):
        raise RunError(
            f"{folder} holds a checkpoint of another training (other settings, base or data): name another --out, or "
            f"remove {folder}"
        )
    step = int(metadata["step"])
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"weight.{name}"])
            optimiser.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"m.{name}"],
                "exp_avg_sq": tensors[f"v.{name}"],
            }
    return step
