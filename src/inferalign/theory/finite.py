"""What K anchors a prompt cost: win rate and KL when rewards are calibrated against K reference rollouts.

The K sorted anchors of a prompt cut the reference's quantiles [0, 1] into K + 1 cells, whose widths d follow the flat
Dirichlet law whatever the reward. The calibrated reward of Eq. (12), InfAlign (arXiv 2412.19792), is j/K anywhere in
cell j. So training on Phi with KL weight beta ends, on that prompt, at masses p_j = d_j w_j / Z, uniform within each
cell, with w_j = e^(Phi(j/K)/beta) and Z = sum d w (our derivation). Then, over prompts,

    KL = E[sum p log(w / Z)],    lose = E[int G(F(u)) g(u) du],    F linear on each cell.

KL is at most E[-log d_K], the harmonic number H_K = 1 + 1/2 + ... + 1/K: nothing tells answers apart above the best
anchor. The expectations are means over seeded draws of d, less their first-order part in d, whose expectation is known
to be 0. Each width is spread evenly over its law by a Latin hypercube (McKay, Beckman and Conover, Technometrics 1979),
so that a loss is known to 0.03 points (standard error) for K up to 256, and 0.1 beyond. Neighbouring K share their
draws from the top cell down, so that the loss falls with K as its expectation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.theory.procedures import OfN, Selection
from inferalign.theory.transforms import Log, Transform

Floats = NDArray[np.float64]

WORK = 2**17
"""Cells to draw: a K gets as many draws of its anchors as this allows, from 64 to `MOST_DRAWS`."""
MOST_DRAWS = 8192
MAX_ANCHORS = 8192
"""The largest K that `anchors_for` simulates; beyond it, the loss is taken to fall as 1/K, known to two digits."""
LARGEST = 65536
"""The largest K that is simulated at all."""
EULER = 0.5772156649015329
STEPS = 200
"""Of a search for beta, at most."""
STRIDE = 2.0
"""Of such a search in log beta, where only one side of its KL has been seen."""
FAR = 40.0
"""In log beta from where it starts: nothing changes there any more."""
CLOSE = 1e-4
"""How far a KL may be from the one asked for, relative to it."""


@dataclass(frozen=True)
class Anchored:
    """What training against K anchors a prompt reaches, in the mean over prompts."""

    anchors: int
    beta: float
    """At which the mean KL is `kl`, in the units of the transform's normalised form."""
    kl: float
    win_rate: float
    """Under the procedure on both sides."""


def harmonic(k: int) -> float:
    """H_K = 1 + 1/2 + ... + 1/K: the largest mean KL (nats) that K anchors allow."""
    if k > 1000:  # Euler and Maclaurin, to 1e-15
        return math.log(k) + EULER + 1 / (2 * k) - 1 / (12 * k**2)
    return float(np.sum(1 / np.arange(1, k + 1)))


def calibrated_values(transform: Transform, k: int) -> Floats:
    """Phi (normalised, less its value at 1) at the K + 1 values that a calibrated reward can have; shape [K + 1].

    They are j/K, and for log the smoothed (j + 1/2) / (K + 1), because log 0 is no reward.
    """
    j = np.arange(k + 1)
    if isinstance(transform, Log):
        return transform.from_top((j + 0.5) / (k + 1), (k - j + 0.5) / (k + 1))
    return transform.from_top(j / k, (k - j) / k)


def anchored(selection: Selection, transform: Transform, k: int, kl: float, *, draws: int | None = None) -> Anchored:
    """Beta and win rate when `k` anchors a prompt are used and the mean KL over prompts is `kl` nats.

    Raises `InputError` for fewer than 2 anchors and for a KL that they do not allow.
    """
    if k < 2:
        raise InputError(
            f"{k} anchors are too few: calibration needs at least 2 a prompt, and 100 or more to be of use"
        )
    if k > LARGEST:
        raise InputError(f"{k} anchors are more than can be simulated: give at most {LARGEST}")
    if kl >= harmonic(k):
        raise InputError(
            f"{k} anchors a prompt allow a mean KL below {harmonic(k):.3f}, and {kl:g} is asked: give at least "
            f"{fewest(kl)} anchors"
        )
    values, widths = calibrated_values(transform, k), _widths(k, draws or _draws(k))
    values = values - values.max()  # that of log is below 0, and every weight would vanish as beta does
    start = math.sqrt(float(np.var(values)) / (2 * kl))
    beta = solve_beta(lambda at: _mean_kl(values / at, widths), kl, start)
    lose = _mean_loss(selection, values, widths, beta)
    return Anchored(anchors=k, beta=beta, kl=kl, win_rate=1 - lose)


