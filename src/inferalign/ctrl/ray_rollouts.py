"""Reference rollouts on a Ray cluster: Ray Data over prompts, one model and one reward in each worker.

A row is one prompt, and its work is `Roller`'s, whole and alone: the same tokens and scores as in one process. Rows
come back as they are done and are recorded by this process, so that a stopped job goes on where it was, here or there.

Without RAY_ADDRESS a cluster of this machine alone is started: on the loopback address, without dashboard, its files
in a private folder that goes with it. With RAY_ADDRESS (Ray's own variable) the job joins that cluster, where the
model's path must lead to the same files on every node, and the same inferalign must be installed. Ray's usage reports
are off unless RAY_USAGE_STATS_ENABLED is set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

# Read by Ray when it is imported, here and in the processes that it starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # off means: loopback, on every system
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # stderr has the progress bar

import ray
import ray.data
from ray.exceptions import RayError

from inferalign.core.config import to_dict
from inferalign.core.errors import InferalignError, InputError, RunError
from inferalign.core.files import dump_json, parse_json
from inferalign.core.jobs import Progress
from inferalign.core.types import Message, Prompt
from inferalign.ctrl.roller import Job, Stored
from inferalign.ctrl.rollout_records import Rollouts, from_record, to_record
from inferalign.ctrl.rollouts import Local

LOOPBACK = "127.0.0.1"
_SHOWN = 5


class Worker:
    """What one worker process holds; Ray Data calls it with one row after the other."""

    def __init__(self, job: Job) -> None:
        self.roller = job.load()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The record as JSON bytes, or else why there is none: one prompt's error must not end the others' work."""
        prompt, drawn = _prompt(row["prompt"]), row["drawn"]
        try:
            if drawn:
                rollouts = asyncio.run(self.roller.score_again(Stored(prompt, from_record(parse_json(drawn)))))
            else:
                rollouts = asyncio.run(self.roller(prompt))
        except InferalignError as error:
            return {"id": prompt.id, "record": b"", "error": str(error)}
        return {"id": prompt.id, "record": dump_json(to_record(rollouts)), "error": ""}


class OnRay:
    """A `rollouts.Source` on a cluster, which lives as long as its `with`."""

    def __init__(self, job: Job, workers: int) -> None:
        """Raises `InputError` for fewer than 1 worker."""
        if workers < 1:
            raise InputError(f"ray is {workers}: give the number of workers, at least 1, such as --ray 2")
        self.job = job
        self.workers = workers
        self._cluster = ExitStack()

    def __enter__(self) -> OnRay:
        self._cluster.enter_context(_cluster(self.workers))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.close()

    def facts(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """As a worker sees them: its device and arithmetic, not those of this process.

        Raises as `Job.load` and `Source.facts` do.
        """
        rows = [as_row(prompt) for prompt in prompts]
        with _ray_errors():
            found: dict[str, Any] = ray.get(ray.remote(_facts).options(**self._resources()).remote(self.job, rows))
        return found

    def make(self, prompts: Sequence[Prompt], keep: Callable[[Mapping[str, Any]], None], progress: Progress) -> None:
        """As `Source.make`."""
        self._map([as_row(prompt) for prompt in prompts], keep, progress)

    def score_again(
        self, stored: Iterable[Stored], keep: Callable[[Mapping[str, Any]], None], progress: Progress
    ) -> None:
        """As `Source.score_again`. All that is stored is in the cluster's memory at once."""
        self._map([as_row(*each) for each in stored], keep, progress)

    def _map(
        self, items: Sequence[Mapping[str, bytes]], keep: Callable[[Mapping[str, Any]], None], progress: Progress
    ) -> None:
        """Every prompt is a block of its own, so that its record is kept when it is done."""
        rows = ray.data.from_items(items, override_num_blocks=len(items)).map(
            Worker,
            fn_constructor_args=(self.job,),
            compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=1),
            **self._resources(),
        )
        failed: list[str] = []
        with _ray_errors():
            for row in rows.iter_rows():
                if row["error"]:
                    failed.append(f"{row['id']}: {row['error']}")
                else:
                    keep(parse_json(row["record"]))
                progress.advance(1)
        if failed:
            more = f" ... and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
            raise RunError(
                f"{len(failed)} of {len(items)} items failed: {'; '.join(failed[:_SHOWN])}{more}. What finished is "
                "kept; repeat to try the failed ones again."
            )

    def _resources(self) -> dict[str, float]:
        """One processor a worker, and one GPU where there are some and the model may take it."""
        wants = self.job.options.device == "cuda" or (
            self.job.options.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
        )
        return {"num_cpus": 1, "num_gpus": 1} if wants else {"num_cpus": 1}


def as_row(prompt: Prompt, drawn: Rollouts | None = None) -> dict[str, bytes]:
    """A row of the dataset, with the rollouts that are only to be scored again. Plain JSON: nothing is pickled."""
    return {"prompt": dump_json(to_dict(prompt)), "drawn": b"" if drawn is None else dump_json(to_record(drawn))}


def _prompt(data: bytes) -> Prompt:
    value = parse_json(data)
    messages = tuple(Message(**message) for message in value["messages"])
    ids = value["token_ids"]
    return Prompt(id=value["id"], messages=messages, meta=value["meta"], token_ids=None if ids is None else tuple(ids))


def _facts(job: Job, rows: Sequence[Mapping[str, bytes]]) -> dict[str, Any]:
    return Local(job.load(), 1).facts([_prompt(row["prompt"]) for row in rows])


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """The cluster that this process is in already, the one that RAY_ADDRESS names, or a private one."""
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = settings.print_on_execution_start = False  # ours is the only bar
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as ours:
        if "RAY_ADDRESS" in os.environ:
            _start(**quiet)
        else:
            # Ray's sockets lie in it, and a socket's path may have 107 bytes: the shortest name that is private.
            place = ours.enter_context(tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True))
            _start(address="local", num_cpus=workers, include_dashboard=False, _temp_dir=place, **quiet)
        ours.callback(ray.shutdown)
        if "RAY_ADDRESS" not in os.environ and ray.util.get_node_ip_address() != LOOPBACK:
            raise RunError(
                "ray was imported before inferalign could tell it to listen on this machine alone: set "
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, or start a cluster of your own with ray.init()"
            )
        yield


def _start(**settings: Any) -> None:
    try:
        ray.init(**settings)
    except Exception as error:  # Ray raises bare ones here, such as for a node that takes more than its 30 s to start
        ray.shutdown()
        where = os.environ.get("RAY_ADDRESS", "on this machine")
        raise RunError(
            f"no Ray cluster could be started or joined ({where}): {_last_line(error)}. Check RAY_ADDRESS, or leave "
            "out --ray"
        ) from error


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Our own errors out of a worker as they were raised there; Ray's as `RunError`."""
    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, InferalignError):
            raise cause from None
        raise RunError(
            f"the Ray job stopped: {_last_line(error)}. What finished is kept; repeat the same command to go on"
        ) from error


def _last_line(error: Exception) -> str:
    """What Ray says after a worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
