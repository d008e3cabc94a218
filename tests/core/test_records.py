import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inferalign.core.errors import InputError, RunError
from inferalign.core.records import RunFolder, done_ids, read_records

CONFIG = {"seed": 0, "sampling": {"top_k": None, "temperature": 1.0}, "stops": ("a", "b")}
ENV = {"python": "3.11"}


def test_a_run_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", CONFIG, ENV) as run:
        assert run.wants("a")
        run.append({"id": "a", "v": 1})
        assert not run.wants("a")
    with RunFolder.open(tmp_path / "run", CONFIG, ENV) as run:
        assert run.done == {"a"}
        assert (run.wants("a"), run.wants("b"), run.torn_bytes) == (False, True, 0)
        run.append({"id": "b", "v": 2})
    assert [record["v"] for record in read_records(tmp_path / "run", "generate")] == [1, 2]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {**CONFIG, "stops": ["a", "b"]}
    assert json.loads((tmp_path / "run" / "env.json").read_text()) == ENV


def test_no_id_is_recorded_twice(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, ENV) as run:
        run.append({"id": "a"})
        with pytest.raises(RunError, match=r"main\.jsonl: id 'a' is already recorded"):
            run.append({"id": "a"})
        with pytest.raises(RunError, match='needs a text "id", got None'):
            run.append({"v": 1})
    assert [record["id"] for record in read_records(tmp_path)] == ["a"]


def test_a_refused_record_is_still_wanted(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, ENV) as run:
        with pytest.raises(RunError, match="score is nan"):
            run.append({"id": "a", "score": float("nan")})
        assert run.wants("a")


def test_another_configuration_is_refused_key_by_key(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, ENV) as run:
        run.append({"id": "a"})
    other = {"seed": 1, "sampling": {"temperature": 1.0, "min_p": 0.1}, "stops": ["a", "b"]}
    with pytest.raises(RunError) as caught:
        RunFolder.open(tmp_path, other, ENV)
    message = str(caught.value)
    assert "sampling.min_p is absent there and 0.1 here" in message
    assert "sampling.top_k is null there and absent here" in message
    assert "seed is 0 there and 1 here" in message
    assert "stops" not in message
    assert "temperature" not in message
    assert "another --run, or remove the folder" in message
    RunFolder.open(tmp_path, CONFIG, ENV).close()  # and nothing is locked or changed


def test_settings_of_which_nothing_came_may_be_corrected(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, ENV).close()
    with pytest.raises(RunError, match="records of kind 'generate', expected 'plan'"):
        RunFolder.open(tmp_path, {"seed": 1}, ENV, kind="plan")
    with RunFolder.open(tmp_path, {"seed": 1}, ENV) as run:
        run.append({"id": "a"})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}
    with pytest.raises(RunError, match="seed is 1 there and 2 here"):
        RunFolder.open(tmp_path, {"seed": 2}, ENV)


def test_the_environment_of_settings_that_were_corrected_goes_with_them(tmp_path: Path) -> None:
    for model in ("wrong", "right"):
        RunFolder.open(tmp_path, {"model": model}, {"model": model}).close()
    assert {p.name: json.loads(p.read_text()) for p in tmp_path.glob("env*.json")} == {"env.json": {"model": "right"}}


def test_a_configuration_that_no_run_wrote_is_not_replaced(tmp_path: Path) -> None:
    """A model's folder, or another command's, given as a run folder."""
    (tmp_path / "config.json").write_text('{"model_type":"llama"}')
    for _ in range(2):
        with pytest.raises(RunError, match='model_type is "llama" there and absent here'):
            RunFolder.open(tmp_path, CONFIG, ENV)
    assert (tmp_path / "config.json").read_text() == '{"model_type":"llama"}'


def test_settings_that_another_process_works_by_are_not_corrected(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path, {"seed": 1}, ENV, shard="1/2"),
        pytest.raises(RunError, match="seed is 1 there and 2 here"),
    ):
        RunFolder.open(tmp_path, {"seed": 2}, ENV, shard="2/2")
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}