def fewest(kl: float) -> int:
    """The smallest K, at least 2, whose harmonic number is above `kl`."""
    k = max(2, math.floor(math.exp(kl - EULER)) - 1)
    while harmonic(k) <= kl:
        k += 1
    return k


def anchors_for(loss: Callable[[int], float], kl: float, max_loss: float) -> int:
    """The smallest K with loss(K) <= max_loss; the loss falls as K grows.

    loss: the win rate lost by K anchors a prompt at this KL, for example through `anchored`. Where the KL itself needs
    more than `MAX_ANCHORS` the answer is what it needs: at such a KL hardly anything is lost at all. A K above
    `MAX_ANCHORS` that the loss needs is an extrapolation, rounded up to two digits.
    """
    low, high, excess = fewest(kl) - 1, fewest(kl), math.inf
    if high > MAX_ANCHORS:
        return high
    while (over := loss(high) - max_loss) > 0:
        if high == MAX_ANCHORS:
            return _two_digits(high * (over + max_loss) / max_loss)
        low, high, excess = high, min(2 * high, MAX_ANCHORS), over
    while high - low > 1:
        middle = _between(low, high, excess, over)
        found = loss(middle) - max_loss
        # the end that stays counts half, so that the search does not creep along one side
        low, high, excess, over = (middle, high, found, over / 2) if found > 0 else (low, middle, excess / 2, found)
    return high


def _between(low: int, high: int, excess: float, over: float) -> int:
    """Where the loss meets its bound if it is linear in 1/K, as it nearly is."""
    if math.isinf(excess):
        return (low + high) // 2
    share = excess / (excess - over)
    return min(max(round(1 / ((1 - share) / low + share / high)), low + 1), high - 1)


def _two_digits(k: float) -> int:
    unit: int = 10 ** (math.floor(math.log10(k)) - 1)
    return math.ceil(k / unit) * unit


def _draws(k: int) -> int:
    """The same for all K between two powers of 2, which so share their draws."""
    return min(MOST_DRAWS, max(64, WORK >> (k.bit_length() - 1)))


@lru_cache(maxsize=2)
def _widths(k: int, draws: int) -> Floats:
    """Widths of the cells, [K + 1, D], flat Dirichlet; a larger K keeps the numbers of a smaller one at its top.

    Exponentials over their sum: those of one cell lie one in each of D equally likely strata, in a random order.
    """
    order, within = (np.random.Generator(np.random.Philox(key=derive(0, name, draws))) for name in ("strata", "within"))
    strata = order.permuted(np.tile(np.arange(draws, dtype=np.float64), (k + 1, 1)), axis=1)
    exponentials = -np.log1p(-(strata + within.random((k + 1, draws))) / draws)[::-1]
    widths: Floats = exponentials / exponentials.sum(axis=0)
    return widths


def solve_beta(mean_kl: Callable[[float], tuple[float, float]], kl: float, start: float) -> float:
    """The beta at which a mean KL is `kl` nats: Newton on log(e^KL - 1) against log beta, held in a bracket.

    mean_kl: the mean KL at a beta, and E[Var_p(Phi / beta)], which is -d KL / d log beta. Of an estimate whose bias was
    removed it is that roughly, and Newton may go to and fro for good: so wherever a step has not halved what is left,
    the next halves the bracket. Both of its ends were looked at, so that it holds a beta even where KL does not fall
    everywhere. Just below the largest KL the draws may stop short of what their expectation reaches: then a beta that
    gives all that they reach. Raises `InputError` for a KL that is not reached, or jumped over.
    """
    begin = x = math.log(start)
    beta, found = start, math.nan
    low, high, before = -math.inf, math.inf, math.inf
    for _ in range(STEPS):
        beta = math.exp(x)
        found, variance = mean_kl(beta)
        if abs(found - kl) <= 1e-10 * kl:
            return beta
        low, high = (x, high) if found > kl else (low, x)
        if abs(x - begin) > FAR:
            break
        excess = _log_expm1(found) - _log_expm1(kl)
        newton = excess * -math.expm1(-found) / variance if found > 0 < variance else math.nan
        x = _inside(x + newton if abs(excess) <= before / 2 else math.nan, low, high)
        before = abs(excess)
    stopped_short = math.isinf(low) and found < kl
    if not stopped_short and not abs(found - kl) <= CLOSE * kl:
        raise InputError(
            f"no beta was found at which the mean KL is {kl:g}: at {beta:.3g}, the last that was tried, it is "
            f"{found:.4g}; give another KL, or more anchors"
        )
    return beta


def _log_expm1(kl: float) -> float:
    """log(e^kl - 1), minus infinity where an estimate is not above 0."""
    return kl + math.log(-math.expm1(-kl)) if kl > 0 else -math.inf


