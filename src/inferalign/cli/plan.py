"""`inferalign plan`: what a recipe will reach, before any model is loaded: KL, win rates, anchors and cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from inferalign.theory.blackbox import OwnRanks
    from inferalign.theory.curves import Point
    from inferalign.theory.planner import Plan
    from inferalign.theory.procedures import Selection


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """A recipe, and what to say of it. One of `--kl`, `--beta` and `--win-rate` sets its strength."""

    procedure: Annotated[str | None, Parameter(name="--for")] = None
    """How the model will be decoded: `sample`, `best-of-n:N` or `worst-of-n:N`; not with `--from`."""
    transform: str = "optimal"
    """`identity`, `log`, `exp:10`, `exp:-10`, `power:7`, `one-shot` or `optimal`."""
    kl: float | None = None
    """KL to the base model, in nats."""
    beta: float | None = None
    """KL weight, in units of the rescaled transform: e^(t(x-1)) for `exp:t` with t > 0, else as printed."""
    win_rate: float | None = None
    """The win rate to aim at, a fraction; beside `--kl`, only to learn whether any recipe can reach it there."""
    anchors: int | None = None
    """Reference rollouts a prompt to forecast with; none takes the number recommended."""
    max_loss: float = 0.005
    """Win rate that too few anchors may cost: decides how many are recommended."""
    prompts: int | None = None
    """Training prompts, to count rollouts."""
    tokens_per_reply: float | None = None
    """Mean tokens of a reply, to count tokens (with `--prompts`)."""
    curve: Path | None = None
    """A .csv file to write: KL against win rate for every transform, several N; with matplotlib an .svg beside it."""
    scores: Path | None = None
    """Your own reward's scores of base answers, K a prompt (.jsonl or .csv): forecasts for that reward."""
    run_from: Annotated[list[Path] | None, Parameter(name="--from", negative="")] = None
    """A run of any procedure whose answers are scored, to estimate it from; a second on another base model tests it."""
    reference: Annotated[list[Path] | None, Parameter(negative="")] = None
    """For each `--from`: a `best-of-n:K` run of its base model, other seed, same prompts and guide."""
    seed: int = 0
    """Breaks ties between scores, and draws anchors from `--scores`."""
    run: Path | None = None
    """A run folder to keep the answer in; none keeps nothing."""


DEFAULTS = PlanOptions()


def plan(options: PlanOptions = DEFAULTS) -> None:
    """KL, beta, win rates, anchors and rollouts of a recipe, without a model."""
    from inferalign.cli.tables import emit, show
    from inferalign.core.errors import InputError
    from inferalign.theory.planner import plan as make_plan

    for name, value in (("--prompts", options.prompts), ("--tokens-per-reply", options.tokens_per_reply)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value} counts nothing: give a number above 0")
    if options.tokens_per_reply is not None and options.prompts is None:
        raise InputError("--tokens-per-reply counts nothing without --prompts: give both")
    if options.curve is not None:
        _check_curve(options.curve, options.run)
    selection, seen = _selection(options)
    made = make_plan(
        selection,
        options.transform,
        kl=options.kl,
        beta=options.beta,
        target=options.win_rate,
        anchors=options.anchors,
        max_loss=options.max_loss,
    )
    said = made.as_json() | seen | _scores(options, made) | _cost(options, made)
    drawn = {} if options.curve is None else _curve(options.curve, selection)
    if options.run is not None:
        _keep(options, said)
    said |= drawn
    show(_table(made, said))
    emit(said)


