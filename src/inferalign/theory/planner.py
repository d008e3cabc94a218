"""What a recipe will reach before a model is trained: beta, KL, win rates, the ceiling, and the anchors that it needs.

Everything follows from the procedure's selection density, the transform and one of KL, beta and win rate (InfAlign,
arXiv 2412.19792: with a calibrated reward neither the model nor the reward matters). The ceiling at a KL is the win
rate of the optimal transform there: no recipe of any kind reaches more while selector and judge are the reward that
was trained on, because KL to the reference is at least int f log f for every policy with these quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inferalign.core.errors import InputError
from inferalign.theory.finite import MAX_ANCHORS, Anchored, anchored, anchors_for, harmonic
from inferalign.theory.optimal import Unconverged, grid_for, solve
from inferalign.theory.policies import RESOLVED_KL, beta_for_kl, policy, win_rate, win_rate_plain
from inferalign.theory.procedures import Selection, WinRate
from inferalign.theory.transforms import Optimal, Transform, parse_transform

MAX_LOSS = 0.005
"""Half a point: the loss to too few anchors that a plan accepts unless told otherwise."""
SMALLEST_KL = 1e-6
"""The smallest KL (nats) that is planned for: win rates there are 1/2 to two digits."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """A transform at one beta, and what training on it ends at."""

    name: str
    transform: Transform
    beta: float
    """In the units of the transform's normalised form."""
    kl: float
    win: WinRate
    """Under the procedure on both sides."""
    plain: WinRate
    """One draw of each side."""
    limiting: bool = False
    """Whether the optimum's limiting form was given (losing rate below 1e-12)."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A recipe beside the best and the plainest ones at its KL, and the anchors that keep its gain."""

    selection: Selection
    recipe: Recipe
    ceiling: WinRate
    """The optimal transform at the same KL."""
    identity: WinRate
    """Calibration alone at the same KL."""
    max_loss: float
    anchors: int
    """The smallest K whose win rate is within `max_loss`; above `MAX_ANCHORS` an extrapolation, two digits."""
    used: Anchored | None
    """The recipe with the anchors asked for, or else with `anchors`; None where these are too many to simulate."""

    def as_json(self) -> dict[str, Any]:
        """JSON values; rates are fractions."""
        recipe, used = self.recipe, self.used
        return {
            "procedure": self.selection.name,
            "transform": recipe.name,
            "kl": recipe.kl,
            "beta": recipe.beta,
            "win_rate": recipe.win.win,
            "losing_rate": recipe.win.lose,
            "win_rate_plain": recipe.plain.win,
            "ceiling": self.ceiling.win,
            "gap": recipe.win.lose - self.ceiling.lose,
            "identity": self.identity.win,
            "gain": self.identity.lose - recipe.win.lose,
            "limiting": recipe.limiting,
            "anchors": self.anchors,
            "anchors_extrapolated": self.anchors > MAX_ANCHORS,
            "max_loss": self.max_loss,
            "with_anchors": used
            and {
                "anchors": used.anchors,
                "beta": used.beta,
                "win_rate": used.win_rate,
                "loss": recipe.win.win - used.win_rate,
                "kl_limit": harmonic(used.anchors),
            },
        }


