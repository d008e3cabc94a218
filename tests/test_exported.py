"""The public surface is what `__all__` says: no more, no less."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import inferalign


def test_all_is_sorted_and_each_name_loads() -> None:
    assert list(inferalign.__all__) == sorted(set(inferalign.__all__))
    for name in inferalign.__all__:
        assert getattr(inferalign, name).__name__ == name


def test_dir_shows_the_surface() -> None:
    assert {name for name in dir(inferalign) if not name.startswith("_")} == set(inferalign.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(inferalign.__file__).read_text())
    guarded = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    names = {
        alias.asname or alias.name
        for block in guarded
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == set(inferalign.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = inferalign.no_such_name


def test_star_import_gives_the_surface() -> None:
    code = (
        "from inferalign import *\nimport inferalign, sys\nsys.exit(set(inferalign.__all__) - set(globals()) != set())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