def _selection(options: PlanOptions) -> tuple[Selection, dict[str, Any]]:
    """The procedure by its name, or as its recorded outputs show it, with what is known of that estimate."""
    from inferalign.core.errors import InputError
    from inferalign.theory.procedures import parse_selection

    runs, references = options.run_from or [], options.reference or []
    if (options.procedure is None) == (not runs):
        raise InputError(
            "a plan is for one procedure: give `--for best-of-n:4`, or `--from RUN --reference REF`, and not both"
        )
    if options.procedure is not None and not references:
        return parse_selection(options.procedure), {}
    if len(runs) != len(references) or len(runs) > 2:
        raise InputError("--from and --reference come in pairs, one or two: give one `--reference REF` for each run")
    from inferalign.theory.blackbox import FEW, beta_mixture
    from inferalign.theory.recorded import ranked, require_two_bases
    from inferalign.theory.validity import bands

    outputs = [ranked(run, reference, options.seed) for run, reference in zip(runs, references, strict=True)]
    if len(runs) == 2:
        require_two_bases(runs, references)
    tested = _validity(outputs, options.seed)
    fewest = min(int(each.counts.min()) for each in outputs)
    facts = {
        "outputs": int(outputs[0].rank.size),
        "reference_anchors": int(outputs[0].counts.min()),
        "win_rate_error": 2 * bands(outputs[0], beta_mixture, options.seed).largest,
        "warning": f"only {fewest} reference scores: give `best-of-n:100`" if fewest < FEW else None,
    }
    return beta_mixture(outputs[0]), {"from": [str(run) for run in runs], "estimate": facts, "validity": tested}


def _validity(outputs: list[OwnRanks], seed: int) -> str | dict[str, float]:
    from inferalign.theory.validity import require_calibrated

    if len(outputs) == 1:
        return "untested"
    first, second = outputs
    found = require_calibrated(first, second, seed)
    return {"distance": found.distance, "p_value": found.p_value, "noticeable": found.noticeable}


def _scores(options: PlanOptions, made: Plan) -> dict[str, Any]:
    if options.scores is None:
        return {}
    from inferalign.theory.score_files import read_scores
    from inferalign.theory.scores import forecast, quality

    scores = read_scores(options.scores)
    found = quality(scores, options.seed)
    expected = forecast(scores, made.selection, made.recipe.transform, made.recipe.kl, options.seed)
    return {"scores": {"file": str(options.scores), **found.as_json(), "forecast": expected.as_json()}}


def _cost(options: PlanOptions, made: Plan) -> dict[str, Any]:
    """Rollouts of the base model to draw and score once, and the tokens in them."""
    if options.prompts is None:
        return {}
    rollouts = options.prompts * (options.anchors or made.anchors)
    tokens = None if options.tokens_per_reply is None else round(rollouts * options.tokens_per_reply)
    return {"prompts": options.prompts, "rollouts": rollouts, "tokens": tokens}


def _check_curve(path: Path, run: Path | None) -> None:
    """Refuse a destination before anything is computed or kept. A curve may lie in the run folder, made or not."""
    from inferalign.core.errors import InputError
    from inferalign.theory.curves import check_csv

    check_csv(path)
    if not path.parent.is_dir() and (run is None or path.parent.resolve() != run.resolve()):
        raise InputError(f"there is no folder {path.parent} for --curve: type `mkdir -p {path.parent}` first")
    for file in (path, path.with_suffix(".svg")):
        if file.is_dir():
            raise InputError(f"{file} is a folder, and --curve writes a file there: give another name")


def _curve(path: Path, selection: Selection) -> dict[str, Any]:
    """Write the curve of every transform and relative of the procedure, and its figure."""
    from inferalign.theory.curves import curve, relatives, write_csv

    points = [point for each in relatives(selection) for point in curve(each)]
    write_csv(path, points)
    return {"curve": str(path), "figure": _figure(path.with_suffix(".svg"), points)}


def _figure(path: Path, points: list[Point]) -> str | None:
    """Draw the SVG if matplotlib is there; else say in one line what to install."""
    from importlib.util import find_spec

    from inferalign.cli.tables import show
    from inferalign.reports.families import write_family

    if find_spec("matplotlib") is None:
        show(f"no figure {path}: matplotlib is not installed. Type: pip install 'inferalign[report]'")
        return None
    return str(write_family(path, points))


