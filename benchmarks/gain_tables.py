"""The tables and the figure of `ctrl_gain`: each is shown on stdout, and what it says is returned as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from benchmarks.gain_plan import BEST, KL, PROCEDURES, RECIPES, WORST, cpu_seconds
from benchmarks.gain_runs import Point
from benchmarks.gain_statistics import Gain, Sweeps, by_selector, cost_to_reach, judge_facts, nearest_training, smoothed
from benchmarks.sandbox_runs import cell
from inferalign.cli.tables import show
from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate
from inferalign.ctrl.anchors import AnchorSet
from inferalign.reports.figures import Panel, Series, write_figure
from inferalign.theory.grid import default_grid
from inferalign.theory.policies import beta_for_kl, policy, win_rate_plain
from inferalign.theory.transforms import FORMS, Identity
from inferalign.winrate.ceiling import Ceiling, ceilings
from inferalign.winrate.compare import Comparison, Measured, Policy, Row, measure
from inferalign.winrate.pools import Pool

CTRL = {BEST: "exp:10", WORST: "exp:-5"}
UNCALIBRATED = ("raw", "standardised")
"""The recipe that is on trial under each procedure."""
FOR = {"sample": "identity", **CTRL}
"""The recipe for each procedure."""
DRAWN = ("identity", "log", "raw")
"""Baselines in the figure, beside the panel's own recipe: six lines can be told apart."""
CURVE_POINTS = 40
T = TypeVar("T")


def policies(points: Sequence[Point], base: Pool) -> list[Measured]:
    """One a recipe, target and scale, training seeds averaged.

    All have one beta in J = W1 - beta KL, that of identity at the KL: that of a training is in its own reward's units.
    """
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.recipe, label(point)), []).append(point)
    beta = beta_for_kl(Identity(), KL, default_grid())
    ideal = policy(Identity(), beta, default_grid())
    show(f"J is W1 - {beta:.3f} KL; no policy of any kind has more than {win_rate_plain(ideal).win - beta * KL:.3f}")
    found = []
    for (recipe, name), same in sorted(groups.items(), key=lambda group: list(RECIPES).index(group[0][0])):
        found.append(measure(Policy(recipe, name, tuple(point.pool for point in same), beta), base, PROCEDURES))
    return found


def label(point: Point) -> str:
    """Tells the points of a recipe's sweep apart: the KL that beta was found for, and how far it was stretched."""
    return f"{point.target:g}" + ("" if point.scale == 1 else f" x{point.scale:g}")


def at_kl(sweeps: Sweeps, curves: Mapping[str, Ceiling]) -> dict[str, Any]:
    """Table 2: every recipe at the KL, with theory's prediction where the recipe is a transform of the rank."""
    table = Table("recipe", *(f"{name}: measured, theory" for name in PROCEDURES), title=titled("Win rate, %"))
    said: dict[str, Any] = {}
    for recipe in sweeps.recipes:
        said[recipe] = {}
        cells = []
        for name, curve in curves.items():
            win = attempt(lambda r=recipe, n=name: sweeps.win_rate(r, n))
            theory = predicted(curve, recipe)
            said[recipe][name] = {"win_rate": win if isinstance(win, str) else asdict(win), "predicted": theory}
            cells.append(f"{win if isinstance(win, str) else cell(win)}, {'-' if theory is None else percent(theory)}")
        table.add_row(recipe, *cells)
    table.add_row("ceiling", *(percent(curve.at(KL)) for curve in curves.values()))
    show(table)
    return said


def predicted(curve: Ceiling, recipe: str) -> float | None:
    """The win rate at the KL where theory knows the policy: that of a transform of the calibrated selector."""
    transform = RECIPES[recipe].transform
    known = transform.partition(":")[0] in {form.partition(":")[0] for form in FORMS}
    return curve.of(transform, KL) if known else None


def points_over_identity(curve: Ceiling, recipe: str) -> float:
    return 100 * (curve.of(recipe, KL) - curve.of("identity", KL))


def all_gains(sweeps: Sweeps) -> list[Gain]:
    """CTRL less every other recipe under its procedure, and what has no calibration less identity, which has.

    A sweep that does not enclose the KL is said and left out.
    """
    found = []
    for procedure in (*CTRL, "sample"):
        recipe = CTRL.get(procedure)
        pairs = [(recipe, other) for other in sweeps.recipes if recipe and other not in CTRL.values()]
        pairs += [(plain, "identity") for plain in UNCALIBRATED]
        for one, other in pairs:
            if {one, other} <= set(sweeps.recipes):
                gain = attempt(lambda p=procedure, r=one, o=other: sweeps.gain(p, r, o))
                if isinstance(gain, str):
                    show(f"no gain of {one} over {other} under {procedure}: {gain}")
                else:
                    found.append(gain)
    return found


