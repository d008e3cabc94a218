"""Workers on a run folder: what they have recorded, and which of their messages says why a run failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferalign.cli.workers import failure, generate, recorded
from inferalign.core.errors import RunError
from inferalign.core.records import RunFolder


def test_recorded_counts_units_of_all_shards(tmp_path: Path) -> None:
    assert recorded(tmp_path) == 0
    for shard, ids in (("1/2", "abc"), ("2/2", "de")):
        with RunFolder.open(tmp_path, {}, {}, shard) as folder:
            for name in ids:
                folder.append({"id": name})
    assert recorded(tmp_path) == 5


def test_a_worker_that_fails_is_quoted(tmp_path: Path) -> None:
    arguments = ["--model", "sandbox", "--procedure", "sample", "--prompts", str(tmp_path / "prompts.jsonl")]
    with pytest.raises(RunError, match="a label: a worker ended with code 1: no file"):
        generate(tmp_path / "run", arguments, "a label", 2)


def test_the_worker_that_failed_is_quoted_and_not_the_one_stopped_for_it() -> None:
    assert failure([(130, "stopped; 3 finished and kept"), (1, "the disk is full")]) == (1, "the disk is full")
    assert failure([(-2, "no message"), (1, "the disk is full")]) == (1, "the disk is full")
    assert failure([(0, "no message"), (130, "stopped")]) == (130, "stopped")
    assert failure([(0, "no message"), (0, "no message")]) is None
