"""How well a selection of items covers the pool that it was chosen from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferalign.agency.records import Item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Cosine distances (1 - cosine), from 0 to 2."""

    least: float
    median: float
    greatest: float


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How a property of the provenance is spread over the selection."""

    selected: Mapping[str, float]
    """Value -> share of the selected items, largest first."""
    missing: tuple[str, ...]
    """Values that the pool has and the selection has not."""

    @property
    def largest(self) -> float:
        return max(self.selected.values())


@dataclass(frozen=True, kw_only=True)
class Coverage:
    pool: int
    selected: int
    cluster_sizes: tuple[int, ...]
    """Largest first; they add up to the pool."""
    between_selected: Spread | None
    """From each selected item to the nearest other one: how different they are. None for a single one."""
    pool_to_selected: Spread
    """From each item of the pool to the nearest selected one: what the selection leaves out."""
    themes: Shares
    topics: Shares
    example_sets: Shares
    """By the examples that the generator was shown in the call."""


def coverage(pool: Sequence[Item], cosines: Vectors, chosen: Sequence[int], sizes: Sequence[int]) -> Coverage:
    """Of the rows `chosen` of a pool.

    Args:
        cosines: `[pool, pool]`.
        sizes: of the clusters, in any order.
    """
    import numpy as np

    to_selected = 1.0 - cosines[:, list(chosen)]
    between = to_selected[list(chosen)].copy()
    np.fill_diagonal(between, np.inf)
    return Coverage(
        pool=len(pool),
        selected=len(chosen),
        cluster_sizes=tuple(sorted(sizes, reverse=True)),
        between_selected=_spread(between.min(axis=1)) if len(chosen) > 1 else None,
        pool_to_selected=_spread(to_selected.min(axis=1)),
        themes=_shares([str(item.provenance.get("theme", "")) for item in pool], chosen),
        topics=_shares([str(item.provenance.get("topic", "")) for item in pool], chosen),
        example_sets=_shares([", ".join(sorted(item.provenance.get("examples", ()))) for item in pool], chosen),
    )


def _spread(distances: NDArray[np.float64]) -> Spread:
    import numpy as np

    # Rounding may put an item at less than nothing from itself.
    kept = np.maximum(distances, 0.0)
    return Spread(least=float(kept.min()), median=float(np.median(kept)), greatest=float(kept.max()))


def _shares(values: Sequence[str], chosen: Sequence[int]) -> Shares:
    """Items without the property are counted under the empty text."""
    counts = Counter(values[place] for place in chosen)
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    return Shares(
        selected={value: counts[value] / len(chosen) for value in ordered},
        missing=tuple(sorted(set(values) - set(counts))),
    )