def _keep(options: PlanOptions, said: dict[str, Any]) -> None:
    """The answer as a run folder; the same plan of the same inputs again changes nothing."""
    from inferalign.core.config import to_dict
    from inferalign.core.environment import environment
    from inferalign.core.files import write_json_atomic
    from inferalign.core.records import RunFolder

    assert options.run is not None
    config = {key: value for key, value in to_dict(options).items() if key not in ("run", "curve")}
    config["inputs"] = _inputs(options)
    with RunFolder.open(options.run, config, environment(), kind="plan") as folder:
        if folder.wants("plan"):
            folder.append({"id": "plan", **said})
    write_json_atomic(options.run / "metrics.json", said)


def _inputs(options: PlanOptions) -> dict[str, str]:
    """The sha256 of what was read, by its path; of a run folder, over its record files in order."""
    from hashlib import file_digest, sha256

    from inferalign.core.files import disk_errors

    found = {}
    for path in (options.scores, *(options.run_from or ()), *(options.reference or ())):
        if path is None:
            continue
        files = sorted((path / "records").glob("*.jsonl")) if path.is_dir() else [path]
        whole = sha256()
        for file in files:
            with disk_errors(file, "read"), file.open("rb") as opened:
                whole.update(file_digest(opened, "sha256").digest())
        found[str(path)] = whole.hexdigest()
    return found


def _anchors(made: Plan) -> str:
    return f"{'about ' if made.as_json()['anchors_extrapolated'] else ''}{made.anchors:,}"


def _table(made: Plan, said: dict[str, Any]) -> Table:
    from rich.table import Table

    recipe = made.recipe
    title = f"{recipe.name} for {made.selection.name}: KL {recipe.kl:.4g} nats, beta {recipe.beta:.4g}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = {
        "win rate under the procedure": _percent(recipe.win.win),
        "win rate of one draw": _percent(recipe.plain.win),
        "ceiling: the optimal transform": _percent(made.ceiling.win),
        "gap to the ceiling, points": f"{100 * said['gap']:.2f}",
        "calibration alone (identity)": _percent(made.identity.win),
        "gain over it, points": f"{100 * said['gain']:.2f}",
        f"anchors a prompt, for a loss of at most {100 * made.max_loss:g} points": _anchors(made),
    }
    if made.used is not None:
        rows[f"win rate with {made.used.anchors:,} anchors"] = _percent(made.used.win_rate)
        rows["  beta there, for the same mean KL"] = f"{made.used.beta:.4g}"
    if "rollouts" in said:
        rows["rollouts to draw and score"] = f"{said['rollouts']:,}"
    if said.get("tokens"):
        rows["tokens in them"] = f"{said['tokens']:,}"
    if "validity" in said:
        tested = said["validity"]
        rows["sampling error of these win rates (95 % of bootstraps), points"] = (
            f"{100 * said['estimate']['win_rate_error']:.1f}"
        )
        if said["estimate"]["warning"]:
            rows["warning: coarse ranks"] = said["estimate"]["warning"]
        rows["is it calibrated"] = "validity untested" if tested == "untested" else f"p = {tested['p_value']:.3g}"
    if "scores" in said:
        rows |= _score_rows(said["scores"])
    for name, value in rows.items():
        table.add_row(name, value)
    if recipe.limiting:
        table.caption = "losing rate below 1e-12: the limiting form of the optimum"
    return table


def _score_rows(found: dict[str, Any]) -> dict[str, str]:
    expected = found["forecast"]
    return {
        f"your scores: prompts x scores (fewest) in {found['file']}": f"{found['prompts']:,} x {found['anchors']:,}",
        "  pairs that tie": _percent(found["tied"]),
        "  largest mean KL that they allow": f"{found['kl_limit']:.3f}",
        "  standard error of a calibrated reward": f"{found['error']:.3f}",
        "  error of one quantile map for all prompts": f"{found['global_error']:.3f}",
        "  win rate with them as anchors": f"{_percent(expected['win_rate'])} ({100 * expected['win_rate_se']:.2f})",
        "  win rate of one draw": _percent(expected["win_rate_plain"]),
        "  beta, for the same mean KL": f"{expected['beta']:.4g}",
    }


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"
