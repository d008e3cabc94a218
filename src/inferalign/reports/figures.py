"""Line plots with intervals, as SVG: what the benchmarks draw. matplotlib (the extra `report`) is loaded when used.

A point without an interval is drawn bare, an empty estimate not at all. The same data give the same file, byte for
byte, with one version of matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors
from inferalign.core.lookup import load
from inferalign.core.stats import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by colour-blind eyes, and in grey by their markers (Okabe and Ito 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P")
MARKED = 25
"""Points a line from which on it is drawn without marks: a computed curve, not measurements."""
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "svg.hashsalt": "inferalign",
    "svg.fonttype": "none",
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: an estimate at each x."""

    name: str
    x: Sequence[float]
    y: Sequence[Estimate]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    """A logarithmic x axis, marked at the points themselves."""
    y_range: tuple[float, float] | None = None
    zero: bool = False
    """Draw the line y = 0, for differences."""


def draw(panels: Sequence[Panel]) -> Any:
    """The panels in rows of two, as a matplotlib `Figure`. Raises `InputError` without matplotlib or panels."""
    if not panels:
        raise InputError("a figure without panels was asked for: give at least one")
    rc_context = load("matplotlib:rc_context")
    figure_class = load("matplotlib.figure:Figure")
    with rc_context(STYLE):
        rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
        figure = figure_class(figsize=(5.4 * columns, 4.2 * rows), layout="constrained")
        for place, panel in enumerate(panels):
            _fill(figure.add_subplot(rows, columns, place + 1), panel)
    return figure


def write_figure(path: Path, panels: Sequence[Panel]) -> Path:
    """Draw the panels into `path`; its suffix decides the format (`.svg`, `.png`). Raises `RunError` for a bad disk."""
    figure = draw(panels)
    with disk_errors(path, "write"), load("matplotlib:rc_context")(STYLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A date would make every file a new one.
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _fill(axes: Any, panel: Panel) -> None:
    if panel.zero:
        axes.axhline(0.0, color="#888888", linewidth=1)
    for place, series in enumerate(panel.series):
        points = sorted(
            ((x, y) for x, y in zip(series.x, series.y, strict=True) if y.mean is not None), key=lambda point: point[0]
        )
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.plot(
            [x for x, _ in points],
            [y.mean for _, y in points],
            "-",
            marker=marker if len(points) <= MARKED else "",
            color=colour,
            markersize=5,
            linewidth=1.6,
            label=_plain(series.name),
        )
        spread = [(x, y) for x, y in points if any(_reach(y))]
        if spread:
            axes.errorbar(
                [x for x, _ in spread],
                [y.mean for _, y in spread],
                yerr=[[_reach(y)[side] for _, y in spread] for side in (0, 1)],
                fmt="none",
                ecolor=colour,
                elinewidth=1.1,
                capsize=3,
            )
    if panel.log_x:
        axes.set_xscale("log")
        # Eight marks fit; between those of several series of odd numbers, powers of ten do better.
        marks = sorted({x for series in panel.series for x in series.x})
        if len(marks) <= 8:
            axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
            axes.minorticks_off()
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    axes.set_title(_plain(panel.title))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.legend(framealpha=0.8, edgecolor="none")


def _reach(estimate: Estimate) -> tuple[float, float]:
    """How far the interval reaches below and above the mean; an interval that leaves the mean out is cut there."""
    if estimate.mean is None or estimate.low is None or estimate.high is None:
        return 0.0, 0.0
    return max(0.0, estimate.mean - estimate.low), max(0.0, estimate.high - estimate.mean)


def _plain(text: str) -> str:
    """A name as text: matplotlib sets what stands between dollars as a formula, and fails where it is none.

    It also leaves out of a legend what begins with an underscore; after a space it does not.
    """
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
