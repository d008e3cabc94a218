"""The folder as a whole: its example is true, and it is light."""

import doctest
import subprocess
import sys

import inferalign.theory

PROBE = """
import sys
import inferalign.theory.calibration, inferalign.theory.grid, inferalign.theory.transforms
print(*sorted({"torch", "transformers", "scipy.stats", "pandas", "rich"} & sys.modules.keys()))
"""


def test_the_example_is_true() -> None:
    assert doctest.testmod(inferalign.theory) == (0, 7)


def test_nothing_heavy_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
