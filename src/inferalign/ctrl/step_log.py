"""What each step of a training showed, as JSON lines: the curve of KL and reward, where beta and the bill stood.

A line is written before the state of its step is kept, so that a training that goes on finds the lines up to its state;
those after it are dropped and written again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from inferalign.core.errors import RunError
from inferalign.core.files import disk_errors, dump_json, parse_json, write_bytes_atomic
from inferalign.core.types import RoleUsage
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.rloo import diverged
from inferalign.ctrl.trainer import BETA_METRIC, KL_METRIC, CtrlTrainer

NEXT_BETA = "next_beta"
GRADIENT = "grad_norm"
SAMPLES = "samples.jsonl"
"""Some responses of the first step and of every so many after it, to be read."""
SCORING = "scoring"
"""What scoring has cost since the training began, in all processes."""
LEFT_OUT = ("epoch", "kl", "total_flos")
"""Of what TRL logs: shares of what is left to do, and a KL a token whose mean is no KL of sequences."""

OnStep = Callable[[int, Mapping[str, Any]], None]
"""Called with the steps done and the newest line."""


class StepLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes the lines of one process (the first of several), then calls `keep(step)` and `on_step(step, line)`."""

    def __init__(
        self, path: Path, trainer: CtrlTrainer, keep: Callable[[int], None], on_step: OnStep, *, samples_every: int
    ) -> None:
        self._path, self._trainer, self._keep, self._on_step = path, trainer, keep, on_step
        self._samples, self._samples_every = path.with_name(SAMPLES), samples_every
        reward = trainer.reward_funcs[0]
        self._reward = reward if isinstance(reward, RewardFunction) else None
        self.lines: list[dict[str, Any]] = []
        """One a step; those of earlier processes included, once `take_up` was called."""

    def take_up(self, done: int) -> None:
        """Keep the lines of the first `done` steps, and drop the others; the reward's costs go on from the last.

        Raises `RunError` for a damaged file.
        """
        if done:
            with disk_errors(self._path, "read"):
                found = [_read(line) for line in self._path.read_bytes().splitlines()[:done]]
            if [line.get("step") for line in found] != list(range(1, done + 1)):
                raise RunError(
                    f"{self._path} does not have one line for each of the {done} steps that were taken: restore it "
                    "from a copy, or name another --run"
                )
            self.lines = found
            if self._reward is not None and self._trainer.is_world_process_zero():  # the sum is one process's to carry
                self._reward.usage = RoleUsage(**found[-1][SCORING])
        if self._trainer.is_world_process_zero():
            write_bytes_atomic(self._path, b"".join(dump_json(line) + b"\n" for line in self.lines))
            self._take_up_samples(done)

    def _take_up_samples(self, done: int) -> None:
        """Without those of later steps; a line that a stopped process did not finish is of one."""
        with disk_errors(self._samples, "read"):
            found = self._samples.read_bytes().splitlines(keepends=True) if done and self._samples.exists() else []
        kept = [line for line in found if line.endswith(b"\n") and 0 < _read(line).get("step", 0) <= done]
        write_bytes_atomic(self._samples, b"".join(kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or BETA_METRIC not in logs:
            return  # TRL's summary at the end
        step = self._trainer.step
        if odd := [name for name in (GRADIENT, KL_METRIC) if not math.isfinite(logs.get(name, 0.0))]:
            raise diverged(step, f"{odd[0]} is {logs[odd[0]]}")
        kept = {name: value for name, value in logs.items() if name not in LEFT_OUT}
        bill = {} if self._reward is None else {SCORING: self._bill(self._reward.usage)}
        self.lines.append({"step": step, **kept, NEXT_BETA: self._trainer.beta, **bill})
        if self._trainer.is_world_process_zero():
            with disk_errors(self._path, "write"), self._path.open("ab") as file:
                file.write(dump_json(self.lines[-1]) + b"\n")
            if (step - 1) % self._samples_every == 0:
                lines = [dump_json({"step": step, **sample}) + b"\n" for sample in self._trainer.samples]
                with disk_errors(self._samples, "write"), self._samples.open("ab") as file:
                    file.write(b"".join(lines))
        self._keep(step)
        self._on_step(step, self.lines[-1])

    def _bill(self, usage: RoleUsage) -> dict[str, float]:
        """The sum over processes, each of which scores its own share."""
        parallel, mine = self._trainer.accelerator, asdict(usage)
        total = parallel.reduce(torch.tensor(list(mine.values()), dtype=torch.float64, device=parallel.device), "sum")
        return {name: type(value)(found) for (name, value), found in zip(mine.items(), total.tolist(), strict=True)}


def _read(line: bytes) -> dict[str, Any]:
    """A line of the log; nothing for one that is damaged, as a power cut can leave it."""
    try:
        found = parse_json(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
