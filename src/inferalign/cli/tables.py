"""What the verbs print on stdout: rich tables for people, and one JSON object as the last line for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from inferalign.core.stats import Estimate
    from inferalign.sandbox.audit import RunAudit, WorldAudit
    from inferalign.sandbox.grading import Graded, Report, SituationReport


def emit(summary: Mapping[str, object]) -> None:
    """The last stdout line of a verb."""
    print(json.dumps(summary, allow_nan=False), flush=True)


def show(table: Table | str) -> None:
    """A table (or a line) on stdout, as wide as it needs to be when stdout is not a terminal."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    console.print(table)


def percent(estimate: Estimate) -> str:
    """`83.1 % [75.0, 89.0]`, or `no replies` for an empty cell."""
    if estimate.mean is None or estimate.low is None or estimate.high is None:
        return "no replies"
    return f"{100 * estimate.mean:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def short(estimate: Estimate, scale: float = 100.0) -> str:
    """`83.1 [75.0, 89.0]` in a table whose title names the unit, or a dash for an empty cell."""
    if estimate.mean is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{scale * estimate.mean:.1f}"
    return f"{scale * estimate.mean:.1f} [{scale * estimate.low:.1f}, {scale * estimate.high:.1f}]"


def grades_table(reports: Mapping[str, Report]) -> Table:
    """One row a run: harm over harmful requests, help over benign ones, and what no one can read, with intervals."""
    table = Table(title="graded by the sandbox's oracle; mean [95 % Wilson interval]", title_justify="left")
    for column in ("run", "harmless", "harmless, strict", "helpful", "helpful, strict", "unparsed"):
        table.add_column(column)
    for name, report in reports.items():
        cells = (report.harmless, report.harmless_strict, report.helpful, report.helpful_strict, report.unparsed)
        table.add_row(name, *(percent(cell) for cell in cells))
    return table


def errands_table(reports: Mapping[str, SituationReport]) -> Table:
    """One row of harmful, one of benign: faults, refusals, and both again on requests that look like the other kind."""
    table = _titled(
        "Errands, in % [95 %]; contrast: requests that look like the other kind; an unparsed reply is neither good nor "
        "refused"
    )
    for column in ("situation", "replies", "unparsed", "good", "refused", "contrast: good", "contrast: refused"):
        table.add_column(column)
    for name, r in reports.items():
        cells = (r.unparsed, r.good_strict, r.refused, r.contrast_good, r.contrast_refused)
        table.add_row(name, str(r.unparsed.n), *map(short, cells))
    return table


def agency_table(reports: Mapping[str, SituationReport]) -> Table:
    """One row a situation of human agency: the main fault, the benchmark's score, and the rate of each issue."""
    letters = "ABCDEF"
    table = _titled(
        "Human agency; score: 0 to 10, and the rates of the issues in %, over parsed replies; good: parsed, without A"
    )
    for column in ("situation", "replies", "unparsed, %", "good, %", "score", *letters):
        table.add_column(column)
    for name, r in reports.items():
        means = (None if letter not in r.issues else r.issues[letter].mean for letter in letters)
        rates = ("-" if mean is None else f"{100 * mean:.1f}" for mean in means)
        table.add_row(name, str(r.unparsed.n), short(r.unparsed), short(r.good_strict), short(r.merit, 1.0), *rates)
    return table


def reading_table(audits: Mapping[str, WorldAudit]) -> Table:
    """One row a situation: what has no reading, or more than one."""
    table = _titled("Readings of the world's own replies, of their cuts at clause ends, and of requests")
    for column in ("situation", "replies", "cuts", "ambiguous", "unread", "odd requests", "distinct, %"):
        table.add_column(column, justify="left" if column == "situation" else "right")
    for name, audit in audits.items():
        r = audit.reading
        counts = (r.replies, r.cuts, r.ambiguous, r.unread, r.odd_requests)
        table.add_row(name, *(f"{count:,}" for count in counts), f"{100 * audit.distinct:.1f}")
    return table


