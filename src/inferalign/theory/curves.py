"""Families of curves: KL against win rate for every transform beside the optimum, for several procedures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from inferalign.core.errors import InputError
from inferalign.core.files import write_bytes_atomic
from inferalign.theory.planner import find
from inferalign.theory.procedures import OfN, Selection

TRANSFORMS = ("identity", "log", "exp:5", "exp:10", "exp:-5", "exp:-10", "one-shot", "optimal")
"""Those of arXiv 2412.19792, the one-shot form, and the optimum."""
KLS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Nats."""
DRAWS = (1, 2, 4, 8, 16, 32)
"""N of a family."""


@dataclass(frozen=True)
class Point:
    """One recipe's end: a row of the CSV."""

    procedure: str
    transform: str
    kl: float
    beta: float
    win_rate: float
    losing_rate: float
    win_rate_plain: float


def relatives(selection: Selection) -> list[Selection]:
    """The same kind of procedure for N of `DRAWS`; only itself when it is of no kind."""
    if not isinstance(selection, OfN):
        return [selection]
    if selection.n == 1:
        return [selection]
    return [OfN(selection.keeps, n) for n in sorted({*DRAWS, selection.n})]


def transforms_for(selection: Selection) -> Sequence[str]:
    """All of `TRANSFORMS`, without `one-shot` where it has no closed form."""
    return TRANSFORMS if isinstance(selection, OfN) else tuple(name for name in TRANSFORMS if name != "one-shot")


def curve(selection: Selection, transforms: Sequence[str] | None = None, kls: Sequence[float] = KLS) -> Iterator[Point]:
    """Every transform at every KL, under one procedure."""
    for transform in transforms or transforms_for(selection):
        for kl in kls:
            found = find(selection, transform, kl=kl)
            yield Point(selection.name, transform, kl, found.beta, found.win.win, found.win.lose, found.plain.win)


def write_csv(path: Path, points: Sequence[Point]) -> None:
    """One row a point under a header. Raises `InputError` for another suffix than .csv, `RunError` for a bad disk."""
    check_csv(path)
    names = [field.name for field in fields(Point)]
    rows = [",".join(_cell(getattr(point, name)) for name in names) for point in points]
    write_bytes_atomic(path, "\n".join([",".join(names), *rows, ""]).encode())


def check_csv(path: Path) -> None:
    if path.suffix != ".csv":
        raise InputError(f"{path}: the curve is written as CSV: give `--curve {path.with_suffix('.csv')}`")


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f'"{value}"' if "," in value else value
    return f"{value:.10g}"
