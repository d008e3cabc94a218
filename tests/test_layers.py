"""A file imports only from the rows above its own, or from its own folder without a cycle."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "inferalign"
ROWS = (
    "core",
    "theory",
    "engines",
    "scorers",
    "procedures",
    "sandbox",
    "winrate",
    "ctrl",
    "agency",
    "reports",
    "server",
    "cli",
)
"""Top to bottom."""
SURFACE = ("", "api", "custom_generate", "custom_request")
"""Modules that are in no folder ("" is `inferalign/__init__.py`). They stand beside `cli`."""
MODULES = {
    ".".join(("inferalign", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def imports(tree: ast.AST, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """(module of ours, line) of every import, also inside functions and for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "inferalign")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer; name the whole module"
            if node.module and node.module.split(".")[0] == "inferalign":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield (inner if inner in modules else node.module), node.lineno


def folder(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def row(module: str) -> int:
    name = folder(module)
    return len(ROWS) - 1 if name in SURFACE else ROWS.index(name)


def violations(modules: dict[str, Path], sources: dict[str, str]) -> list[str]:
    found = []
    for module, source in sources.items():
        for target, line in imports(ast.parse(source), modules):
            # the surface serves the command line, not vice versa
            beside = folder(target) in (folder(module), *SURFACE)
            if row(target) > row(module) or (row(target) == row(module) and not beside):
                found.append(f"{module}:{line} imports {target}")
    return found


def cycle(modules: dict[str, Path], sources: dict[str, str]) -> list[str]:
    """The modules of an import cycle, imports inside functions included."""
    graph = {
        module: {
            target
            for target, _ in imports(_without_type_checking(ast.parse(source)), modules)
            # Every module may ask the package for its version; the package's surface loads on first use only.
            if target != "inferalign"
        }
        for module, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _without_type_checking(tree: ast.Module) -> ast.Module:
    kept = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
    return ast.Module(body=kept, type_ignores=[])


def sources() -> dict[str, str]:
    return {module: path.read_text() for module, path in MODULES.items()}


def test_every_folder_has_a_row() -> None:
    assert {folder(module) for module in MODULES} - {*SURFACE} <= set(ROWS)


def test_files_import_from_rows_above_or_their_own_folder() -> None:
    assert violations(MODULES, sources()) == []


def test_no_import_cycle() -> None:
    assert cycle(MODULES, sources()) == []


def test_every_target_in_a_table_exists() -> None:
    """A `"inferalign.module:name"` string must name a thing that its module defines."""
    missing = []
    for module, source in sources().items():
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            if match := re.fullmatch(r"(inferalign(?:\.\w+)+):(\w+)", node.value):
                path = MODULES.get(match[1])
                if path is None or match[2] not in _defined(ast.parse(path.read_text())):
                    missing.append(f"{module}:{node.lineno} names {node.value}")
    assert missing == []


def _defined(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("inferalign.core.types", "from inferalign.engines.base import Engine"),
        ("inferalign.core.types", "from inferalign import api"),
        ("inferalign.engines.base", "def f():\n    import inferalign.scorers.base"),
        ("inferalign.api", "from inferalign.cli.main import main"),
        ("inferalign.engines.base", "if TYPE_CHECKING:\n    from inferalign.cli import main"),
    ],
)
def test_the_rule_can_fail(module: str, source: str) -> None:
    assert len(violations(MODULES, {module: source})) == 1


def test_the_cycle_rule_can_fail() -> None:
    loop = {
        "inferalign.core.types": "def f():\n    from inferalign.core import errors",
        "inferalign.core.errors": "import inferalign.core.types",
    }
    assert cycle(MODULES, loop)
