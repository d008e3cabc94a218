"""`import inferalign` and `--help` cost no more than a bare interpreter, and torch stays in its three files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "inferalign"
TORCH = {"torch", "transformers", "trl", "accelerate", "datasets"}
HEAVY = {"numpy", "scipy", *TORCH}
TORCH_FILES = {
    "custom_generate.py",
    "custom_request.py",
    "ctrl/by_length.py",
    "ctrl/checks.py",
    "ctrl/data.py",
    "ctrl/doctor.py",
    "ctrl/offline.py",
    "ctrl/reference_draws.py",
    "ctrl/processes.py",
    "ctrl/rloo.py",
    "ctrl/run.py",
    "ctrl/saving.py",
    "ctrl/shared_prompts.py",
    "ctrl/step_log.py",
    "ctrl/tabular.py",
    "ctrl/trackers.py",
    "ctrl/trainer.py",
    "ctrl/vllm_draws.py",
    "engines/checkpoint.py",
    "engines/live.py",
    "engines/local.py",
    "engines/prefix.py",
    "engines/cpu_linear.py",
    "engines/deltas.py",
    "engines/draws.py",
    "engines/lane_attention.py",
    "engines/lanes.py",
    "engines/packed.py",
    "engines/scheduler.py",
    "engines/packed_check.py",
    "engines/plain_requests.py",
    "engines/tree_requests.py",
    "engines/tree_rows.py",
    "engines/weights.py",
    "sandbox/recipe.py",
    "sandbox/reward.py",
    "sandbox/reward_fit.py",
    "sandbox/training.py",
    "scorers/reward_delta.py",
    "scorers/reward_model.py",
}
LIGHT_FOLDERS = ("core", "cli")
PROBE = """
import sys
{action}
print("loaded:", *sorted({heavy} & sys.modules.keys()))
"""


def loaded_by(action: str) -> str:
    """The heavy packages in `sys.modules` after `action`, in a fresh interpreter: its last line."""
    code = PROBE.format(action=action, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def command(*arguments: str) -> str:
    return (
        f"from inferalign.cli.main import main\n"
        f"try:\n    code = main({list(arguments)!r})\n"
        f"except SystemExit as stop:\n    code = stop.code\n"
        f"assert not code, code"
    )


@pytest.mark.parametrize(
    "action",
    [
        "import inferalign",
        "import inferalign; inferalign.Prompt",
        command("--help"),
        command("generate", "--help"),
        command("calibrate", "--help"),
        "import inferalign.core.jobs, inferalign.core.records, inferalign.core.stats, inferalign.core.prompts",
    ],
)
def test_nothing_heavy_is_loaded(action: str) -> None:
    assert loaded_by(action) == "loaded:"


def test_the_probe_can_fail() -> None:
    assert loaded_by("import numpy") == "loaded: numpy"


def heavy_imports(source: str, names: set[str], *, inside_functions: bool) -> Iterator[int]:
    """Lines that import one of `names` when the code runs; what only type checkers see does not count."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo.extend(node.orelse)
        elif isinstance(node, ast.Import):
            if any(alias.name.split(".")[0] in names for alias in node.names):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in names:
                yield node.lineno
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def offenders(paths: list[Path], names: set[str], *, inside_functions: bool) -> list[str]:
    return [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in paths
        for line in heavy_imports(path.read_text(), names, inside_functions=inside_functions)
    ]


def test_torch_and_transformers_stay_in_their_files() -> None:
    others = [p for p in sorted(SOURCE.rglob("*.py")) if p.relative_to(SOURCE).as_posix() not in TORCH_FILES]
    assert offenders(others, TORCH, inside_functions=True) == []


def test_core_and_cli_import_nothing_heavy_when_loaded() -> None:
    light = [p for name in LIGHT_FOLDERS for p in sorted((SOURCE / name).rglob("*.py"))] + sorted(SOURCE.glob("*.py"))
    assert offenders(light, HEAVY, inside_functions=False) == []


def test_the_rules_can_fail() -> None:
    source = "if TYPE_CHECKING:\n    import torch\ndef f():\n    from torch.nn import Linear\nimport numpy as np\n"
    assert list(heavy_imports(source, TORCH, inside_functions=True)) == [4]
    assert list(heavy_imports(source, HEAVY, inside_functions=False)) == [5]