def test_records_without_a_configuration_are_not_continued(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, ENV).close()
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunError, match=r"main\.jsonl has no config\.json"):
        RunFolder.open(tmp_path, CONFIG, ENV)
    assert not (tmp_path / "config.json").exists()


def test_other_environments_are_kept_beside_the_first(tmp_path: Path) -> None:
    for env in ({"v": 1}, {"v": 2}, {"v": 1}, {"v": 3}, {"v": 2}):
        RunFolder.open(tmp_path, CONFIG, env).close()
    found = {p.name: json.loads(p.read_text()) for p in tmp_path.glob("env*.json")}
    assert found == {"env.json": {"v": 1}, "env-2.json": {"v": 2}, "env-3.json": {"v": 3}}


def test_siblings_share_a_run_and_nobody_else_may(tmp_path: Path) -> None:
    first = RunFolder.open(tmp_path, CONFIG, ENV, shard="1/2")
    second = RunFolder.open(tmp_path, CONFIG, ENV, shard="2/2")
    for shard in (None, "1/3", "1/4"):
        with pytest.raises(RunError, match=rf"process {os.getpid()} is writing shard 'shard-1-of-2'.*of the same N"):
            RunFolder.open(tmp_path, CONFIG, ENV, shard=shard)
    with pytest.raises(RunError, match="is being written by process"):
        RunFolder.open(tmp_path, CONFIG, ENV, shard="1/2")
    ids = [f"p{i}" for i in range(20)]
    for run in (first, second):
        for item in ids:
            if run.wants(item):
                run.append({"id": item})
        run.close()
    assert done_ids(tmp_path) == set(ids)
    assert len(list(read_records(tmp_path))) == 20
    with RunFolder.open(tmp_path, CONFIG, ENV) as run:
        assert run.done == set(ids)


def test_a_malformed_shard_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--shard 1/4"):
        RunFolder.open(tmp_path / "run", CONFIG, ENV, shard="4/1")
    assert not (tmp_path / "run").exists()


def test_an_id_in_two_shards_names_both_lines(tmp_path: Path) -> None:
    for shard in (None, "1/2"):
        RunFolder.open(tmp_path, CONFIG, ENV, shard=shard).close()
    for path in (tmp_path / "records").glob("*.jsonl"):
        with path.open("a") as file:
            file.write('{"id":"a"}\n')
    with pytest.raises(RunError, match=r"'a' is recorded twice, at .*main\.jsonl:2 and at .*shard-1-of-2\.jsonl:2"):
        list(read_records(tmp_path))


def test_a_folder_without_records_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no records/\*\.jsonl: expected the --run folder"):
        list(read_records(tmp_path))


def test_a_damaged_record_stops_the_opening_and_frees_the_lock(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, ENV).close()
    path = tmp_path / "records" / "main.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"oops\n")
    with pytest.raises(RunError, match=r"main\.jsonl:2"):
        RunFolder.open(tmp_path, CONFIG, ENV)
    path.write_bytes(whole)
    RunFolder.open(tmp_path, CONFIG, ENV).close()


def test_records_of_another_kind_are_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, ENV, kind="calibrate").close()
    with pytest.raises(RunError, match="kind 'calibrate', expected 'generate'"):
        RunFolder.open(tmp_path, CONFIG, ENV)


ENDLESS_WRITER = """
import itertools, sys
from inferalign.core.records import RunFolder
with RunFolder.open(sys.argv[1], {"seed": 0}, {}) as run:
    for i in itertools.count():
        if run.wants(str(i)):
            run.append({"id": str(i), "text": "x" * 5000})
            if len(run.done) % 20 == 0:
                sys.stdout.write("more\\n")
                sys.stdout.flush()
"""


def test_kill_9_loses_no_record_and_frees_the_lock(tmp_path: Path) -> None:
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"more\n"
            with pytest.raises(RunError, match=f"is being written by process {process.pid}"):
                RunFolder.open(tmp_path, {"seed": 0}, {})
            process.send_signal(signal.SIGKILL)
            process.wait()
    with RunFolder.open(tmp_path, {"seed": 0}, {}) as run:
        count = len(run.done)
        assert count >= 40
        assert run.done == {str(i) for i in range(count)}
