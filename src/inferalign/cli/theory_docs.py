"""Writes the tables of docs/theory.md and its figures: `python -m inferalign.cli.theory_docs` (or `make docs`).

A test compares the page with what this makes, so its numbers cannot go stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from inferalign.cli.pages import markdown_table, rewrite

if TYPE_CHECKING:
    from inferalign.theory.procedures import Selection

PAGE = Path(__file__).parents[3] / "docs" / "theory.md"
FIGURES = PAGE.parent / "figures"
KLS = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Columns of the win rates, nats."""
PROCEDURES = ("sample", "best-of-n:2", "best-of-n:4", "best-of-n:32", "worst-of-n:2", "worst-of-n:4", "worst-of-n:32")
GAIN_KLS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0)
"""Where the gain over the identity is looked for, nats."""
ANCHORS = (8, 32, 100, 1000)
RECIPES = (
    ("best-of-n:4", "identity", 0.5),
    ("best-of-n:4", "exp:10", 0.5),
    ("best-of-n:4", "optimal", 0.5),
    ("best-of-n:4", "exp:10", 2.0),
    ("best-of-n:32", "optimal", 0.5),
    ("worst-of-n:4", "exp:-10", 0.5),
    ("worst-of-n:4", "optimal", 0.5),
)
"""Whose loss to finite anchors is shown."""
CURVE_KLS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)


def win_rates() -> str:
    """KL x transform x N, in percent: shown as a losing rate where a win rate would round to 100."""
    from inferalign.theory.curves import curve
    from inferalign.theory.procedures import parse_selection

    rows = []
    for procedure in PROCEDURES:
        points = list(curve(parse_selection(procedure), kls=KLS))
        for transform in dict.fromkeys(point.transform for point in points):
            rates = [_rate(p.losing_rate) for p in points if p.transform == transform]
            rows.append([procedure, transform, *(f"**{r}**" if transform == "optimal" else r for r in rates)])
    return markdown_table(["procedure", "transform", *(f"KL {kl:g}" for kl in KLS)], rows)


def gains() -> str:
    """The largest gain over the identity at equal KL, by N."""
    from inferalign.theory.planner import find
    from inferalign.theory.procedures import best_of_n, worst_of_n

    def gain(selection: Selection, transform: str, kl: float) -> float:
        return find(selection, transform, kl=kl).win.win - find(selection, "identity", kl=kl).win.win

    rows = []
    for n in (2, 4, 8, 16, 32):
        cells = [str(n)]
        for selection, exponential in ((best_of_n(n), "exp:10"), (worst_of_n(n), "exp:-10")):
            for transform in (exponential, "optimal"):
                most, kl = max((gain(selection, transform, kl), kl) for kl in GAIN_KLS)
                cells.append(f"{100 * most:.1f} ({kl:g})")
        rows.append(cells)
    return markdown_table(
        ["N", "best-of-N, exp:10", "best-of-N, optimal", "worst-of-N, exp:-10", "worst-of-N, optimal"], rows
    )


def anchors() -> str:
    """The win rate lost to K anchors a prompt, in points, and the K for half a point."""
    from inferalign.theory.finite import anchored
    from inferalign.theory.planner import plan
    from inferalign.theory.procedures import parse_selection

    rows = []
    for procedure, transform, kl in RECIPES:
        selection = parse_selection(procedure)
        made = plan(selection, transform, kl=kl)
        losses = [made.recipe.win.win - anchored(selection, made.recipe.transform, k, kl).win_rate for k in ANCHORS]
        enough = f"{'about ' if made.as_json()['anchors_extrapolated'] else ''}{made.anchors:,}"
        rows.append([f"{procedure}, {transform}, KL {kl:g}", *(f"{100 * x:.1f}" for x in losses), enough])
    return markdown_table(["recipe", *(f"K={k}" for k in ANCHORS), "K for half a point"], rows)


TABLES: dict[str, Callable[[], str]] = {"win-rates": win_rates, "gains": gains, "anchors": anchors}


def render(page: str) -> str:
    """The page with each of its tables made again."""
    return rewrite(page, TABLES)


def draw() -> list[Path]:
    """Both figures. Raises `InputError` without matplotlib."""
    from inferalign.reports.families import write_family
    from inferalign.theory.curves import curve
    from inferalign.theory.procedures import best_of_n, worst_of_n

    written = []
    for name, make in (("best", best_of_n), ("worst", worst_of_n)):
        points = [point for n in (2, 4, 8, 32) for point in curve(make(n), kls=CURVE_KLS)]
        written.append(write_family(FIGURES / f"theory-{name}.svg", points))
    return written


def _rate(lose: float) -> str:
    """`87.15`, or `1-6e-10` where two decimals would say 100; nothing below 1e-12 is told apart."""
    if lose < 1e-12:
        return "1"
    return f"{100 * (1 - lose):.2f}" if lose >= 5e-5 else f"1-{lose:.0e}".replace("e-0", "e-")


def main() -> None:
    PAGE.write_text(render(PAGE.read_text()))
    for path in draw():
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
