from dataclasses import dataclass
from pathlib import Path

import pytest

from inferalign.core.config import read_toml, to_dict
from inferalign.core.errors import InputError
from inferalign.core.files import dump_json, parse_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    temperature: float = 0.5
    stops: frozenset[str] = frozenset({"b", "a"})


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    path: Path = Path("runs/x")
    shape: tuple[int, ...] = (1, 2)
    top_k: int | None = None


def test_to_dict_gives_json_values() -> None:
    wanted = {"inner": {"temperature": 0.5, "stops": ["a", "b"]}, "path": "runs/x", "shape": [1, 2], "top_k": None}
    assert to_dict(Outer()) == wanted
    assert parse_json(dump_json(to_dict(Outer()))) == wanted


def test_read_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("seed = 3\n[sampling]\ntop_k = 5\n")
    assert read_toml(tmp_path / "a.toml") == {"seed": 3, "sampling": {"top_k": 5}}


def test_bad_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*gone\.toml"):
        read_toml(tmp_path / "gone.toml")
    with pytest.raises(InputError, match="cannot read"):
        read_toml(tmp_path)
    (tmp_path / "a.toml").write_text("seed = 3\nmodel = sandbox\n")
    with pytest.raises(InputError, match=r"a\.toml is not TOML: .*line 2"):
        read_toml(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_bytes(b'a = "\xff"')
    with pytest.raises(InputError, match=r"b\.toml is not TOML"):
        read_toml(tmp_path / "b.toml")
