"""The KL-win-rate family as a figure in the style of InfAlign (arXiv 2412.19792): transforms beside the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inferalign.core.stats import Estimate
from inferalign.reports.figures import Panel, Series, write_figure
from inferalign.theory.curves import Point

SHOWN = {
    "best": ("identity", "log", "exp:5", "exp:10", "one-shot", "optimal"),
    "worst": ("identity", "log", "exp:-5", "exp:-10", "one-shot", "optimal"),
}
"""The lines of a panel by what the procedure keeps, from the plainest to the best."""
OTHERS = ("identity", "log", "exp:10", "exp:-10", "optimal")
"""The lines for a procedure of another kind."""
PANELS = 4


def write_family(path: Path, points: Sequence[Point]) -> Path:
    """Draw the family, one panel a procedure and at most `PANELS` of them, into `path` (.svg)."""
    procedures = list(dict.fromkeys(point.procedure for point in points))
    several = [name for name in procedures if name != "sample"] or procedures
    return write_figure(path, [family_panel([p for p in points if p.procedure == name]) for name in thinned(several)])


def thinned(procedures: Sequence[str]) -> Sequence[str]:
    """At most `PANELS` of them: the first ones, and the last."""
    if len(procedures) <= PANELS:
        return procedures
    return [*procedures[: PANELS - 1], procedures[-1]]


def family_panel(points: Sequence[Point]) -> Panel:
    """KL against win rate under one procedure, in percent."""
    procedure = points[0].procedure
    names = SHOWN.get(procedure.split("-")[0], OTHERS)
    return Panel(
        title=procedure,
        x_label="KL, nats",
        y_label="win rate under the procedure, %",
        series=[_series(name, [point for point in points if point.transform == name]) for name in names],
    )


def _series(name: str, points: Sequence[Point]) -> Series:
    return Series(
        name=name,
        x=[point.kl for point in points],
        y=[Estimate(n=1, mean=100 * point.win_rate, low=None, high=None) for point in points],
    )
