"""Each step's numbers to experiment trackers as well, by accelerate's classes for them; `steps.jsonl` has them anyway.

    RUN/tracking.json   what the trackers know this training by, so that a repeated command goes on in the same record
    RUN/tensorboard     what tensorboard reads, where it is asked for; the others keep theirs where they always do

A tracker that cannot be opened stops the training before it begins; one that fails later is left out with a warning.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json, write_json_atomic
from inferalign.core.lookup import did_you_mean

PROJECT = "inferalign"
TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")
IDS = "tracking.json"


def check_trackers(names: Sequence[str]) -> None:
    """Raises `InputError` for a tracker that is not known, or not installed."""
    for name in names:
        if name not in TRACKERS:
            near = did_you_mean(name, TRACKERS)
            raise InputError(f"--report-to {name}: no such tracker.{near} Known: {', '.join(TRACKERS)}")
        if name not in {str(found) for found in get_available_trackers()}:
            raise InputError(f"--report-to {name}: it is not installed: pip install {name}")


class Reports:
    """The trackers of one training."""

    def __init__(self, names: Sequence[str], run: Path, config: Mapping[str, Any]) -> None:
        """config: shown with the run."""
        self._names, self._run, self._config = list(dict.fromkeys(names)), run, config
        self._open: dict[str, Any] = {}

    def begin(self, done: int) -> None:
        """Open all, after so many steps of an earlier process. Raises `RunError` for one that cannot be opened."""
        if not self._names:
            return
        path = self._run / IDS
        ids = dict(read_json(path)) if done and path.is_file() else {"id": secrets.token_hex(8)}
        for name in self._names:
            tracker = LOGGER_TYPE_TO_CLASS[name](**self._arguments(name, ids, done))
            try:
                tracker.start()
                if not done:
                    tracker.store_init_configuration(_shown(self._config))
            except Exception as error:  # each tracker's client has errors of its own; every one goes on up as ours
                raise RunError(
                    f"--report-to {name}: it cannot be opened ({type(error).__name__}: {error}): "
                    "log in to it, or leave it out"
                ) from error
            self._open[name] = tracker
            if name == "mlflow":
                ids["mlflow"] = tracker.tracker.info.run_id
        write_json_atomic(path, ids)

    def step(self, step: int, line: Mapping[str, Any]) -> None:
        """Send a step's line."""
        numbers = {name: value for name, value in flat(line).items() if isinstance(value, int | float)}
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, numbers, step=step))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.finish)
        self._open = {}

    def _guarded(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  a tracker's failure is no reason to lose a training
            del self._open[name]
            warnings.warn(f"{name} gets no more numbers: {type(error).__name__}: {error}", stacklevel=2)

    def _arguments(self, name: str, ids: Mapping[str, str], done: int) -> dict[str, Any]:
        label, again = self._run.name, {"resume": "allow"}
        if name == "mlflow":
            return {"experiment_name": PROJECT, "run_name": label, "run_id": ids.get("mlflow")}
        if name == "tensorboard":
            return {"run_name": "", "logging_dir": str(self._run / "tensorboard"), "purge_step": done + 1}
        if name == "trackio":  # which knows a run by its name
            return {"run_name": PROJECT, "name": f"{label}-{ids['id'][:6]}", **again}
        return {"run_name": PROJECT, "name": label, "id": ids["id"], **again}


def _shown(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    found = flat(config).items()
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in found}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Without mappings in mappings: their keys joined by a slash."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        made |= flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return made
