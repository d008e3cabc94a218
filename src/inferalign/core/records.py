"""The run folder: what a long command leaves behind, and all that a report is built from.

    config.json             the settings that decide the results; once something is recorded, every later command on
                            the folder must bring the same
    env.json                versions and machine of the first session; env-2.json ... those of later, different ones
    records/main.jsonl      one line a finished unit (`shards`), or records/shard-1-of-4.jsonl ... for several writers

Killing a run at any moment and repeating the command finishes it: finished ids are not done again, and no id is
recorded twice. Put into `config` everything that decides a result (seeds, and hashes of model, prompts and
templates), and nothing that does not (the shard, the concurrency, the folder's own path).
Locks are `flock`s, so the folder needs a POSIX system.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from inferalign.core.errors import RunError
from inferalign.core.files import disk_errors, dump_json, parse_json, read_json, write_json_atomic
from inferalign.core.shards import ShardSpec, ShardWriter, active_writers, read_shard


class RunFolder:
    """A run folder open for writing one shard. Use it in a `with`, or call `close`."""

    def __init__(self, path: Path, shard: ShardSpec, writer: ShardWriter, done: set[str]) -> None:
        self.path = path
        self.shard = shard
        self.done = done
        """Ids recorded in any shard, at opening or by this writer since."""
        self.torn_bytes = writer.torn_bytes
        """Bytes of an unfinished last line that opening cut off: the unit is done again."""
        self._writer = writer

    @classmethod
    def open(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        env: Mapping[str, Any],
        shard: str | None = None,
        kind: str = "generate",
    ) -> RunFolder:
        """Make the folder, or take it up again.

        Args:
            config: JSON values; must equal the folder's `config.json` if there is one and something is recorded.
            env: JSON values, see `environment`.
            shard: `"1/4"` to do a quarter of the items beside three other processes; None to do all of them.
            kind: what the records are, written into the shard's header.

        Raises `RunError` when the folder was made by another configuration, when another process writes the same
        items, when a record is damaged and when the disk refuses; `InputError` for a malformed shard.
        """
        path, spec = Path(path), ShardSpec.parse(shard)
        records = path / "records"
        with disk_errors(records, "make"):
            records.mkdir(parents=True, exist_ok=True)
        with _opening(records):
            _check_writers(records, spec)
            _keep_config(path, config, kind)
            _keep_environment(path, env)
            writer = ShardWriter(records, spec.name, kind)
            try:
                done = done_ids(path, kind)
            except BaseException:  # whatever came, Ctrl-C too: nobody else would release the shard; it goes on up
                writer.close()
                raise
        return cls(path, spec, writer, done)

    def wants(self, item_id: str) -> bool:
        """Whether this writer still has the item to do."""
        return item_id not in self.done and self.shard.takes(item_id)

    def append(self, record: Mapping[str, Any], *, sync: bool = True) -> None:
        """Record one finished unit under its `"id"`. Raises `RunError` (NaN, full disk, an id recorded before).

        `sync=False`: somebody else makes it durable in time (`core.group_sync`).
        """
        item_id = record.get("id")
        if not isinstance(item_id, str):
            raise RunError(f'a record needs a text "id", got {item_id!r}.')
        if item_id in self.done:
            raise RunError(
                f"{self._writer.path}: id {item_id!r} is already recorded in this run. Give items unique ids."
            )
        self._writer.append(record, sync=sync)
        self.done.add(item_id)

    @property
    def unsynced(self) -> int:
        """Records that a power cut might still lose."""
        return self._writer.unsynced

    def flush(self) -> None:
        """Make everything appended so far durable."""
        self._writer.flush()

    def close(self) -> None:
        """Flush, and let other processes write the shard."""
        self._writer.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(path: Path | str, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Every record of a run, shard by shard in the order of their names.

    Raises `RunError` when `path` is no run folder, for a damaged line or header, and for an id recorded twice.
    """
    shards = sorted((Path(path) / "records").glob("*.jsonl"))
    if not shards:
        raise RunError(f"{path} holds no records/*.jsonl: expected the --run folder of an earlier command.")
    seen: dict[str, str] = {}
    for shard in shards:
        for number, record in read_shard(shard, kind):
            where = f"{shard}:{number}"
            if record["id"] in seen:
                raise RunError(
                    f"id {record['id']!r} is recorded twice, at {seen[record['id']]} and at {where}. Remove one line."
                )
            seen[record["id"]] = where
            yield record


def done_ids(path: Path | str, kind: str | None = None) -> set[str]:
    """The ids recorded in any shard of a run."""
    return {record["id"] for record in read_records(path, kind)}


@contextmanager
def _opening(records: Path) -> Iterator[None]:
    """One process at a time compares the configuration and takes its lock."""
    with disk_errors(records, "lock"):
        handle = os.open(records, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with disk_errors(records, "lock"):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _check_writers(records: Path, spec: ShardSpec) -> None:
    for name, owner in active_writers(records):
        if name != spec.name and spec.overlaps(name):
            raise RunError(
                f"{records.parent}: {owner} is writing shard {name!r}, which has items of {spec.name!r}. Wait for it, "
                "or start every process with --shard 1/N ... N/N of the same N."
            )


def _keep_config(path: Path, config: Mapping[str, Any], kind: str) -> None:
    wanted = parse_json(dump_json(config))
    file = path / "config.json"
    if not file.exists():
        if found := sorted((path / "records").glob("*.jsonl")):
            raise RunError(f"{found[0]} has no {file.name} to say how it was made. Restore it, or name another --run.")
        write_json_atomic(file, wanted)
        return
    changes = list(differences(read_json(file), wanted))
    if changes and _nothing_came(path / "records", kind):
        # A wrong address or key may be corrected without another folder; the environment was that of the wrong one.
        with disk_errors(path, "correct the settings of"):
            for old in path.glob("env*.json"):
                old.unlink()
        write_json_atomic(file, wanted)
    elif changes:
        raise RunError(
            f"{path} was made by another configuration: {'; '.join(changes)}. "
            "Repeat the command with the folder's own settings, name another --run, or remove the folder."
        )


def _nothing_came(records: Path, kind: str) -> bool:
    """Whether a run was begun here, has recorded nothing, and nobody else is about to.

    A folder without shards holds somebody else's `config.json`: a model's, or another command's. Raises `RunError` for
    records of another kind.
    """
    shards = sorted(records.glob("*.jsonl"))
    recorded = any(True for shard in shards for _ in read_shard(shard, kind))
    return bool(shards) and not recorded and not any(True for _ in active_writers(records))


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """`key is X there and Y here` for every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            name = f"{where}.{key}" if where else key
            if key not in old or key not in new:
                there, here = (_shown(side[key]) if key in side else "absent" for side in (old, new))
                yield f"{name} is {there} there and {here} here"
            else:
                yield from differences(old[key], new[key], name)
    elif old != new:
        yield f"{where or 'it'} is {_shown(old)} there and {_shown(new)} here"


def _shown(value: Any) -> str:
    text = dump_json(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _keep_environment(path: Path, env: Mapping[str, Any]) -> None:
    wanted = parse_json(dump_json(env))
    number, file = 1, path / "env.json"
    while file.exists():
        if read_json(file) == wanted:
            return
        number += 1
        file = path / f"env-{number}.json"
    write_json_atomic(file, wanted)
