"""One writer's file of records: a header line, then one line a finished unit, only ever appended to.

    {"schema":1,"kind":"generate","shard":"main"}
    {"id":"p1", ...}

A line goes to the kernel when it is appended, so a killed process loses nothing, and to the disk every
`SYNC_EVERY` lines or `SYNC_SECONDS`, so a power cut loses little. A last line without its end is cut off when the
shard is opened again. Locks are `flock`s on `<shard>.lock`, which holds the writer's process id.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError, RunError
from inferalign.core.files import disk_errors, dump_json, parse_json, sync_directory

SCHEMA = 1
SYNC_EVERY = 32
SYNC_SECONDS = 2.0
TRAINING_LOCK = "training.lock"


@dataclass(frozen=True)
class ShardSpec:
    """Part `index` (from 1) of `count` equal parts of a run's items, decided by a hash of the item's id."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> ShardSpec:
        """`"1/4"` is the first of four parts; None is the whole. Raises `InputError`."""
        if text is None:
            return cls()
        index, slash, count = text.partition("/")
        numbers = index.isdecimal() and count.isdecimal() and slash
        if not numbers or not 1 <= int(index) <= int(count):
            raise InputError(f"shard {text!r}: expected PART/PARTS with 1 <= PART <= PARTS, such as --shard 1/4.")
        return cls(int(index), int(count))

    @property
    def name(self) -> str:
        return "main" if self.count == 1 else f"shard-{self.index}-of-{self.count}"

    def takes(self, item_id: str) -> bool:
        """Whether this part does the item. Every item belongs to exactly one of the `count` parts."""
        return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") % self.count == self.index - 1

    def overlaps(self, other_name: str) -> bool:
        """Whether a writer of the shard `other_name` may do the same items: all but a sibling part may."""
        sibling = other_name.startswith("shard-") and other_name.endswith(f"-of-{self.count}")
        return self.count == 1 or not sibling or other_name == self.name


class FileLock:
    """The exclusive right to what a file stands for, held until `release` or the end of the process."""

    def __init__(self, path: Path, what: str, advice: str = "", *, flag: str = "--run") -> None:
        """`what` is being written, and `advice` more to say. Raises `RunError` naming the process that holds it.

        flag: what the command line names the folder by.
        """
        self._path = path
        with disk_errors(self._path, "open"):
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with disk_errors(self._path, "lock"):
                if not _try_lock(self._handle):
                    raise RunError(
                        f"{what} is being written by {_owner(self._handle)}. Wait for it, end it, or give this command "
                        f"another {flag}.{advice}"
                    )
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, str(os.getpid()).encode(), 0)
        except RunError:
            os.close(self._handle)
            raise

    def release(self) -> None:
        os.close(self._handle)


class ShardLock(FileLock):
    """The exclusive right to write a shard."""

    def __init__(self, records: Path, name: str) -> None:
        more = " Where it has a --shard, 1/2 and 2/2 share it."
        super().__init__(records / f"{name}.lock", f"{records.parent}: shard {name!r}", more)


@contextmanager
def training_into(folder: Path, *, flag: str = "--run") -> Iterator[None]:
    """The right to train into a folder, which is made. Raises `RunError` where another training has it."""
    with disk_errors(folder, "train into"):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / TRAINING_LOCK, str(folder), flag=flag)
    try:
        yield
    finally:
        lock.release()


def active_writers(records: Path) -> Iterator[tuple[str, str]]:
    """(shard name, its owner in words) of every shard that some process is writing now."""
    for path in sorted(records.glob("*.lock")):
        with disk_errors(path, "open"):
            handle = os.open(path, os.O_RDWR)
        try:
            if not _try_lock(handle):
                yield path.stem, _owner(handle)
        finally:
            os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(handle: int) -> str:
    pid = os.pread(handle, 32, 0).decode()
    return f"process {pid}" if pid else "another process"


