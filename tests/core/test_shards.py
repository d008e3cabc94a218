import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core import shards
from inferalign.core.errors import InputError, RunError
from inferalign.core.shards import ShardLock, ShardSpec, ShardWriter, active_writers, read_shard

HEADER = b'{"schema":1,"kind":"test","shard":"main"}\n'


def write(records: Path, *items: dict[str, object]) -> Path:
    writer = ShardWriter(records, "main", "test")
    for item in items:
        writer.append(item)
    writer.close()
    return writer.path


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 9))
def test_every_item_belongs_to_exactly_one_part(item_id: str, count: int) -> None:
    assert sum(ShardSpec(i, count).takes(item_id) for i in range(1, count + 1)) == 1


def test_parts_are_about_equal() -> None:
    sizes = [sum(ShardSpec(i, 4).takes(f"p{n}") for n in range(4000)) for i in range(1, 5)]
    assert all(900 < size < 1100 for size in sizes)


def test_names() -> None:
    assert ShardSpec.parse(None).name == ShardSpec.parse("1/1").name == "main"
    assert ShardSpec.parse("2/4").name == "shard-2-of-4"


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/b", "-1/4", "1/4/2", "1 /4", "/4"])
def test_malformed_parts_say_what_to_type(text: str) -> None:
    with pytest.raises(InputError, match="such as --shard 1/4"):
        ShardSpec.parse(text)


def test_only_siblings_do_not_overlap() -> None:
    quarter = ShardSpec(1, 4)
    assert not quarter.overlaps("shard-2-of-4")
    assert all(quarter.overlaps(name) for name in ("shard-1-of-4", "shard-2-of-14", "shard-2-of-3", "main"))
    assert ShardSpec().overlaps("shard-1-of-4")


def test_lines_are_a_header_and_records(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a", "text": "é\n\u2028"}, {"id": "b"})
    assert path.read_bytes() == HEADER + '{"id":"a","text":"é\\n\u2028"}\n{"id":"b"}\n'.encode()
    assert list(read_shard(path, "test")) == [(2, {"id": "a", "text": "é\n\u2028"}), (3, {"id": "b"})]


def test_a_second_writer_learns_who_holds_the_lock(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "main", "test")
    with pytest.raises(
        RunError, match=rf"shard 'main' is being written by process {os.getpid()}\..*Where it has a --shard"
    ):
        ShardWriter(tmp_path, "main", "test")
    assert list(active_writers(tmp_path)) == [("main", f"process {os.getpid()}")]
    writer.close()
    assert list(active_writers(tmp_path)) == []
    ShardWriter(tmp_path, "main", "test").close()


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_last_line_is_cut_at_any_byte(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, {"id": "a"}, {"id": "b", "n": 12345})
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    kept = whole[: whole.rfind(b"\n", 0, len(whole) - cut) + 1]
    writer = ShardWriter(tmp_path, "main", "test")
    assert writer.torn_bytes == len(whole) - cut - len(kept)
    writer.append({"id": "c"})
    writer.close()
    assert path.read_bytes() == kept + b'{"id":"c"}\n'


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "main.jsonl").write_bytes(HEADER[:10])
    assert write(tmp_path, {"id": "a"}).read_bytes() == HEADER + b'{"id":"a"}\n'


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a"})
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 200_000)
    assert write(tmp_path).read_bytes() == whole


def test_readers_leave_out_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "a"})
    path.write_bytes(path.read_bytes() + b'{"id":"b"}')
    assert [record["id"] for _, record in read_shard(path)] == ["a"]


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    writer = ShardWriter(tmp_path, "main", "test")
    writer.append({"id": "a"})
    before = writer.path.read_bytes()
    written = 0

    def write_until_full(handle: int, data: memoryview) -> int:
        nonlocal written
        if written >= limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += real_write(handle, data[: limit - written])
        return written

    real_write = os.write
    monkeypatch.setattr(shards.os, "write", write_until_full)
    with pytest.raises(RunError, match=r"main\.jsonl: No space left on device\. The disk is full: free some space"):
        writer.append({"id": "b", "text": "long enough"})
    monkeypatch.undo()
    assert writer.path.read_bytes() == before
    writer.append({"id": "b"})
    writer.close()
    assert writer.path.read_bytes() == before + b'{"id":"b"}\n'


def test_a_value_json_cannot_hold_leaves_the_file_alone(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "main", "test")
    with pytest.raises(RunError, match=r"candidates\[0\]\.score is nan"):
        writer.append({"id": "a", "candidates": [{"score": float("nan")}]})
    writer.close()
    assert writer.path.read_bytes() == HEADER


def test_fsync_comes_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path, "main", "test")
    synced: list[int] = []
    clock = [0.0]
    monkeypatch.setattr(shards.os, "fsync", synced.append)
    monkeypatch.setattr(shards.time, "monotonic", lambda: clock[0])
    writer.flush()
    for i in range(2 * shards.SYNC_EVERY - 1):
        writer.append({"id": str(i)})
    assert len(synced) == 2  # the flush above, and one group
    clock[0] += shards.SYNC_SECONDS
    writer.append({"id": "late"})
    assert len(synced) == 3
    writer.close()
    assert len(synced) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops\n", "not a record"),
        (b"\n", "not a record"),
        (b"[]\n", "not a record"),
        (b'{"id": 3}\n', 'without a text "id"'),
        (b'{"id": "x", "v": NaN}\n', "NaN is not JSON"),
        (b"\x00\x00\n", "not a record"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, {"id": "a"})
    path.write_bytes(path.read_bytes() + line + b'{"id":"b"}\n')
    with pytest.raises(RunError, match=rf"main\.jsonl:3: .*{message}"):
        list(read_shard(path))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"schema":2,"kind":"test","shard":"main"}\n', "schema 2, this version reads 1"),
        (b'{"schema":1,"kind":"other","shard":"main"}\n', "kind 'other', expected 'test'"),
        (b'{"schema":1,"kind":"test","shard":"shard-1-of-2"}\n', "of shard 'shard-1-of-2'"),
        (b'{"id":"a"}\n', "schema None"),
    ],
)
def test_a_foreign_header_is_refused(tmp_path: Path, header: bytes, message: str) -> None:
    (tmp_path / "main.jsonl").write_bytes(header + b'{"id":"a"}\n')
    with pytest.raises(RunError, match=message):
        list(read_shard(tmp_path / "main.jsonl", "test"))


def test_a_failed_opening_lets_the_lock_go(tmp_path: Path) -> None:
    (tmp_path / "main.jsonl").mkdir()
    with pytest.raises(RunError, match="cannot open"):
        ShardWriter(tmp_path, "main", "test")
    ShardLock(tmp_path, "main").release()
