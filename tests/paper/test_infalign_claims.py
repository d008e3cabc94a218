"""What InfAlign (arXiv 2412.19792) claims in its abstracts, beside the ceilings of the theory at equal KL.

First version (December 2024): 8-12 % (best-of-N, helpfulness) and 4-9 % (worst-of-N, harmlessness) better
inference-time win rate. Later versions (2025): up to 3-8 %. Its analysis: exponentials, t > 0 for best-of-N and t < 0
for worst-of-N, are near the optimum.
"""

from __future__ import annotations

import pytest

from inferalign.theory.planner import find
from inferalign.theory.procedures import OfN, best_of_n, worst_of_n

KLS = (0.05, 0.1, 0.2, 0.3, 0.35, 0.45, 0.5, 0.7, 1.0)


def ceiling(selection: OfN) -> float:
    """The largest gain over the identity at equal KL, in points."""
    return max(
        100 * (find(selection, "optimal", kl=kl).win.win - find(selection, "identity", kl=kl).win.win) for kl in KLS
    )


def test_the_later_claim_is_what_theory_allows_at_four_draws() -> None:
    assert ceiling(best_of_n(4)) == pytest.approx(7.34, abs=0.02)
    assert ceiling(worst_of_n(4)) == pytest.approx(7.39, abs=0.02)


def test_the_first_claim_needs_more_draws_or_another_source() -> None:
    assert ceiling(best_of_n(4)) < 8 < 12 < ceiling(best_of_n(8))
    assert ceiling(worst_of_n(4)) < 9 < ceiling(worst_of_n(8))


def test_exponentials_are_near_the_optimum_at_two_and_four_draws_but_not_at_32() -> None:
    for selection, transform in ((best_of_n(4), "exp:10"), (worst_of_n(4), "exp:-10"), (best_of_n(2), "exp:5")):
        best, cheap = find(selection, "optimal", kl=0.5), find(selection, transform, kl=0.5)
        assert 0 < best.win.win - cheap.win.win < 0.002
    assert find(best_of_n(32), "exp:10", kl=1).win.win == pytest.approx(0.954, abs=1e-3)
    assert find(best_of_n(32), "optimal", kl=1).win.win == pytest.approx(0.999, abs=1e-3)


def test_the_sign_matters() -> None:
    for selection, right, wrong in ((best_of_n(4), "exp:10", "exp:-10"), (worst_of_n(4), "exp:-10", "exp:10")):
        identity = find(selection, "identity", kl=0.5).win.win
        assert find(selection, wrong, kl=0.5).win.win < identity < find(selection, right, kl=0.5).win.win
