"""Few items out of many, as different as they come: the selection of HumanAgencyBench (arXiv 2509.08494).

    embeddings -> near-duplicates out -> PCA(50) -> k-means(k = wanted) -> of each cluster the item nearest its centre

Everything but the second step is as published (k-means++ once, Euclidean distance in the space of the PCA, no
whitening). Published, two near-duplicates that fall into different clusters are both taken. Items are sorted by id
first and all seeds are named, so the choice does not depend on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from inferalign.agency.coverage import Coverage, coverage
from inferalign.agency.embed import Embedder
from inferalign.agency.records import Item
from inferalign.core.errors import InputError
from inferalign.core.lookup import load
from inferalign.core.seeds import derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float64]
    Places = NDArray[np.intp]

PCA_DIMENSIONS = 50


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """An item that was left out before the clustering."""

    item: str
    of: str
    """The item that stays, or `example N` (from 1) of the texts to avoid."""
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    items: tuple[Item, ...]
    """By id, with their cluster in their provenance."""
    near_duplicates: tuple[NearDuplicate, ...]
    coverage: Coverage
    embedding: Mapping[str, object]
    """As the embedder describes itself, and the cosine of near-duplicates."""


async def select(
    items: Sequence[Item],
    embedder: Embedder,
    *,
    wanted: int,
    seed: int,
    scores: Mapping[str, float] | None = None,
    avoid: Sequence[str] = (),
) -> Selection:
    """Embed the items' prompts and choose `wanted` of them.

    Args:
        scores: by item id; of two near-duplicates the better one stays, and without scores that of the smaller id.
        avoid: texts of which no near-duplicate may be chosen, such as the examples that the generator was shown.

    Raises `InputError` when fewer than `wanted` distinct items are left, and for an id that stands twice.
    """
    ordered = sorted(items, key=lambda item: item.id)
    ids = [item.id for item in ordered]
    if len(set(ids)) < len(ids):
        raise InputError(f"item {next(a for a, b in pairwise(ids) if a == b)!r} stands twice in the pool")
    if wanted < 1 or len(ids) < wanted:
        raise InputError(
            f"{wanted} items are wanted and {len(ids)} are there: ask for 1 to {len(ids)}, or simulate more calls"
        )
    embedding = await embedder.embed([*(item.prompt for item in ordered), *avoid])
    rank = scores or {}
    order = sorted(range(len(ids)), key=lambda place: (-rank.get(ids[place], 0.0), ids[place]))
    kept, twins = distinct(embedding.cosines, order, embedder.near_duplicate)
    if len(kept) < wanted:
        raise InputError(
            f"{wanted} items are wanted and {len(kept)} distinct ones are left after {len(twins)} near-duplicates: "
            "simulate more calls, or ask for fewer"
        )
    chosen = representatives(embedding.vectors[kept], wanted, seed)
    picked = [_standing_for(ordered[kept[place]], cluster, size) for place, cluster, size in chosen]
    names = [*ids, *(f"example {place}" for place in range(1, len(avoid) + 1))]
    return Selection(
        items=tuple(picked),
        near_duplicates=tuple(NearDuplicate(item=ids[a], of=names[b], cosine=cosine) for a, b, cosine in twins),
        coverage=coverage(
            [ordered[place] for place in kept],
            embedding.cosines[kept][:, kept],
            [place for place, _, _ in chosen],
            [size for _, _, size in chosen],
        ),
        embedding={**embedder.describe(), "near_duplicate": embedder.near_duplicate},
    )


def _standing_for(item: Item, cluster: int, size: int) -> Item:
    """The item with the cluster that it stands for, and how many items of the pool are in it."""
    return replace(item, provenance={**item.provenance, "selection": {"cluster": cluster, "size": size}})


def distinct(
    cosines: Vectors, order: Sequence[int], threshold: float
) -> tuple[list[int], list[tuple[int, int, float]]]:
    """The rows that are left when, in `order`, each row too near to one that stays is taken out.

    Args:
        cosines: `[items + others, items + others]`; the others stay from the beginning.
        order: the rows of all items; an earlier row stays rather than a later one.
        threshold: the cosine from which on two rows are too near.

    Returns the items' rows that stay, ascending, and for each other one (row, the nearest that stayed before it, their
    cosine).
    """
    import numpy as np

    stay = list(range(len(order), len(cosines)))
    out: list[tuple[int, int, float]] = []
    for row in order:
        if stay:
            nearest = stay[int(np.argmax(cosines[row, stay]))]
            if cosines[row, nearest] >= threshold:
                out.append((row, nearest, float(cosines[row, nearest])))
                continue
        stay.append(row)
    return sorted(row for row in stay if row < len(order)), sorted(out)


def representatives(vectors: Vectors, k: int, seed: int) -> list[tuple[int, int, int]]:
    """`[points, dimensions]` -> (row, cluster, size of the cluster) of the row nearest to each of `k` centres, by row.

    Clusters are numbered in the order of their rows, not in that of the algorithm, which means nothing.
    """
    import numpy as np

    if len(vectors) == 1:
        return [(0, 0, 1)]  # of which no variance can be taken
    pca, k_means = load("sklearn.decomposition:PCA"), load("sklearn.cluster:KMeans")
    one_thread = load("threadpoolctl:threadpool_limits")
    pca_seed, means_seed = (derive(seed, "select", step) % 2**32 for step in ("pca", "k-means"))
    # One thread: sums of several come in an order, and so with last digits, of their own each time.
    with one_thread(limits=1):
        points: Vectors = pca(n_components=min(PCA_DIMENSIONS, *vectors.shape), random_state=pca_seed).fit_transform(
            vectors
        )
        means = k_means(n_clusters=k, init="k-means++", n_init=1, random_state=means_seed).fit(points)
    labels: Places = means.labels_
    if (found := len(np.unique(labels))) < k:
        raise InputError(f"the items fall into {found} clusters and {k} are wanted: ask for {found}, or simulate more")
    nearest = []
    for cluster in range(k):
        members = np.flatnonzero(labels == cluster)
        distances = np.linalg.norm(points[members] - means.cluster_centers_[cluster], axis=1)
        nearest.append((int(members[np.argmin(distances)]), len(members)))
    return [(row, number, size) for number, (row, size) in enumerate(sorted(nearest))]
