"""Figures: what is in them, that they are the same file twice, and what is said where matplotlib is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inferalign.core.errors import InputError, RunError
from inferalign.core.stats import Estimate, wilson
from inferalign.reports.figures import Panel, Series, draw, write_figure

LINE = Series(name="oracle", x=[4, 1, 2], y=[wilson(9, 10), wilson(5, 10), Estimate.empty()])
BARE = Series(name="guide", x=[1], y=[Estimate(mean=0.7, low=None, high=None, n=1)])
PANEL = Panel(
    title="harmful", x_label="N", y_label="share", series=[LINE, BARE], log_x=True, y_range=(0.0, 1.0), zero=True
)


def test_points_are_in_order_and_empty_cells_are_left_out() -> None:
    (axes,) = draw([PANEL]).axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("harmful", "N", "share")
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["oracle"].get_xdata()) == [1, 4]
    assert list(lines["oracle"].get_ydata()) == [0.5, 0.9]
    (intervals,) = axes.containers  # of the line that has any
    low, high = intervals.lines[2][0].get_segments()[0][:, 1]
    first = wilson(5, 10)
    assert (low, high) == pytest.approx((first.low, first.high))
    assert list(lines["guide"].get_ydata()) == [0.7]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["oracle", "guide"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert axes.get_ylim() == (0.0, 1.0)


def test_measured_points_are_marked_and_computed_curves_are_not() -> None:
    many = [Estimate(mean=i / 100, low=None, high=None, n=1) for i in range(100)]
    panel = Panel(title="", x_label="", y_label="", series=[LINE, Series(name="curve", x=range(100), y=many)])
    (axes,) = draw([panel]).axes
    assert {line.get_label(): line.get_marker() for line in axes.lines if line.get_label() in ("oracle", "curve")} == {
        "oracle": "o",
        "curve": "",
    }


def test_a_name_with_dollars_is_no_formula(tmp_path: Path) -> None:
    odd = Panel(title="a$b^{$", x_label="", y_label="", series=[Series(name="x$y^{$", x=LINE.x, y=LINE.y)])
    assert b"x$y^{$" in write_figure(tmp_path / "odd.svg", [odd]).read_bytes()


def test_a_name_with_an_underscore_before_it_is_in_the_legend() -> None:
    (axes,) = draw([Panel(title="", x_label="", y_label="", series=[Series(name="_mine", x=LINE.x, y=LINE.y)])]).axes
    assert [text.get_text().strip() for text in axes.get_legend().get_texts()] == ["_mine"]


def test_one_pair_of_axes_a_panel() -> None:
    assert len(draw([PANEL, PANEL, PANEL]).axes) == 3
    with pytest.raises(InputError, match="without panels"):
        draw([])


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    first, second = (write_figure(tmp_path / name, [PANEL]).read_bytes() for name in ("a/b.svg", "c.svg"))
    assert first == second
    assert first.startswith(b"<?xml")
    assert write_figure(tmp_path / "c.png", [PANEL]).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="cannot write"):
        write_figure(tmp_path / "c.svg" / "d.svg", [PANEL])


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'inferalign\[report\]'"):
        draw([PANEL])
