"""Components of variance in two nested levels: how much of a number's spread comes from where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from inferalign.core.errors import ScoringError


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variances, in the values' unit squared; unbiased, and so below 0 at times when the true one is small."""

    outer: float | None
    """Between outer groups. None when there is only one."""
    inner: float | None
    """Between inner groups of one outer group. None when no outer group has two: then it is a part of `outer`."""
    rest: float | None
    """Between values of one inner group. None when no inner group has two: then it is a part of `inner`."""

    def shares(self) -> dict[str, float] | None:
        """Each known component's part of their sum, negative ones taken for 0; None when nothing varies."""
        known = {
            name: max(value, 0.0) for name in ("outer", "inner", "rest") if (value := getattr(self, name)) is not None
        }
        total = sum(known.values())
        return {name: value / total for name, value in known.items()} if total > 0 else None


def nested_components(values: ArrayLike, outer: ArrayLike, inner: ArrayLike) -> Components:
    """The analysis-of-variance estimates for y = mu + a_i + b_ij + e_ijk with unequal group sizes.

    Sums of squares are set equal to their expectations (Searle, Casella and McCulloch 1992, "Variance Components",
    section 5.3.b on the two-way nested model without balance). Shapes [n]; `inner` codes need be unique within an
    outer group only. Raises `ScoringError` for no values.
    """
    y = np.asarray(values, dtype=np.float64)
    if not y.size:
        raise ScoringError("components of nothing were asked for: every unit was unscored, or there was none.")
    top = np.unique(np.asarray(outer), return_inverse=True)[1].reshape(-1)
    within = np.unique(np.asarray(inner), return_inverse=True)[1].reshape(-1)
    cell = np.unique(top * (int(within.max()) + 1) + within, return_inverse=True)[1].reshape(-1)
    n, n_cell, n_top = y.size, np.bincount(cell), np.bincount(top)
    cells, tops = n_cell.size, n_top.size
    top_of_cell = np.zeros(cells, dtype=np.intp)
    top_of_cell[cell] = top
    cell_mean = np.bincount(cell, y) / n_cell
    top_mean = np.bincount(top, y) / n_top
    # Sum over outer groups of sum_j n_ij^2 / n_i, and the same over all values.
    squares_within = float((n_cell**2 / n_top[top_of_cell]).sum())
    squares_cells, squares_tops = float((n_cell**2).sum()) / n, float((n_top**2).sum()) / n

    rest = inner_variance = outer_variance = None
    if n > cells:
        rest = float(((y - cell_mean[cell]) ** 2).sum()) / (n - cells)
    if cells > tops:
        between = float((n_cell * (cell_mean - top_mean[top_of_cell]) ** 2).sum())
        inner_variance = (between - (cells - tops) * (rest or 0.0)) / (n - squares_within)
    if tops > 1:
        between = float((n_top * (top_mean - y.mean()) ** 2).sum())
        lower = (tops - 1) * (rest or 0.0) + (squares_within - squares_cells) * (inner_variance or 0.0)
        outer_variance = (between - lower) / (n - squares_tops)
    return Components(outer=outer_variance, inner=inner_variance, rest=rest)