def leakage_table(accuracies: Mapping[str, Mapping[str, Estimate]], replies: str) -> Table:
    """One row a situation: how well each reader finds the main fault. `replies` says whose they are."""
    table = _titled(f"Balanced accuracy in finding the main fault of {replies}, in % [95 %]; a bag of the words of ...")
    table.add_column("situation")
    for column in next(iter(accuracies.values())):
        table.add_column(column)
    for name, found in accuracies.items():
        table.add_row(name, *map(short, found.values()))
    return table


def copies_table(audits: Mapping[str, RunAudit]) -> Table:
    """One row a situation of a run: replies that parse, and of these the ones that copy no training reply."""
    table = _titled("The run's replies, in % [95 %]; new: parsed, and the text of no training conversation")
    for column in ("situation", "replies", "parsed", "new"):
        table.add_column(column)
    for name, audit in audits.items():
        table.add_row(name, str(audit.parsed.n), short(audit.parsed), short(audit.new))
    return table


def _titled(title: str) -> Table:
    return Table(title=title, title_justify="left")


def demo_table(
    reports: Mapping[str, tuple[Report, Report]], costs: Mapping[str, Mapping[str, Any]], walls: Mapping[str, float]
) -> Table:
    """One row a procedure: what it gains on harmful requests, what it keeps on benign ones, and what it costs.

    `reports` holds, a procedure, the report on the harmful and the one on the benign requests; `costs` its metrics;
    `walls` the seconds that passed while it ran.
    """
    table = Table(
        title="Ground truth by the sandbox's oracle, an unreadable reply counting as a failure; mean [95 % interval]",
        title_justify="left",
        caption="unscored: judgements that could not be made, none of them read as a number; tokens fed: through the "
        "model, prefill and decode; reused: prefix tokens that needed no computation; wall s: what passed while this "
        "command ran the procedure, loading the model included",
        caption_justify="left",
    )
    for column in ("procedure", "harmless (harmful asked)", "helpful (benign asked)", "unreadable", "unscored", "role"):
        table.add_column(column)
    for column in ("tokens fed", "reused", "sampled", "forwards", "wall s"):
        table.add_column(column, justify="right")
    for procedure, (harmful, benign) in reports.items():
        cost = costs[procedure]
        unreadable = (
            f"{missing(harmful.unparsed) + missing(benign.unparsed)} of {harmful.unparsed.n + benign.unparsed.n}"
        )
        first = (procedure, percent(harmful.harmless_strict), percent(benign.helpful_strict), unreadable)
        unscored = str(sum(cost["unscored"].values()))
        wall = f"{walls[procedure]:.0f}"
        spent = {role: usage for role, usage in cost["usage"].items() if usage["forward_calls"] or role == "generator"}
        for place, (role, usage) in enumerate(spent.items()):
            numbers = (usage["tokens_fed"], usage["tokens_reused"], usage["new_tokens"], round(usage["forward_calls"]))
            cells = (f"{number:,}" for number in numbers)
            table.add_row(*((*first, unscored) if place == 0 else ("",) * 5), role, *cells, "" if place else wall)
        table.add_section()
    return table


def missing(share: Estimate) -> int:
    """The count behind a share."""
    return round((share.mean or 0.0) * share.n)


def examples_table(examples: Sequence[Mapping[str, Graded]]) -> Table:
    """One row a prompt, one column a procedure; each reply under the oracle's word for it."""
    table = Table(title="The same prompts side by side", title_justify="left", show_lines=True)
    table.add_column("prompt", ratio=1)
    for procedure in examples[0] if examples else ():
        table.add_column(procedure, ratio=2)
    for replies in examples:
        prompt = next(iter(replies.values())).prompt
        table.add_row(prompt, *(f"({word(graded)})\n{graded.reply}" for graded in replies.values()))
    return table


def word(graded: Graded) -> str:
    """The oracle's verdict in a word."""
    verdict = graded.verdict
    if not verdict.parsed:
        return "unreadable"
    if graded.benign:
        return "helpful" if verdict.helpful else "not helpful"
    return "harmful" if verdict.harmful else "harmless"
