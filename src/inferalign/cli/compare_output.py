"""What `inferalign compare` shows and leaves behind: tables, two CSV files, a figure, completed cards."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from inferalign.cli.tables import short, show
from inferalign.core.files import write_bytes_atomic
from inferalign.core.stats import Estimate

if TYPE_CHECKING:
    from inferalign.reports.figures import Series
    from inferalign.winrate.ceiling import Ceiling
    from inferalign.winrate.compare import Comparison, Measured, Row

CURVE_POINTS = 30
"""KLs at which a theory curve is computed: enough for a line without marks."""


def tables(found: Comparison) -> list[Table]:
    """One row a policy and procedure; then differences; then recipes at the KL asked for, if one was."""
    made = [_rows_table(found), _verdicts_table(found)]
    if any(row.objective is not None for row in found.rows):
        made.append(_objectives_table(found))
    if found.differences:
        made.append(_differences_table(found))
    if found.kl is not None:
        made.append(_at_kl_table(found))
    return made


def above_in_words(found: Comparison) -> list[str]:
    """One line on each policy that wins more than theory allows: a sign that something was measured wrongly."""
    return [
        f"warning: {row.policy} wins {100 * (row.win_rate.mean or 0.0):.1f} % under {row.procedure}, and no policy "
        f"that ranks by the selector alone wins more than {100 * row.ceiling:.1f} at its KL: look for a base that is "
        "not the one it was trained from, prompts of its training, or a judge that sees what the selector does not"
        for row in found.rows
        if row.above_ceiling
    ]


def _rows_table(found: Comparison) -> Table:
    title = "Win rate against the base model under the same procedure, in % [95 % over prompts]; ties half"
    table = _table(title, ("procedure", "policy"), ("win rate", "KL, nats", "ceiling"))
    table.caption = (
        "ceiling: the largest win rate that one transform of the selector's rank allows at this KL, ! where the win "
        "rate lies above it by more than the intervals explain"
    )
    for row in found.rows:
        ceiling = f"{100 * row.ceiling:.1f}{' !' if row.above_ceiling else ''}"
        table.add_row(row.procedure, _name(row), short(row.win_rate), _nats(row.kl), ceiling)
    return table


def _verdicts_table(found: Comparison) -> Table:
    title = "Prompts, and verdicts that could not be made, by the answer's fault / by the scorer's"
    table = _table(title, ("procedure", "policy"), ("prompts", "left out", "selector", "judge"))
    for row in found.rows:
        counts = (f"{part['response']} / {part['judge']}" for part in row.unscored.values())
        table.add_row(row.procedure, _name(row), str(row.win_rate.n), str(row.left_out), *counts)
    return table


def _objectives_table(found: Comparison) -> Table:
    title = "J: the win rate of one draw by the selector, less beta KL"
    table = _table(title, ("policy",), ("J", "the largest there is"))
    one = found.rows[0].procedure  # J is the same under all
    for row in found.rows:
        if row.procedure == one and row.objective is not None and row.ideal is not None:
            table.add_row(_name(row), _nats(row.objective), f"{row.ideal:.3f}")
    return table


def _differences_table(found: Comparison) -> Table:
    title = f"Less {found.differences[0].against}, in points [95 %, paired over prompts]; KLs differ"
    table = _table(title, ("procedure", "policy"), ("win rate", "KL, nats"))
    for row in found.differences:
        kl = "-" if row.kl is None else _nats(row.kl)
        table.add_row(row.procedure, row.policy, short(row.win_rate), kl)
    return table


def _at_kl_table(found: Comparison) -> Table:
    title = f"At KL {found.kl:g} nats, each recipe's sweep interpolated; in % and in points [95 %]"
    table = _table(title, ("procedure", "recipe", "win rate"), ("less the first recipe", "ceiling"))
    less = {(each.procedure, each.policy): short(each.win_rate) for each in found.at_kl_differences}
    for row in found.at_kl:
        win = short(row.win_rate) if row.outside is None else row.outside
        table.add_row(
            row.procedure, row.recipe, win, less.get((row.procedure, row.recipe), "-"), f"{100 * row.ceiling:.1f}"
        )
    return table


def _name(row: Row) -> str:
    return row.policy if len(row.by_seed) == 1 else f"{row.policy} ({len(row.by_seed)} seeds)"


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """In a narrow terminal words are folded and numbers stay whole: one that is cut short is another number."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in words:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, no_wrap=True)
    return table


