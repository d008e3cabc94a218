"""Families: which procedures and transforms they hold, and the CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from inferalign.core.errors import InputError
from inferalign.theory.blackbox import BetaMixture
from inferalign.theory.curves import TRANSFORMS, Point, curve, relatives, transforms_for, write_csv
from inferalign.theory.planner import find
from inferalign.theory.procedures import best_of_n, sample, worst_of_n


def test_relatives_share_the_direction_and_hold_the_procedure() -> None:
    assert [each.name for each in relatives(worst_of_n(3))][:4] == [
        "sample",
        "worst-of-n:2",
        "worst-of-n:3",
        "worst-of-n:4",
    ]
    assert relatives(sample()) == [sample()]
    unknown = BetaMixture([0.2, 0.8])
    assert relatives(unknown) == [unknown]
    assert "one-shot" not in transforms_for(unknown)
    assert tuple(transforms_for(best_of_n(4))) == TRANSFORMS


def test_a_curve_is_the_planner_and_rises_to_the_optimum(tmp_path: Path) -> None:
    points = list(curve(best_of_n(4), kls=(0.1, 0.5, 2.0)))
    assert len(points) == 3 * len(TRANSFORMS)
    best = {point.kl: point.win_rate for point in points if point.transform == "optimal"}
    for point in points:
        assert point.win_rate == find(best_of_n(4), point.transform, kl=point.kl).win.win
        assert point.win_rate <= best[point.kl] + 1e-9
    write_csv(tmp_path / "deep" / "c.csv", points)
    with (tmp_path / "deep" / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(points)
    assert float(rows[4]["win_rate"]) == pytest.approx(points[4].win_rate, rel=1e-9)


def test_names_with_commas_are_quoted_and_other_suffixes_refused(tmp_path: Path) -> None:
    point = Point("black box (9 outputs, Bernstein)", "identity", 0.1, 1.0, 0.6, 0.4, 0.55)
    write_csv(tmp_path / "c.csv", [point])
    with (tmp_path / "c.csv").open() as file:
        assert next(csv.DictReader(file))["procedure"] == point.procedure
    with pytest.raises(InputError, match=r"--curve .*c.csv"):
        write_csv(tmp_path / "c.txt", [point])