def plan(
    selection: Selection,
    transform: str,
    *,
    kl: float | None = None,
    beta: float | None = None,
    target: float | None = None,
    anchors: int | None = None,
    max_loss: float = MAX_LOSS,
) -> Plan:
    """Forecast training on `transform` (text form) for the procedure, at one KL (nats), one beta or one win rate.

    target: a win rate under the procedure, as a fraction; given beside `kl` it is only held against the ceiling there.
    anchors: K reference rollouts a prompt to forecast with, instead of the K that the plan recommends.

    Raises `InputError` for anything that cannot be used, and when no recipe can reach the target.
    """
    _check(kl, beta, target, max_loss)
    recipe = find(selection, transform, kl=kl, beta=beta, target=target)
    if kl is None:
        _check_reached(recipe, selection, beta, target)
    best = recipe if recipe.name == "optimal" else find(selection, "optimal", kl=recipe.kl)
    if target is not None and kl is not None and target > best.win.win:
        raise _unreachable(selection, target, best, ", or a larger `--kl`")
    plainest = find(selection, "identity", kl=recipe.kl)

    def loss(k: int) -> float:
        # either way: few anchors blunt a transform, and by that a harmful one wins more than is aimed at
        return abs(recipe.win.win - anchored(selection, recipe.transform, k, recipe.kl).win_rate)

    enough = anchors_for(loss, recipe.kl, max_loss)
    used = None
    if anchors is not None or enough <= MAX_ANCHORS:
        used = anchored(selection, recipe.transform, enough if anchors is None else anchors, recipe.kl)
    return Plan(selection, recipe, best.win, plainest.win, max_loss, enough, used)


def find(
    selection: Selection,
    transform: str,
    *,
    kl: float | None = None,
    beta: float | None = None,
    target: float | None = None,
) -> Recipe:
    """The recipe at a KL, else at a beta, else at the win rate `target`. Raises `InputError` as `plan` does."""
    shape = parse_transform(transform, selection)
    if kl is None and beta is None and target is not None:
        _check_needed(selection, transform, target)
    if isinstance(shape, Optimal):
        if kl is None and beta is None and target is not None:
            return _best_reaching(selection, target)
        return _best(selection, kl=kl) if kl is not None else _best(selection, beta=beta)
    if kl is not None:
        beta = beta_for_kl(shape, kl, grid_for(selection))
    elif beta is None:
        assert target is not None, "one of kl, beta and target is needed"
        return _reaching(selection, transform, shape, target)
    return _at_beta(selection, transform, shape, beta)


def _check(kl: float | None, beta: float | None, target: float | None, max_loss: float) -> None:
    if (kl is None) + (beta is None) != 1 and not (kl is None and beta is None and target is not None):
        raise InputError("a plan needs one of KL, beta and win rate: give for example `--kl 0.5`")
    if beta is not None and target is not None:
        raise InputError("a win rate and a beta leave nothing to choose: give `--win-rate` alone, or with `--kl`")
    if kl is not None and not SMALLEST_KL <= kl < RESOLVED_KL:
        raise InputError(
            f"KL {kl:g} cannot be planned for: give nats from {SMALLEST_KL:g} to below {RESOLVED_KL:g}, for example "
            "`--kl 0.5`"
        )
    if beta is not None and not 0 < beta < math.inf:
        raise InputError(f"beta {beta:g} cannot be used: give a positive number, for example `--beta 0.1`")
    if target is not None and not 0.5 < target < 1:
        raise InputError(
            f"win rate {target:g} cannot be aimed at: give a fraction above 0.5 and below 1, for example "
            "`--win-rate 0.9`"
        )
    if not 0 < max_loss < 1:
        raise InputError(
            f"max loss {max_loss:g} cannot be used: give a fraction above 0, for example `--max-loss 0.005`"
        )


def _check_reached(recipe: Recipe, selection: Selection, beta: float | None, target: float | None) -> None:
    """The KL that a beta or a win rate asks for is one that can be planned for; told in terms of what was given."""
    if recipe.kl < SMALLEST_KL:
        raise InputError(
            f"beta {beta:g} leaves the base model as it is: its KL with {recipe.name} is below {SMALLEST_KL:g}: give a "
            "smaller `--beta`"
        )
    if recipe.kl >= RESOLVED_KL:
        asked = f"beta {beta:g}" if beta is not None else f"a win rate of {target:.15g}"
        less = "a larger `--beta`" if beta is not None else "a smaller `--win-rate`"
        raise InputError(
            f"{asked} with {recipe.name} under {selection.name} asks for KL {recipe.kl:.3g}, and plans stop "
            f"below {RESOLVED_KL:g}: give {less}"
        )


