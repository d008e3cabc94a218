"""A new form of a dimension's items on the scale of an old one, by the anchor items that both forms hold.

An item's difficulty is its mean score over subjects. Other subjects answered the new form, so its difficulties are of
another scale. Mean-sigma linking (Marco 1977, J. Educ. Meas. 14:139-160; Kolen and Brennan 2014, section 6.3) takes the
line that gives the anchors of the new form the mean and the standard deviation that they had in the old one:

    old = A new + B,    A = sd(old) / sd(new),    B = mean(old) - A mean(new)

The interval is a percentile bootstrap over anchors, each drawn with its pair of difficulties. Scores are bounded and
the line is not, so it is good where difficulties stay inside the range of the anchors; `within` says whether they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferalign.core.errors import ScoringError
from inferalign.core.seeds import derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEAST_ANCHORS = 5
"""Fewer have no standard deviation worth a slope."""


@dataclass(frozen=True, kw_only=True)
class Link:
    slope: float
    intercept: float
    n: int
    """Anchors."""
    correlation: float
    """Of the anchors' two difficulties: near 0, the forms do not measure the same."""
    reach: tuple[float, float]
    """Lowest and highest new difficulty of an anchor."""
    resampled: tuple[tuple[float, float], ...]
    """(slope, intercept) of each resample."""

    def __call__(self, new: float) -> float:
        """A difficulty of the new form on the old scale, in points."""
        return self.slope * new + self.intercept

    def interval(self, new: float, *, level: float = 0.95) -> tuple[float, float]:
        """Where the linked difficulty lies, given that `new` itself is known exactly."""
        import numpy as np

        values = np.array([slope * new + intercept for slope, intercept in self.resampled])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def within(self, new: float) -> bool:
        """Whether `new` lies where the anchors do; outside, the line is an extrapolation."""
        return self.reach[0] <= new <= self.reach[1]


def mean_sigma(old: Mapping[str, float], new: Mapping[str, float], *, seed: int = 0, resamples: int = 2000) -> Link:
    """The link of two forms by the anchors that stand in both.

    Args:
        old, new: item id -> difficulty, in points; items of one form only are left out.

    Raises `ScoringError` for fewer than five anchors, and when they do not differ on one of the two forms.
    """
    import numpy as np

    ids = sorted(old.keys() & new.keys())
    if len(ids) < LEAST_ANCHORS:
        raise ScoringError(f"{len(ids)} anchors stand in both forms: a link needs at least {LEAST_ANCHORS}.")
    there, here = np.array([old[name] for name in ids]), np.array([new[name] for name in ids])
    if np.ptp(there) == 0 or np.ptp(here) == 0:
        raise ScoringError("the anchors have all the same difficulty on one form, so there is no scale to link.")
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "mean-sigma")))
    rows = rng.integers(len(ids), size=(resamples, len(ids)))
    # A resample of anchors that are all alike has no slope; with five that differ it is rare, and it is left out.
    rows = rows[(np.ptp(there[rows], axis=1) > 0) & (np.ptp(here[rows], axis=1) > 0)]
    slopes, intercepts = _line(there[rows], here[rows])
    slope, intercept = _line(there[None], here[None])
    return Link(
        slope=float(slope[0]),
        intercept=float(intercept[0]),
        n=len(ids),
        correlation=float(np.corrcoef(there, here)[0, 1]),
        reach=(float(here.min()), float(here.max())),
        resampled=tuple(zip(slopes.tolist(), intercepts.tolist(), strict=True)),
    )


def _line(old: Floats, new: Floats) -> tuple[Floats, Floats]:
    """`[resamples, anchors]` twice -> slope and intercept, `[resamples]` each."""
    slope: Floats = old.std(axis=1) / new.std(axis=1)
    return slope, old.mean(axis=1) - slope * new.mean(axis=1)
