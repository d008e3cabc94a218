"""The family as panels: at most four, each with the lines that are for its direction."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferalign.reports.families import family_panel, thinned, write_family
from inferalign.theory.curves import TRANSFORMS, Point


def point(procedure: str, transform: str, kl: float = 0.5) -> Point:
    return Point(procedure, transform, kl, 1.0, 0.8, 0.2, 0.7)


@pytest.mark.parametrize(
    ("procedure", "lines"),
    [
        ("best-of-n:4", ["identity", "log", "exp:5", "exp:10", "one-shot", "optimal"]),
        ("worst-of-n:4", ["identity", "log", "exp:-5", "exp:-10", "one-shot", "optimal"]),
        ("black box (9 outputs, Beta mixture)", ["identity", "log", "exp:10", "exp:-10", "optimal"]),
    ],
)
def test_lines_of_a_panel(procedure: str, lines: list[str]) -> None:
    panel = family_panel([point(procedure, name) for name in TRANSFORMS])
    assert [series.name for series in panel.series] == lines
    assert panel.series[0].y[0].mean == pytest.approx(80.0)


def test_at_most_four_panels() -> None:
    assert thinned(["a", "b"]) == ["a", "b"]
    assert thinned(["a", "b", "c", "d", "e"]) == ["a", "b", "c", "e"]


def test_the_file_is_an_svg_and_the_same_again(tmp_path: Path) -> None:
    points = [point(name, "optimal", kl) for name in ("sample", "best-of-n:2") for kl in (0.1, 0.5)]
    first = write_family(tmp_path / "a.svg", points).read_bytes()
    assert b"best-of-n:2" in first or b"<svg" in first
    assert write_family(tmp_path / "b.svg", points).read_bytes() == first