def _check_needed(selection: Selection, transform: str, target: float) -> None:
    """At the smallest KL a plan must still lose to the target, or there is nothing to train for."""
    least = find(selection, transform, kl=SMALLEST_KL).win.win
    if target < least:
        raise InputError(
            f"a win rate of {target:.15g} is too small to plan for: KL {SMALLEST_KL:g} with {transform} under "
            f"{selection.name} wins more: give `--win-rate {math.ceil(1e4 * least) / 1e4:g}` or more"
        )


def _at_beta(selection: Selection, name: str, shape: Transform, beta: float) -> Recipe:
    p = policy(shape, beta, grid_for(selection))
    return Recipe(name, shape, beta, p.kl, win_rate(p, selection), win_rate_plain(p))


def _best(selection: Selection, *, kl: float | None = None, beta: float | None = None) -> Recipe:
    found = solve(selection, kl=kl, beta=beta)
    plain = win_rate_plain(policy(found.transform, found.beta, found.transform.grid))
    win = WinRate(win=found.win_rate, lose=found.losing_rate)
    return Recipe("optimal", found.transform, found.beta, found.kl, win, plain, found.limiting)


def _reaching(selection: Selection, name: str, shape: Transform, target: float) -> Recipe:
    """Along log beta: with an increasing transform every quantile of the policy rises as beta falls."""

    def recipe(x: float) -> Recipe:
        return _at_beta(selection, name, shape, math.exp(-x))

    strong = 0.0
    while (found := recipe(strong)).win.win < target:
        if found.kl > RESOLVED_KL or strong > 700:
            raise InputError(
                f"no KL up to {min(found.kl, RESOLVED_KL):.3g} reaches a win rate of {target:.15g} with {name} under "
                f"{selection.name}: give a smaller `--win-rate`, or `--transform optimal`"
            )
        strong += 2.0
    weak = strong - 2.0
    while recipe(weak).win.win >= target:
        weak -= 2.0
    return recipe(_crossing(lambda x: recipe(x).win, weak, strong, target))


def _best_reaching(selection: Selection, target: float) -> Recipe:
    """Newton on log lose, whose derivative by KL is -beta / lose at the optimum. Raises `Unconverged`."""
    kl = 0.25
    for _ in range(100):
        found = _best(selection, kl=kl)
        miss = math.log(found.win.lose / (1 - target))
        if abs(miss) < 1e-11:
            return found
        if miss > 0 and kl == RESOLVED_KL:
            raise _unreachable(selection, target, found, "")
        kl = min(max(kl + miss * found.win.lose / found.beta, kl / 4, SMALLEST_KL), 4 * kl, RESOLVED_KL)
    raise Unconverged(f"no KL was found at which the optimum for {selection.name} wins {target:.15g}")


def _crossing(rate: Callable[[float], WinRate], low: float, high: float, target: float) -> float:
    """Where an increasing rate meets the target: false position on log lose, the end that stays counting half."""

    def miss(x: float) -> float:
        return math.log(rate(x).lose / (1 - target))

    above, below = miss(low), miss(high)
    x = high
    for _ in range(100):
        x = low + (high - low) * above / (above - below)
        found = miss(x)
        if abs(found) < 1e-12 or high - low < 1e-14 * max(1.0, abs(x)):
            break
        low, high, above, below = (x, high, found, below / 2) if found > 0 else (low, x, above / 2, found)
    return x


def _unreachable(selection: Selection, target: float, best: Recipe, otherwise: str) -> InputError:
    most = math.floor(1e6 * best.win.win) / 1e6
    wins = f"{best.win.win:.6f}" if best.win.lose > 5e-7 else f"all but {best.win.lose:.2g} of contests"
    return InputError(
        f"no recipe can reach this: at KL {best.kl:g} under {selection.name} the optimal transform wins {wins}, below "
        f"{target:.15g}: give `--win-rate {most:g}` or less{otherwise}"
    )
