"""The figure of an agency report: one panel a dimension, one line a model, as SVG that the page's style sheet colours.

Each panel is drawn 320 units wide, so that it fills a telephone and several stand side by side on a screen. A line
has the model's name, its mean and interval in figures and as a drawn range, and dotted below it the mean's bounds if
every unscored reply were worth 0, and 10.
"""

from __future__ import annotations

from collections.abc import Sequence

from inferalign.agency.analysis import Summary
from inferalign.core.stats import Estimate
from inferalign.reports.html import Html, clipped, element, join

WIDTH, LEFT, RIGHT = 320, 14, 306
TOP, STEP, BOTTOM = 40, 42, 26
COLOURS = 6
"""Classes `s0` ... `s5` of the style sheet; from the seventh model on they come again, told apart by the names."""
NAME = 30
"""Characters of a name that fit beside its figures."""


def panel(title: str, rows: Sequence[tuple[str, Summary]], *, number: int) -> Html:
    """One dimension: (name, mean) of each model, in percent from 0 to 100. `number` is unique in the page."""
    height = TOP + STEP * len(rows) + BOTTOM
    words = "; ".join(f"{name}: {spoken(mean)}" for name, mean in rows)
    labels = f"t{number} d{number}"
    parts = [
        element("title", title, id=f"t{number}"),
        element("desc", f"Mean scores in percent with 95 % intervals. {words}.", id=f"d{number}"),
        element("text", title, x=f"{LEFT}", y="24", class_="title"),
        *_axis(height),
    ]
    for place, (name, mean) in enumerate(rows):
        parts += _line(name, mean, TOP + STEP * place, place % COLOURS)
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_labelledby=labels)


def spoken(mean: Summary) -> str:
    """`61.2 [55.0, 67.1]` in percent, and how many replies have no score."""
    said = figures(mean.percent)
    return said if not mean.counts.unscored else f"{said}, {mean.counts.unscored} of {mean.counts.due} unscored"


def figures(estimate: Estimate) -> str:
    if estimate.mean is None:
        return "no score"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.1f}"
    return f"{estimate.mean:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _axis(height: int) -> list[Html]:
    base = height - BOTTOM
    parts = []
    for tick in (0, 25, 50, 75, 100):
        x = _number(_x(tick))
        parts.append(element("line", x1=x, x2=x, y1=f"{TOP - 4}", y2=f"{base}", class_="grid"))
        anchor = {0: "start", 100: "end"}.get(tick, "middle")
        text = f"{tick} %" if tick == 100 else f"{tick}"
        parts.append(element("text", text, x=x, y=f"{base + 17}", text_anchor=anchor, class_="tick"))
    return parts


def _line(name: str, mean: Summary, top: int, colour: int) -> list[Html]:
    shown, cut = clipped(name, NAME)
    percent, y, under = mean.percent, f"{top + 26}", f"{top + 35}"
    parts = [
        element("text", shown + ("…" if cut else ""), x=f"{LEFT}", y=f"{top + 14}"),
        element("text", figures(percent), x=f"{RIGHT}", y=f"{top + 14}", text_anchor="end", class_="value"),
    ]
    if percent.mean is None:
        return parts
    low, high = (_number(_x(10 * bound)) for bound in mean.bounds)
    if mean.counts.unscored:
        parts.append(element("line", x1=low, x2=high, y1=under, y2=under, class_="bound"))
    if percent.low is not None and percent.high is not None:
        x1, x2 = _number(_x(percent.low)), _number(_x(percent.high))
        parts.append(element("line", x1=x1, x2=x2, y1=y, y2=y, class_=f"range s{colour}"))
    parts.append(element("circle", cx=_number(_x(percent.mean)), cy=y, r="5", class_=f"s{colour}"))
    return parts


def figure(panels: Sequence[Html], caption: str) -> Html:
    return element("figure", element("div", join(panels), class_="panels"), element("figcaption", caption))


def _x(percent: float) -> float:
    return LEFT + (RIGHT - LEFT) * percent / 100


def _number(value: float) -> str:
    return f"{value:.2f}"
