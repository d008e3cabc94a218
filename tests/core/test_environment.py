import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from inferalign.core import environment as module
from inferalign.core.environment import environment
from inferalign.core.files import dump_json


def test_versions_and_machine() -> None:
    found = environment()
    assert found["inferalign"] == metadata.version("inferalign")
    assert found["libraries"]["numpy"] == metadata.version("numpy")
    assert (found["python"], found["cpu_count"]) == (platform.python_version(), os.cpu_count())
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
    dump_json(found)


def test_absent_libraries_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIBRARIES", ("numpy", "no-such-library"))
    assert list(environment()["libraries"]) == ["numpy"]


def test_no_git_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def test_the_commit_says_when_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "src" / "inferalign" / "core" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    monkeypatch.setattr(module, "__file__", str(file))
    assert environment()["commit"] is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "--no-verify", "-m", "x"]):
        subprocess.run([*git, *step], check=True)
    clean = environment()["commit"]
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    file.write_text("2")
    assert environment()["commit"] == f"{clean}-dirty"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from inferalign.core.environment import environment; environment(); "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'scipy', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
