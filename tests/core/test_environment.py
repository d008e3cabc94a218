import os
import platform
import re
import subprocess
import sys
from importlib import metadata

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


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from inferalign.core.environment import environment; environment(); "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'scipy', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
