"""A forecast for one reward, from its own scores of the base policy: ties, calibration error, win rates with K anchors.

The scores of a prompt are taken as its reference law: a score that stands m times among K is a level with mass m/K, and
a score that stands once is a stretch of 1/K in which no two answers tie. (So the chance that a fresh answer's score is
new is the share of scores seen once: Good's estimate, Biometrika 1953.) K anchors are then drawn again and again from
that law, the policy that training against them ends at is written down as in `theory.finite`, and KL and win rates are
averaged over draws and prompts. Within a level a contest is a tie and counts half (`theory.procedures`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.theory.calibration import Anchors
from inferalign.theory.finite import loss_in_cells, nodes_for, solve_beta, up_to
from inferalign.theory.procedures import Selection, sample
from inferalign.theory.transforms import Identity, Log, Transform

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COLUMNS = 2048
"""Draws of anchors, over all prompts."""


@dataclass(frozen=True)
class Quality:
    """How good a set of scores is as anchors; means over prompts."""

    prompts: int
    anchors: int
    """The smallest K of any prompt."""
    tied: float
    """The share of pairs of one prompt's scores that are equal."""
    levels: float
    """Distinct scores a prompt."""
    kl_limit: float
    """The mean KL (nats) that anchors like them stay below: that of `forecast`, about H_K, or less with ties on top."""
    error: float
    """The standard error of a calibrated reward of Eq. (12), root mean square over answers."""
    band: float
    """The largest error over all answers of a prompt, in 95 of 100 prompts at most: sqrt(log(2/0.05) / (2 K))."""
    global_error: float
    """The mean error of one quantile map for all prompts: what calibration by prompt is for."""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Forecast:
    """What training against these scores as anchors reaches, in the mean over prompts; standard errors of the draws."""

    kl: float
    beta: float
    win_rate: float
    win_rate_se: float
    win_rate_plain: float

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def quality(scores: Sequence[Floats], seed: int = 0) -> Quality:
    """Measure scores, one row a prompt. Raises `InputError` as `Anchors.of` does.

    seed: of the anchors drawn again for `kl_limit`; give that of `forecast`.
    """
    anchors = Anchors.of(scores)
    pooled = np.sort(np.concatenate(scores))
    tied, levels, variances, shifts = [], [], [], []
    for row, k in zip(anchors.rows, anchors.counts, strict=True):
        mine = row[:k]
        _, counts = np.unique(mine, return_counts=True)
        shares = counts / k
        below = np.cumsum(shares) - shares
        middle = below + shares / 2
        tied.append(float(counts @ (counts - 1)) / (k * (k - 1)))
        levels.append(counts.size)
        variances.append(float(shares @ (below + shares / 4 - middle**2)) / k)
        everywhere = (np.searchsorted(pooled, mine, "left") + np.searchsorted(pooled, mine, "right")) / 2 / pooled.size
        shifts.append(float(np.abs(everywhere - np.repeat(middle, counts)).mean()))
    fewest = int(anchors.counts.min())
    return Quality(
        prompts=len(scores),
        anchors=fewest,
        tied=float(np.mean(tied)),
        levels=float(np.mean(levels)),
        kl_limit=_largest_kl(_drawn(scores, Identity(), seed)),
        error=math.sqrt(float(np.mean(variances))),
        band=math.sqrt(math.log(2 / 0.05) / (2 * fewest)),
        global_error=float(np.mean(shifts)),
    )


def forecast(scores: Sequence[Floats], selection: Selection, transform: Transform, kl: float, seed: int) -> Forecast:
    """KL-regularised training on `transform` to a mean KL of `kl` nats, against anchors like these scores.

    Raises `InputError` for scores that `Anchors.of` refuses, and for a KL that their number and ties do not allow.
    """
    cells = _drawn(scores, transform, seed)
    limit = _largest_kl(cells)
    if all(np.min(row) == np.max(row) for row in scores):
        raise InputError("every score of a prompt is the same, so nothing can be trained for: give scores that differ")
    if kl >= limit:
        raise InputError(
            f"these scores allow a mean KL below {limit:.3f}, and {kl:g} is asked: give more scores a prompt, a score "
            "with fewer ties at the top, or a smaller KL"
        )
    start = math.sqrt(float(np.mean((cells.values**2 * cells.widths).sum(axis=0))) / (2 * kl))
    beta = solve_beta(lambda at: _kl(cells, at), kl, start)
    masses = _masses(cells, beta)
    won = 1 - _lose(selection, cells, masses)
    return Forecast(
        kl=kl,
        beta=beta,
        win_rate=float(won.mean()),
        win_rate_se=float(won.std(ddof=1) / math.sqrt(won.size)),
        win_rate_plain=float(1 - _lose(sample(), cells, masses).mean()),
    )


