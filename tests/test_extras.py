"""All extras install together: every requirement of every extra is met in the environment that runs the tests.

`make test` installs `.[local,train,dev]`, which is all of them; a new extra that the Makefile forgets fails here.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIREMENTS = sorted({*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)})


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_requirement_is_met(line: str) -> None:
    requirement = Requirement(line)
    assert requirement.specifier.contains(version(requirement.name), prereleases=True), version(requirement.name)


def test_make_test_installs_every_extra() -> None:
    installed = set(re.findall(r"\.\[([a-z,]+)\]", (ROOT / "Makefile").read_text())[-1].split(","))
    assert installed == set(EXTRAS)


def test_constraints_pin_what_the_extras_ask_for() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for line in REQUIREMENTS:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line
