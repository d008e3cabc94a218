"""Each step's numbers to experiment trackers as well, by accelerate's classes for them; `steps.jsonl` has them anyway.

    RUN/tensorboard   what tensorboard reads, where it is asked for; the others keep theirs where they always do

A repeated command goes on in the same record: tensorboard drops the steps that are taken again, wandb and trackio know
the run by an id made of its folder. mlflow begins another one, unless MLFLOW_RUN_ID names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from inferalign.core.errors import InputError
from inferalign.core.lookup import did_you_mean
from inferalign.core.seeds import derive
from inferalign.ctrl.step_log import OnStep

PROJECT = "inferalign"
TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")


def check_trackers(names: Sequence[str]) -> None:
    """Raises `InputError` for a tracker that is not known, or not installed."""
    for name in names:
        if name not in TRACKERS:
            near = did_you_mean(name, TRACKERS)
            raise InputError(f"--report-to {name}: no such tracker.{near} Known: {', '.join(TRACKERS)}")
        if name not in {str(found) for found in get_available_trackers()}:
            raise InputError(f"--report-to {name}: it is not installed: pip install {name}")


@contextmanager
def reports(names: Sequence[str], run: Path, config: Mapping[str, Any]) -> Iterator[OnStep]:
    """What sends a step's line to the trackers; they are opened at the first one, and closed at the end.

    config: shown with the run.
    """
    opened: list[Any] = []

    def report(step: int, line: Mapping[str, Any]) -> None:
        if names and not opened:
            opened.extend(_opened(name, run, config, step) for name in dict.fromkeys(names))
        numbers = {name: value for name, value in flat(line).items() if isinstance(value, int | float)}
        for tracker in opened:
            tracker.log(numbers, step=step)

    try:
        yield report
    finally:
        for tracker in opened:
            tracker.finish()


def _opened(name: str, run: Path, config: Mapping[str, Any], step: int) -> Any:
    same = {"name": run.name, "resume": "allow"}
    place = f"{derive(0, str(run.resolve())):016x}"
    given: dict[str, dict[str, Any]] = {
        "mlflow": {"experiment_name": PROJECT, "run_name": run.name},
        "tensorboard": {"run_name": "", "logging_dir": str(run / "tensorboard"), "purge_step": step},
        "trackio": {"run_name": PROJECT, **same},
        "wandb": {"run_name": PROJECT, "id": place, **same},
    }
    tracker = LOGGER_TYPE_TO_CLASS[name](**given[name])
    tracker.start()
    shown = {key: value if isinstance(value, int | float | str) else str(value) for key, value in flat(config).items()}
    tracker.store_init_configuration(shown)
    return tracker


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Without mappings in mappings: their keys joined by a slash."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        made |= flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return made