def _nats(estimate: Estimate) -> str:
    if estimate.mean is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def write_rows(path: Path, found: Comparison) -> None:
    """One line a policy and procedure, fractions and nats; an empty cell where nothing was measured."""
    head = [
        *("procedure", "policy", "win_rate", "win_rate_low", "win_rate_high", "kl", "kl_low", "kl_high"),
        *("objective", "ideal", "ceiling", "above_ceiling", "prompts", "left_out", "seeds"),
        *(f"unscored_{part}_{blame}" for part in ("selector", "judge") for blame in ("response", "judge")),
    ]
    lines = [
        [
            *(row.procedure, row.policy, *_three(row.win_rate), *_three(row.kl)),
            *(None if row.objective is None else row.objective.mean, row.ideal),
            *(row.ceiling, int(row.above_ceiling)),
            *(row.win_rate.n, row.left_out, len(row.by_seed)),
            *(row.unscored[part][blame] for part in ("selector", "judge") for blame in ("response", "judge")),
        ]
        for row in found.rows
    ]
    _write_csv(path, head, lines)


def write_prompts(path: Path, measured: Sequence[Measured]) -> None:
    """One line a policy and prompt: what every interval is made from."""
    procedures = list(measured[0].wins)
    lines = [
        [
            each.policy.name,
            prompt,
            each.kl[prompt],
            each.plain.get(prompt),
            *(w.get(prompt) for w in each.wins.values()),
        ]
        for each in measured
        for prompt in each.kl
    ]
    _write_csv(path, ["policy", "prompt", "kl", "plain_by_selector", *procedures], lines)


def _three(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.mean, estimate.low, estimate.high


def _write_csv(path: Path, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    write_bytes_atomic(path, text.getvalue().encode())


def write_curves(path: Path, found: Comparison, ceilings: Mapping[str, Ceiling]) -> str | None:
    """KL against win rate, one panel a procedure, theory behind the points; None without matplotlib."""
    from inferalign.reports.figures import Panel, write_figure
    from inferalign.theory.policies import RESOLVED_KL

    if find_spec("matplotlib") is None:
        show(f"no figure {path}: matplotlib is not installed. Type: pip install 'inferalign[report]'")
        return None
    largest = max([row.kl.mean or 0.0 for row in found.rows] + [0.1])
    # theory ends before a policy that has collapsed onto one answer may
    last = min(largest * 1.15, 0.9 * RESOLVED_KL)
    kls = [last * (i + 1) / CURVE_POINTS for i in range(CURVE_POINTS)]
    panels = [
        Panel(
            title=procedure,
            x_label="sequence KL, nats",
            y_label="win rate under the procedure, %",
            series=[
                _curve("theory: identity", kls, [ceiling.of("identity", kl) for kl in kls]),
                _curve("theory: ceiling", kls, [ceiling.at(kl) for kl in kls]),
                *_points([row for row in found.rows if row.procedure == procedure]),
            ],
        )
        for procedure, ceiling in ceilings.items()
    ]
    return str(write_figure(path, panels))


def _curve(name: str, kls: Sequence[float], rates: Sequence[float]) -> Series:
    from inferalign.reports.figures import Series

    return Series(name=name, x=kls, y=[Estimate(mean=100 * rate, low=None, high=None, n=1) for rate in rates])


def _points(rows: Sequence[Row]) -> list[Series]:
    """One line a recipe, through the points of its sweep."""
    from inferalign.reports.figures import Series

    made = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        sweep = [row for row in rows if row.recipe == recipe and row.kl.mean is not None]
        wins = [
            Estimate(n=row.win_rate.n, **{k: None if v is None else 100 * v for k, v in _named(row.win_rate).items()})
            for row in sweep
        ]
        made.append(Series(name=recipe, x=[row.kl.mean or 0.0 for row in sweep], y=wins))
    return made


def _named(estimate: Estimate) -> dict[str, float | None]:
    return dict(zip(("mean", "low", "high"), _three(estimate), strict=True))


def complete_card(folder: Path, rows: Sequence[Row], selector: str, judge: str) -> None:
    """Put what was measured into a checkpoint's card; a model that came without one is left as it is, and named."""
    from inferalign.winrate.card import MeasuredWinRate, read_card, with_measurements, write_card

    card = read_card(folder)
    if card is None:
        show(f"{folder} has no inferalign.json, so nothing was written into it: only `inferalign train` makes one")
        return
    measured = tuple(
        MeasuredWinRate(
            procedure=row.procedure,
            selector=selector,
            judge=judge,
            win_rate=row.win_rate,
            kl=row.kl,
            ceiling=row.ceiling,
        )
        for row in rows
    )
    write_card(folder, with_measurements(card, measured))
