"""The study's prices."""

from __future__ import annotations

import pytest

from benchmarks.sandbox_study import points_per


def test_points_are_divided_by_material_spend_alone() -> None:
    assert points_per(0.2, 3.0, 1.0) == pytest.approx(10.0)
    assert points_per(0.02, 1.001, 1.0) is None, "2,000 points a unit would be noise"
    assert points_per(0.02, 0.9, 1.0) is None
