"""One run as the agency reports read it: a folder of `agency run`, or an Inspect log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferalign.agency.records import Reply
from inferalign.agency.stored import Stored, read_run
from inferalign.agency.table import Arm
from inferalign.core.errors import RunError
from inferalign.core.files import read_json
from inferalign.core.lookup import load


@dataclass(frozen=True, kw_only=True)
class Run:
    """One folder, or one log."""

    name: str
    path: Path
    stored: Stored
    config: Mapping[str, Any]
    """Of the run; empty for a log that none was kept for."""
    environments: tuple[Mapping[str, Any], ...]
    """Versions and machine of each session that differed."""
    costs: Mapping[str, Any] | None
    """As the run's ledger wrote it; None where there is none."""
    due: frozenset[str]
    """The ids of the items that its arms were asked."""

    @property
    def silent(self) -> tuple[Arm, ...]:
        """What it set out to ask and has no reply of, such as a condition that the server refused."""
        subject = self.config.get("subject")
        name = subject.get("name") if isinstance(subject, Mapping) else None
        planned = [Arm(name, condition) for condition in conditions_of(self)] if name else []
        there = arms_of(self.stored.replies)
        return tuple(arm for arm in planned if arm not in there)


def read_one(path: Path, *, scorer: str | None = None, scale: tuple[float, float] | None = None) -> Run:
    """A run folder, or an Inspect log (`.eval`). Raises `RunError`, and `InputError` for an unusable log."""
    if path.suffix == ".eval":
        log = load("inferalign.agency.inspect_logs:import_log")(path, scorer=scorer, scale=scale)
        lost = {"samples that failed": log.failed, "samples without a score": log.unscored, "missing": log.missing}
        return Run(
            name=path.stem,
            path=path,
            stored=log.stored,
            config={**log.config, **lost},
            environments=(),
            costs=None,
            due=log.due,
        )
    stored = read_run(path)
    return Run(
        name=path.resolve().name,
        path=path,
        stored=stored,
        config=_config(path / "config.json"),
        environments=tuple(_environments(path)),
        costs=_read_if_there(path / "costs.json"),
        due=frozenset(item.id for item in stored.items),
    )


def conditions_of(run: Run) -> Mapping[str, Any]:
    """What the run wrote down of each of its conditions, by name; an Inspect task has one."""
    several, one = run.config.get("conditions"), run.config.get("condition")
    if isinstance(several, Mapping):
        return several
    if isinstance(one, Mapping) and "name" in one:
        return {one["name"]: {key: value for key, value in one.items() if key != "name"}}
    return {}


def arms_of(replies: Iterable[Reply]) -> tuple[Arm, ...]:
    return tuple(sorted({Arm(reply.subject, reply.condition) for reply in replies}))


def _environments(path: Path) -> list[Mapping[str, Any]]:
    """Each different `env*.json` of the run and of its stages, in the order of their names."""
    found: list[Mapping[str, Any]] = []
    for file in sorted([*path.glob("env*.json"), *path.glob("*/env*.json")]):
        if (environment := read_json(file)) not in found:
            found.append(environment)
    return found


def _config(path: Path) -> Mapping[str, Any]:
    found = _read_if_there(path)
    if not isinstance(found, Mapping | None):
        raise RunError(f"{path} is not what a run writes, an object: copy the run's folder again")
    return found or {}


def _read_if_there(path: Path) -> Any:
    return read_json(path) if path.exists() else None