def goals(gains: Sequence[Gain], theory: Mapping[str, float]) -> dict[str, bool]:
    """Whether CTRL's gain over identity is one, and at least half of theory's; a gain that is missing meets nothing."""
    own = {g.procedure: g.over_prompts for g in gains if g.against == "identity" and CTRL.get(g.procedure) == g.recipe}
    met = {}
    for procedure, points in theory.items():
        gain = own.get(procedure, Estimate.empty())
        half = gain.mean is not None and 100 * gain.mean >= points / 2
        met[f"{procedure}: the interval of the gain over identity lies above 0"] = (gain.low or 0.0) > 0
        met[f"{procedure}: at least half of theory's {points:.1f} points"] = half
    for goal, is_met in met.items():
        show(f"{'met   ' if is_met else 'MISSED'} {goal}")
    return met


def gains_table(gains: Sequence[Gain], theory: Mapping[str, float]) -> Table:
    columns = ("procedure", "recipe", "less", "over prompts", "over seeds and prompts", "by seed", "theory")
    table = Table(*columns, title=titled("Gain, points [95 %]"), title_justify="left")
    for gain in gains:
        expected = f"{theory[gain.procedure]:.1f}" if CTRL.get(gain.procedure) == gain.recipe else ""
        expected = expected if gain.against == "identity" else ""
        seeds = ", ".join(f"{100 * each:.1f}" for each in gain.by_seed)
        intervals = (cell(gain.over_prompts), cell(gain.over_seeds), seeds, expected)
        table.add_row(gain.procedure, gain.recipe, gain.against, *intervals)
    return table


def mismatch(sweeps: Sweeps) -> dict[str, Any]:
    """Table 4. A column's own recipe is held against each other one, paired; above 0 it is the better."""
    own = {procedure: recipe for procedure, recipe in FOR.items() if recipe in sweeps.recipes}
    table = Table("trained for", *(f"decoded with {name}" for name in PROCEDURES), title=titled("Mismatch, %"))
    said: dict[str, Any] = {}
    for trained, recipe in own.items():
        said[trained], cells = {}, []
        for name in PROCEDURES:
            win = attempt(lambda r=recipe, n=name: sweeps.win_rate(r, n))
            less = attempt(lambda r=recipe, n=name: sweeps.gain(n, own.get(n, r), r))
            if isinstance(win, str) or isinstance(less, str):
                cells.append("-")
                continue
            said[trained][name] = {"win_rate": asdict(win), "own_recipe_less_this": asdict(less.over_prompts)}
            cells.append(cell(win) + ("" if trained == name else f"; own less this {cell(less.over_prompts)}"))
        table.add_row(f"{trained} ({recipe})", *cells)
    show(table)
    return said


def by_itself(points: Sequence[Point], base: Pool) -> dict[str, Any]:
    """Table 5: the selector as judge, where theory is exact but for anchors and training."""
    own = Sweeps([point._replace(pool=by_selector(point.pool)) for point in points], by_selector(base))
    curves = ceilings(PROCEDURES, by_selector(base), judged_by_selector=True)
    title = titled("The selector as judge, %: measured, theory")
    table = Table("recipe", *PROCEDURES, title=title)
    said: dict[str, Any] = {}
    for recipe in own.recipes:
        said[recipe], cells = {}, []
        for name, curve in curves.items():
            win = attempt(lambda r=recipe, n=name: own.win_rate(r, n))
            theory = predicted(curve, recipe)
            said[recipe][name] = {"win_rate": win if isinstance(win, str) else asdict(win), "predicted": theory}
            cells.append(f"{'-' if isinstance(win, str) else cell(win)}, {'-' if theory is None else percent(theory)}")
        table.add_row(recipe, *cells)
    show(table)
    return said


def judged(base: Pool, length: float, points: Sequence[Point]) -> dict[str, Any]:
    """Table 6: the reasons why a gain may be smaller than theory's."""
    facts = judge_facts(base)
    show(
        f"selector against judge on the base model's answers: pair accuracy {cell(facts.accuracy)} %; pairs that tie: "
        f"judge {100 * facts.judge_ties:.1f} %, selector {100 * facts.selector_ties:.1f} %"
    )
    table = Table("policy", "seed", "KL, nats", "beta", "tokens an answer", title=f"Length; base model {length:.1f}")
    for point in points:
        table.add_row(
            f"{point.recipe}@{label(point)}",
            str(point.seed),
            f"{point.kl:.3f}",
            f"{point.beta:.3f}",
            f"{point.length:.1f}",
        )
    show(table)
    named = {f"{point.recipe}@{label(point)}-{point.seed}": point for point in points}
    return {
        "pair_accuracy": asdict(facts.accuracy),
        "judge_ties": facts.judge_ties,
        "selector_ties": facts.selector_ties,
        "base_length": length,
        "lengths": {name: point.length for name, point in named.items()},
        "measured_kl": {name: point.kl for name, point in named.items()},
    }


