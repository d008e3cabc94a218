import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import ModelError, RunError
from inferalign.core.files import disk_errors, dump_json, parse_json, read_json, write_json_atomic

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_what_is_written_reads_back(value: object) -> None:
    assert parse_json(dump_json(value)) == value


def test_our_own_errors_are_no_disk_errors(tmp_path: Path) -> None:
    """A `ModelError` is an `OSError`, so that transformers' callers may expect it."""

    def failing() -> None:
        with disk_errors(tmp_path, "save"):
            raise ModelError("no tokenizer")

    with pytest.raises(ModelError, match=r"^no tokenizer$"):
        failing()


def test_lone_surrogates_survive() -> None:
    assert parse_json(dump_json({"a": "x\ud800y"})) == {"a": "x\ud800y"}


def test_text_stays_readable() -> None:
    assert dump_json({"a": "Zürich"}) == '{"a":"Zürich"}'.encode()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"scores": [1.0, {"value": math.nan}]}, r"scores\[1\]\.value is nan"),
        ([math.inf], r"\[0\] is inf"),
        ({"a": {"b": -math.inf}}, r"a\.b is -inf"),
        ({"a": object()}, "a is of the type object"),
        (math.nan, "the value itself is nan"),
    ],
)
def test_unwritable_values_are_named(value: object, message: str) -> None:
    with pytest.raises(RunError, match=message):
        dump_json(value)


@pytest.mark.parametrize(
    "data", [b"NaN", b"[Infinity]", b'{"a": -1e999}', b'{"a": 1, "a": 2}', b"{", b'"\xff"', b"[" * 100_000, b"{} {}"]
)
def test_parsing_is_strict(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(data)


def test_atomic_write_is_private_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    write_json_atomic(path, {"a": 1})
    write_json_atomic(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    write_json_atomic(path, {"a": 1})

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inferalign.core.files.os.fsync", no_space)
    with pytest.raises(RunError, match=r"No space left.*free some space"):
        write_json_atomic(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_path_through_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_json_atomic(tmp_path / "file" / "config.json", {})


def test_damaged_json_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is not JSON"):
        read_json(tmp_path / "config.json")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), disk_errors(tmp_path, "read"):
        raise KeyError("a")
