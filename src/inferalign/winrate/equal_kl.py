"""Win rates at one KL: a recipe's sweep over beta, interpolated, with the interval that its points' noise gives.

Between the two points of a sweep that enclose the KL, W is taken as linear in sqrt(KL): for small KL, W - 1/2 is
proportional to it (arXiv 2412.19792 by expansion), and a chord in sqrt(KL) lies nearer to the curve than one in KL.

The interpolated win rate is a smooth function of four means over prompts. Its derivatives turn each prompt's four
numbers into one (the infinitesimal jackknife, Jaeckel 1972), whose mean over prompts is the interpolated win rate, and
whose spread is that of the estimate, KL's own noise included. So an interval, or a paired difference of two recipes, is
that of a plain mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from inferalign.core.errors import InputError

ByPrompt = Mapping[str, float]


def at_kl(sweep: Sequence[tuple[ByPrompt, ByPrompt]], kl: float) -> dict[str, float]:
    """Per prompt, numbers whose mean is the win rate at a mean KL of `kl` nats.

    sweep: (win rates, KLs) by prompt id of each point; prompts that not all have are left out. Raises `InputError` for
    a KL outside those of the sweep, and for fewer than 2 points.
    """
    shared = sorted(set.intersection(*(set(wins) & set(kls) for wins, kls in sweep)))
    if len(sweep) < 2 or not shared:
        raise InputError(f"{len(sweep)} points with {len(shared)} prompts in common: a sweep needs 2 betas at least")
    points = [(np.array([wins[i] for i in shared]), np.array([kls[i] for i in shared])) for wins, kls in sweep]
    points.sort(key=lambda point: float(point[1].mean()))
    enclosing = (
        (below, above)
        for below, above in pairwise(points)
        if below[1].mean() <= kl <= above[1].mean() and 0 < below[1].mean() < above[1].mean()
    )
    found = next(enclosing, None)
    if found is None and points[0][1].mean() <= 0 < kl <= points[-1][1].mean():
        raise InputError(
            f"KL {kl:g} lies between a point whose measured KL is {points[0][1].mean():.3f}, no more than chance, and "
            "the next one: train a point between them"
        )
    if found is None:
        reach = f"{points[0][1].mean():.3f} to {points[-1][1].mean():.3f}"
        raise InputError(f"KL {kl:g} is outside of the sweep, {reach} nats: train another point, or give a KL inside")
    (low_w, low_k), (high_w, high_k) = found
    low, high = math.sqrt(low_k.mean()), math.sqrt(high_k.mean())
    share = (math.sqrt(kl) - low) / (high - low)
    steep = (high_w.mean() - low_w.mean()) / (high - low)
    mixed = (1 - share) * low_w + share * high_w
    moved = (1 - share) * (low_k - low_k.mean()) / (2 * low) + share * (high_k - high_k.mean()) / (2 * high)
    return dict(zip(shared, (mixed - steep * moved).tolist(), strict=True))
