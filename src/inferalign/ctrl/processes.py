"""Several processes that train one model: as many as were asked for, each on a device of its own, all at one step.

TRL cuts a step's responses into as many parts as there are processes, in their order, and gathers the rewards before it
takes the siblings' mean. So a prompt's responses may lie with two processes and still have one baseline, and gradients
are means over equal parts: given the same draws, any number of processes takes the same step. The exception is text
that cannot be judged under `raw` and `standardised`, without calibration: it is worth less than its prompt's lowest
score, and each process looks for that among the anchors and its own responses (`reward`). Draws have seeds by step and
process (`trainer`), so that another number of processes trains on others.

The state of a training is one file whether each process holds all weights or, under FSDP2 (`fully_shard`, after ZeRO,
arXiv 1910.02054, section 5), a part of each: parts are put together for the file one tensor at a time, and cut again.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback

from inferalign.core.errors import RunError
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.checkpoint import load_state, save_state, saved_step

EMPTY_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
SETTLING = 0.5
"""Seconds: some hundred times what a thread of an idle machine takes, and nothing in a training's hours."""


def check_processes(settings: CtrlSettings, found: int | None = None) -> None:
    """Raises `RunError` for another number than asked; otherwise what this process loads goes to a GPU of its own.

    found: as many as were started; without it, as the environment says. `accelerate launch --cpu`, for one, silently
    starts one.
    """
    found = found or int(os.environ.get("WORLD_SIZE", "1"))
    if found != settings.processes:
        raise RunError(
            f"{found} processes are training and {settings.processes} were asked for: set processes to {found}, or "
            f"start {settings.processes} with `torchrun --nproc_per_node {settings.processes} -m -- "
            "inferalign.cli.main train ...`"
        )
    if {os.environ.get(name, "").lower() for name in ("ACCELERATE_USE_FSDP", EMPTY_LOADING)} == {"true"}:
        raise RunError(
            "fsdp_cpu_ram_efficient_loading is on, under which all processes but the first load empty weights and judge"
            " and measure KL by them: set it to false, as recipes/accelerate-fsdp.yaml does"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def leave_processes() -> None:
    """Ends this process's part in the group, if there is one; for a script's last line.

    Threads of a group that is still open when the interpreter ends can abort a process that has finished its work.
    So can one that has yet to let go of its last tensor, for which it needs the interpreter: it gets `SETTLING`.
    """
    if torch.distributed.is_initialized():
        time.sleep(SETTLING)
        torch.distributed.destroy_process_group()


class Checkpoints(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Keeps the state of a training in `folder`, and puts it in place where another process left it."""

    def __init__(
        self, trainer: CtrlTrainer, optimiser: torch.optim.Optimizer, folder: Path, made_by: Mapping[str, Any]
    ) -> None:
        """made_by: what decides the weights. Raises `RunError` for a state of another training, or seen differently."""
        self._trainer, self._optimiser, self._folder, self._made_by = trainer, optimiser, folder, made_by
        self._kept = not trainer.is_sharded or trainer.accelerator.is_fsdp2
        if not self._kept:
            warnings.warn(
                "no checkpoints are kept of weights that are sharded otherwise than by FSDP2: a training that is "
                "stopped begins again",
                stacklevel=3,
            )
        self.done = saved_step(folder, made_by)
        """Steps that were taken before."""
        if len(found := set(gather_object([self.done]))) > 1:
            raise RunError(
                f"processes find different checkpoints in {folder} (after {sorted(found)} steps): give a --run on a "
                "disk that all machines share"
            )

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Weights may have been cut into parts by now. Raises `RunError` for a damaged file."""
        if self.done:
            load_state(self._folder, self._parameters(), [self._optimiser])

    def keep(self, step: int) -> None:
        """Every process calls it, and the first one writes. Raises `RunError` when it cannot be written."""
        first = self._trainer.is_world_process_zero()
        if self._kept and (first or self._trainer.is_sharded):
            save_state(self._folder, self._parameters(), [self._optimiser], step, self._made_by, write=first)

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, as they are now: FSDP2 puts others in their places, under the same names."""
        return {name: p for name, p in self._trainer.model.named_parameters() if p.requires_grad}
