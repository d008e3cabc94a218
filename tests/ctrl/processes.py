"""Started by torchrun in `test_processes`: trainings of a small model by two processes, on draws that are given.

Response i of a step is the same whatever process has it, so that any number of processes must end at the same weights.
`sharded` puts FSDP2 on CPUs, which accelerate itself offers for GPUs alone.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate.state
from accelerate.utils import DistributedType

from inferalign.core.seeds import derive
from inferalign.core.types import Message, Prompt
from inferalign.ctrl.processes import leave_processes
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.trainer import CtrlTrainer

SETTINGS = CtrlSettings(
    beta=0.1,
    steps=4,
    batch_size=24,
    generations=8,
    warmup=1,
    learning_rate=1e-2,
    max_new_tokens=4,
    checkpoint_every=2,
    kl_gain=0.1,
)
"""3 prompts of 8 responses a step: with two processes the second prompt's are split."""
PROMPTS = [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How {i}?"),)) for i in range(5)]


class Killed(Exception):
    pass


def given_draws(self: CtrlTrainer, prompt_ids: list[list[int]], *_: Any) -> list[list[int]]:
    first = self.accelerator.process_index * len(prompt_ids)
    rows = [derive(0, "row", self.step, first + at) for at in range(len(prompt_ids))]
    return [[(row >> 9 * place) % 350 + 10 for place in range(1 + row % 4)] for row in rows]


def even_share(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def shard_on_cpus() -> None:
    made = accelerate.state.AcceleratorState.__init__

    def sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    accelerate.state.AcceleratorState.__init__ = sharded
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }


def kill_at(last: int) -> Any:
    def on_step(step: int, line: Any) -> None:
        if step == last:
            raise Killed

    return on_step


def main(model: str, out: str, how: str) -> None:
    """Train in `out`/whole, and in `out`/killed with a stop on the way; or only begin in `out`/whole."""
    CtrlTrainer._generate_single_turn = given_draws
    if how.startswith("sharded"):
        shard_on_cpus()
    settings = replace(SETTINGS, processes=2, steps=2000 if how == "long" else SETTINGS.steps)
    if how == "sharded adapter":
        settings = replace(settings, lora_rank=4)
    for place, stop in (("whole", 0), ("killed", 3), ("killed", 0)):
        with suppress(Killed):
            train_ctrl(settings, model, PROMPTS, even_share, Path(out) / place, on_step=kill_at(stop))
    leave_processes()
    gc.collect()  # with the trainers goes the group, which waits for its threads: for ever, if one holds a tensor


if __name__ == "__main__":
    main(*sys.argv[1:])