def costs(out: Path, points: Sequence[Point]) -> dict[str, Any]:
    """Table 7: each recipe's training that ended nearest to the KL, until identity's last win rate was reached."""
    anchors = AnchorSet.load(out / "anchors")
    spent = {"anchors_tokens": anchors.tokens, "anchors_cpu": cpu_seconds(out / "anchors", "shard")}
    table = Table("recipe", "procedure", "stated, %", "steps", "tokens with anchors", "CPU s with anchors")
    table.title = f"Price, mean over seeds; the anchors are {anchors.tokens:,} tokens and {spent['anchors_cpu']:.0f} s"
    said: dict[str, Any] = {**spent, "recipes": {}}
    seeds = sorted({point.seed for point in points})
    recipes = list(dict.fromkeys(point.recipe for point in points))
    for procedure in CTRL if "identity" in recipes else ():
        for recipe in recipes:
            ends = [nearest_training(points, "identity", seed).curve for seed in seeds]
            stated = [float(smoothed(curve, procedure)[-1]) for curve in ends]
            found = [
                cost_to_reach(nearest_training(points, recipe, seed).curve, procedure, state)
                for seed, state in zip(seeds, stated, strict=True)
            ]
            steps = [each.steps for each in found if each.steps is not None]
            never = len(found) - len(steps)
            reached = f"never in {never} of {len(found)}" if never else f"{sum(steps) / len(steps):.0f}"
            tokens = anchors.tokens + sum(each.tokens for each in found) / len(found)
            cpu = spent["anchors_cpu"] + sum(each.cpu for each in found) / len(found)
            mean = sum(stated) / len(stated)
            least = ">" if never else ""  # what was never reached would cost more
            table.add_row(recipe, procedure, percent(mean), reached, f"{least}{tokens:,.0f}", f"{least}{cpu:,.0f}")
            said["recipes"].setdefault(recipe, {})[procedure] = {
                "stated": mean,
                "steps": [each.steps for each in found],
                "tokens": tokens,
                "cpu_seconds": cpu,
            }
    show(table)
    return said


def figure(path: Path, found: Comparison, curves: Mapping[str, Ceiling]) -> str:
    """KL against win rate, a panel a procedure, theory for this selector and judge behind the measurements."""
    largest = max([row.kl.mean or 0.0 for row in found.rows] + [KL])
    kls = [1.1 * largest * (i + 1) / CURVE_POINTS for i in range(CURVE_POINTS)]
    panels = []
    for procedure, curve in curves.items():
        own = FOR[procedure]
        theory = [name for name in dict.fromkeys(("identity", own))]
        series = [line(f"theory: {name}", kls, [curve.of(name, kl) for kl in kls]) for name in theory]
        series.append(line("theory: ceiling", kls, [curve.at(kl) for kl in kls]))
        rows = [row for row in found.rows if row.procedure == procedure]
        series += [measured_line(rows, name) for name in dict.fromkeys((own, *DRAWN)) if has(rows, name)]
        panels.append(
            Panel(
                title=procedure, x_label="sequence KL, nats", y_label="win rate under the procedure, %", series=series
            )
        )
    return str(write_figure(path, panels))


def has(rows: Sequence[Row], recipe: str) -> bool:
    return any(row.recipe == recipe for row in rows)


def line(name: str, kls: Sequence[float], rates: Sequence[float]) -> Series:
    return Series(name=name, x=kls, y=[Estimate(mean=100 * rate, low=None, high=None, n=1) for rate in rates])


def measured_line(rows: Sequence[Row], recipe: str) -> Series:
    """The points of one recipe's sweeps, with their intervals."""
    own = [row for row in rows if row.recipe == recipe]
    return Series(name=recipe, x=[row.kl.mean or 0.0 for row in own], y=[in_percent(row.win_rate) for row in own])


def in_percent(share: Estimate) -> Estimate:
    mean, low, high = (hundred(each) for each in (share.mean, share.low, share.high))
    return Estimate(mean=mean, low=low, high=high, n=share.n)


def attempt(work: Callable[[], T]) -> T | str:
    """A result, or why there is none: a sweep that does not enclose the KL is a finding, not a failure."""
    try:
        return work()
    except InputError as error:
        return str(error)


def titled(what: str) -> str:
    return f"{what}, each recipe's sweep interpolated at KL {KL:g} on the test prompts [95 % over prompts]"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share