@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells of the reference's law over draws of anchors; arrays [C, D], ascending, padded with cells of width 0."""

    widths: Floats
    values: Floats
    """The normalised transform of the calibrated reward, less its value at 1."""
    tied: Bools
    typical: int
    """K of a prompt."""


def _drawn(scores: Sequence[Floats], transform: Transform, seed: int) -> _Cells:
    anchors = Anchors.of(scores)
    each = max(1, COLUMNS // len(scores))
    chosen = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), COLUMNS)).astype(np.int64))
    stream = np.random.Generator(np.random.Philox(key=derive(seed, "anchors drawn again")))
    parts = []
    for prompt in chosen:
        k = int(anchors.counts[prompt])
        _, counts = np.unique(anchors.rows[prompt, :k], return_counts=True)
        parts += [_column(counts, np.sort(stream.random(k)), transform) for _ in range(each)]
    rows = max(widths.size for widths, _, _ in parts)

    def padded(place: int) -> Floats:
        return np.stack([np.pad(part[place], (0, rows - part[place].size)) for part in parts], axis=1)

    return _Cells(padded(0), padded(1), padded(2).astype(bool), int(anchors.counts.min()))


def _column(counts: NDArray[np.int64], drawn: Floats, transform: Transform) -> tuple[Floats, Floats, Floats]:
    """Widths, values and ties of the cells that K anchors cut: at the edges of levels, and at anchors between them.

    drawn: the anchors as places [K] on [0, 1], ascending, in the law that has counts/K as masses.
    """
    k = drawn.size
    ends = np.cumsum(counts) / k
    starts = ends - counts / k
    level = np.minimum(np.searchsorted(ends, drawn, "right"), counts.size - 1)
    single = counts[level] == 1
    edges = np.unique(np.concatenate([[0.0, 1.0], starts[counts > 1], ends[counts > 1], drawn[single]]))
    widths = np.diff(edges)
    middle = edges[:-1] + widths / 2
    level = np.minimum(np.searchsorted(ends, middle, "right"), counts.size - 1)
    tied = counts[level] > 1
    below = np.searchsorted(drawn, np.where(tied, starts[level], middle), "left")
    equal = np.searchsorted(drawn, np.where(tied, ends[level], middle), "left") - below
    share = below + equal / 2
    x, s = (share / k, 1 - share / k)
    if isinstance(transform, Log):
        x, s = (share + 0.5) / (k + 1), 1 - (share + 0.5) / (k + 1)
    return widths, transform.from_top(x, s), tied.astype(np.float64)


def _masses(cells: _Cells, beta: float) -> Floats:
    a = cells.values / beta
    a = a - np.where(cells.widths > 0, a, -np.inf).max(axis=0)
    weights = cells.widths * np.exp(np.minimum(a, 0.0))
    masses: Floats = weights / weights.sum(axis=0)
    return masses


def _kl(cells: _Cells, beta: float) -> tuple[float, float]:
    """The mean over draws of KL and of the variance of Phi / beta under the policy."""
    masses, a = _masses(cells, beta), cells.values / beta
    held = masses > 0
    ratio = np.where(held, masses / np.where(held, cells.widths, 1.0), 1.0)
    mean = (masses * a).sum(axis=0)
    variance = (masses * (a - mean) ** 2).sum(axis=0)
    return float((masses * np.log(ratio)).sum(axis=0).mean()), float(variance.mean())


def _largest_kl(cells: _Cells) -> float:
    """The mean over draws of -log of the mass that has the best calibrated reward: beta going to 0."""
    values = np.where(cells.widths > 0, cells.values, -np.inf)
    best = np.where(values == values.max(axis=0), cells.widths, 0.0).sum(axis=0)
    return max(0.0, float(-np.log(best).mean()))


def _lose(selection: Selection, cells: _Cells, masses: Floats) -> Floats:
    """The losing rate of each draw, [D]: integrals over stretches, half of the ties within levels."""
    smooth = loss_in_cells(selection, masses, cells.widths, *nodes_for(selection, cells.typical))
    zeros = np.zeros((1, masses.shape[1]))
    F, u = np.vstack([zeros, up_to(masses)]), np.vstack([zeros, up_to(cells.widths)])
    ours, theirs = selection.G(F, 1 - F), np.diff(selection.G(u, 1 - u), axis=0)
    halves = theirs * (ours[1:] + ours[:-1]) / 2
    lose: Floats = np.where(cells.tied, halves, smooth).sum(axis=0)
    return lose