class ShardWriter:
    """Appends to one shard under its lock. `torn_bytes` is how much of an unfinished last line was cut off."""

    def __init__(self, records: Path, name: str, kind: str) -> None:
        self.path = records / f"{name}.jsonl"
        self._lock = ShardLock(records, name)
        try:
            with disk_errors(self.path, "open"):
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._open(name, kind)
            except BaseException:  # whatever came: no object is returned that could close this; it goes on up
                os.close(self._handle)
                raise
        except BaseException:  # likewise for the lock
            self._lock.release()
            raise

    def _open(self, name: str, kind: str) -> None:
        with disk_errors(self.path, "open"):
            found = os.fstat(self._handle).st_size
            self._size = _whole_lines(self._handle, found)
            self.torn_bytes = found - self._size
            if self.torn_bytes:
                os.ftruncate(self._handle, self._size)
            sync_directory(self.path.parent)
        self._unsynced = 0
        self._synced_at = time.monotonic()
        if self._size == 0:
            self._write(dump_json({"schema": SCHEMA, "kind": kind, "shard": name}) + b"\n")
            self.flush()

    def append(self, record: Mapping[str, Any], *, sync: bool = True) -> None:
        """Add one line. Raises `RunError` for a value that JSON cannot hold, and for a disk that is full.

        After either the file holds whole lines only, all of them appended before. `sync=False` leaves it to the caller
        to `flush` in time (`core.group_sync`).
        """
        self._write(dump_json(record) + b"\n")
        if sync and (self._unsynced >= SYNC_EVERY or time.monotonic() - self._synced_at >= SYNC_SECONDS):
            self.flush()

    @property
    def unsynced(self) -> int:
        """Lines that a power cut might still lose."""
        return self._unsynced

    def flush(self) -> None:
        """Make everything appended so far durable. May be called from another thread than `append`."""
        # Before the call, since a line that is appended while it runs may not be part of it.
        self._unsynced = 0
        with disk_errors(self.path, "write"):
            os.fsync(self._handle)
        self._synced_at = time.monotonic()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            os.close(self._handle)
            self._lock.release()

    def _write(self, line: bytes) -> None:
        with disk_errors(self.path, "write"):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
            except BaseException:  # Ctrl-C between two writes of a line, too: only whole lines stay; it goes on up
                os.ftruncate(self._handle, self._size)
                raise
        self._size += len(line)
        self._unsynced += 1


def _whole_lines(handle: int, size: int) -> int:
    """Bytes up to and with the last line end."""
    end = size
    while end > 0:
        start = max(0, end - 65536)
        cut = os.pread(handle, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def read_shard(path: Path, kind: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) of a shard, after checking its header. An unfinished last line is left out.

    Raises `RunError` with file and line for a line that is not a record, and for a header of another kind or schema.
    """
    with disk_errors(path, "read"), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            value = _record(line, f"{path}:{number}")
            if number == 1:
                _check_header(value, path, kind)
            elif not isinstance(value.get("id"), str):
                raise RunError(f'{path}:{number}: a record without a text "id". Remove the line to have it made again.')
            else:
                yield number, value


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise RunError(f"{where}: not a record ({error}). Remove the line to have it made again.") from error
    if not isinstance(value, dict):
        raise RunError(f"{where}: not a record. Remove the line to have it made again.")
    return value


def _check_header(header: Mapping[str, Any], path: Path, kind: str | None) -> None:
    if header.get("schema") != SCHEMA:
        raise RunError(
            f"{path}:1: schema {header.get('schema')!r}, this version reads {SCHEMA}. "
            "Read it with the inferalign that env.json names."
        )
    if header.get("shard") != path.stem:
        raise RunError(f"{path}:1: the header is of shard {header.get('shard')!r}. Give the file back its name.")
    if kind is not None and header.get("kind") != kind:
        raise RunError(f"{path}:1: records of kind {header.get('kind')!r}, expected {kind!r}. Name another folder.")
