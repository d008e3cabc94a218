"""Records made durable in groups: few fsyncs, none forgotten, none failed in silence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from inferalign.core.errors import RunError
from inferalign.core.group_sync import GroupSync
from inferalign.core.records import RunFolder, read_records


def test_many_records_share_a_sync_and_the_last_one_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(tmp_path, {}, {}) as folder:
        synced, real = [], os.fsync
        monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle))[1])
        with GroupSync([folder], seconds=0.02) as records:
            for i in range(500):
                records.append(folder, {"id": str(i)})
            assert folder.unsynced == 500 or synced
            deadline = time.monotonic() + 10
            while folder.unsynced and time.monotonic() < deadline:
                time.sleep(0.005)
            assert folder.unsynced == 0
        assert 1 <= len(synced) < 100
        records.append(folder, {"id": "last"})
        assert folder.unsynced == 1
        before = len(synced)
    assert len(synced) > before
    assert len(list(read_records(tmp_path))) == 501


@pytest.mark.parametrize("more", [True, False], ids=["with the next record", "at the end"])
def test_a_sync_that_fails_is_raised(more: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says so once: the sync of a folder that is closed then passes."""
    troubles = iter([OSError(28, "No space left on device")])

    def full(handle: int) -> None:
        for error in troubles:
            raise error

    ended = []
    with RunFolder.open(tmp_path, {}, {}) as folder, monkeypatch.context() as patched:
        with pytest.raises(RunError, match="disk is full"), GroupSync([folder], seconds=0.01) as records:  # noqa: PT012
            patched.setattr(os, "fsync", full)
            records.append(folder, {"id": "first"})
            deadline = time.monotonic() + 10
            while folder.unsynced and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.05)
            if more:
                records.append(folder, {"id": "second"})
            ended.append(True)
        patched.undo()
    assert ended == ([] if more else [True])
    assert [record["id"] for record in read_records(tmp_path)] == ["first"]