def _inside(x: float, low: float, high: float) -> float:
    """x if it lies in the bracket, else its middle; one bound of `low` and `high` may be infinite, and is gone towards.

    A bound that nobody has looked at is gone towards by `STRIDE` at most, so that no beta is leapt over.
    """
    if math.isinf(low):
        return max(x, high - STRIDE) if x < high else high - STRIDE
    if math.isinf(high):
        return min(x, low + STRIDE) if x > low else low + STRIDE
    return x if low < x < high else (low + high) / 2


def _mean_kl(a: Floats, widths: Floats) -> tuple[float, float]:
    """The mean over draws of KL and of Var_p(a), for log weights a [K + 1] whose largest is 0."""
    w = np.exp(a)
    total = w @ widths
    mean, square = (w * a) @ widths / total, (w * a * a) @ widths / total
    kl = mean - np.log(total)
    # its gradient at equal widths is taken off: the widths' mean is known, so this changes no expectation
    even = w / w.mean()
    gradient = even * (a - (even @ a) / a.size - 1)
    excess = widths.mean(axis=1) - 1 / a.size
    return float(kl.mean() - gradient @ excess), float((square - mean**2).mean())


def _mean_loss(selection: Selection, values: Floats, widths: Floats, beta: float) -> float:
    """The mean over draws of the losing rate, its first-order part in the widths taken off."""
    w = np.exp(values / beta)
    masses = w[:, None] * widths / (w @ widths)
    nodes, weights = nodes_for(selection, values.size - 1)
    lose = loss_in_cells(selection, masses, widths, nodes, weights).sum(axis=0)
    even = np.full((values.size, 1), 1 / values.size)
    gradient = _gradient(selection, w[:, None] * even / w.mean(), even, nodes, weights)
    return float(lose.mean() - gradient @ (widths.mean(axis=1) - even[:, 0]))


def _gradient(selection: Selection, masses: Floats, widths: Floats, nodes: Floats, weights: Floats) -> Floats:
    """Derivatives [C] of the losing rate by each cell's width, at the widths given; masses and widths [C, 1].

    delta int G(F) dG(b) = int g(F) g(b) (delta F db - delta b dF) along the path (b, F) through the cells.
    """
    inside, after = np.zeros(masses.size), np.zeros(masses.size)
    F_ends, ends = up_to(masses), up_to(widths)
    for t, weight in zip(nodes, weights, strict=True):
        F, b = F_ends - (1 - t) * masses, ends - (1 - t) * widths
        height = weight * (selection.g(F, 1 - F) * selection.g(b, 1 - b))[:, 0]
        inside += t * height
        after += height
    p, d = masses[:, 0], widths[:, 0]
    by_mass = _later(after * d) + inside * d
    by_width = _later(after * p) + inside * p
    gradient: Floats = p / d * (by_mass - p @ by_mass) - by_width
    return gradient


def loss_in_cells(selection: Selection, masses: Floats, widths: Floats, nodes: Floats, weights: Floats) -> Floats:
    """int G(F) g(u) du over each cell [C, D], for a policy of `masses` [C, D], uniform within cells of `widths`."""
    lose = np.zeros_like(masses)
    F_ends, ends = up_to(masses), up_to(widths)
    below, density = _functions(selection)
    for t, weight in zip(nodes, weights, strict=True):
        lose += weight * below(F_ends - (1 - t) * masses) * density(ends - (1 - t) * widths)
    return lose * widths


def _functions(selection: Selection) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]:
    """G and g. Those of an estimated density are polynomials with many terms: read from a table, to 1e-6."""
    if isinstance(selection, OfN):
        return lambda q: selection.G(q, 1 - q), lambda q: selection.g(q, 1 - q)
    at = np.linspace(0.0, 1.0, 4097)
    below, density = selection.G(at, 1 - at), selection.g(at, 1 - at)
    return lambda q: np.interp(q, at, below), lambda q: np.interp(q, at, density)


def up_to(masses: Floats) -> Floats:
    """The mass up to the end of each cell, [C, D]."""
    return np.minimum(np.cumsum(masses, axis=0), 1.0)


def _later(masses: Floats) -> Floats:
    """The sum over later cells, [C]."""
    return np.append(np.cumsum(masses[:0:-1])[::-1], 0.0)


def nodes_for(selection: Selection, k: int) -> tuple[Floats, Floats]:
    """Nodes and weights on [0, 1], for cells of width 1 / k: the more, the sharper g is within a cell."""
    sharp = float(selection.g(np.linspace(0, 1, 33), np.linspace(1, 0, 33)).max())
    x, w = np.polynomial.legendre.leggauss(min(32, 4 + math.ceil(4 * sharp / k)))
    return (x + 1) / 2, w / 2
