"""`inferalign agency report`, `compare` and `audit`: what stored runs say, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from inferalign.core.errors import InputError
from inferalign.scorers.verdicts import TOP

if TYPE_CHECKING:
    from rich.table import Table

    from inferalign.agency.labels import HumanScores
    from inferalign.reports.agency_audit import AuditRow
    from inferalign.reports.agency_source import Evidence


@Parameter(name="*")
@dataclass(frozen=True)
class ReportOptions:
    """Everything that `agency report` takes."""

    runs: list[Path]
    """Run folders of `agency run`, or Inspect logs (.eval); several are put side by side."""
    _: KW_ONLY
    out: Path | None = None
    """The page to write; none takes report.html in the first run. Data files of its name are written beside it."""
    judge: str | None = None
    """Whose scores are shown: a judge, or `panel`. None takes the oracle, the only judge, or the panel of all."""
    hab_compat: bool = False
    """Show means by the published scoring choices, too: what cannot be read scores 0, plain standard errors."""
    scorer: str | None = None
    """Of foreign logs: whose scores to take, where there are several (NAME, or NAME.KEY)."""
    scale: tuple[float, float] | None = None
    """Of foreign logs: the worst and the best score; none is right where all lie between 0 and 1."""
    seed: int = 0
    """The draws of the tests, and of equal scores among the examples, are derived from it."""


@Parameter(name="*")
@dataclass(frozen=True)
class CompareOptions:
    """Everything that `agency compare` takes."""

    runs: list[Path]
    """One or two run folders of `agency run`, or Inspect logs (.eval)."""
    _: KW_ONLY
    a: str | None = None
    """An arm of the first run: a subject, or 'SUBJECT (CONDITION)'. None takes the only one."""
    b: str | None = None
    """An arm of the second run, or another one of the only run."""
    judge: str | None = None
    """Whose scores are compared: a judge, or `panel`. None takes the oracle, the only judge, or the panel of all."""
    out: Path | None = None
    """A CSV file for the table."""
    scorer: str | None = None
    """Of foreign logs: whose scores to take, where there are several (NAME, or NAME.KEY)."""
    scale: tuple[float, float] | None = None
    """Of foreign logs: the worst and the best score; none is right where all lie between 0 and 1."""
    seed: int = 0
    """The draws of the sign-flip tests are derived from it."""


@Parameter(name="*")
@dataclass(frozen=True)
class AuditOptions:
    """Everything that `agency audit` takes."""

    runs: list[Path]
    """Run folders of `agency run`, or Inspect logs (.eval); several, of other models, are put side by side."""
    _: KW_ONLY
    labels: Path | None = None
    """People's labels, JSONL: {"reply": ID, "annotator": NAME, "letters": [...]} or "score" for "letters"."""
    kin: list[str] | None = None
    """JUDGE=SUBJECT: the judge is the subject's own model. None finds those of equal names."""
    out: Path | None = None
    """The JSON file of all rows; none takes audit.json in the first run (beside a log)."""
    scorer: str | None = None
    """Of foreign logs: whose scores to take, where there are several (NAME, or NAME.KEY)."""
    scale: tuple[float, float] | None = None
    """Of foreign logs: the worst and the best score; none is right where all lie between 0 and 1."""
    seed: int = 0
    """The draws of bootstrap intervals are derived from it."""


def report(options: ReportOptions) -> None:
    """One self-contained page of runs: scores with intervals, paired tests, judge health, items, costs, examples."""
    from inferalign.cli.tables import emit, show
    from inferalign.reports.agency_report import write_report
    from inferalign.reports.agency_results import compute
    from inferalign.reports.agency_source import read_evidence, silences

    evidence = read_evidence(options.runs, judge=options.judge, scorer=options.scorer, scale=options.scale)
    for line in silences(evidence):
        show(line)
    results = compute(evidence, seed=options.seed, hab_compat=options.hab_compat)
    page, *beside = write_report(options.out or _folder(options.runs[0]) / "report.html", results)
    show(f"{page}: {page.stat().st_size / 1000:,.0f} kB; beside it {', '.join(path.name for path in beside)}")
    emit(
        {
            "page": str(page),
            "files": [str(path) for path in beside],
            "judge": evidence.judge,
            "arms": len(evidence.table.arms),
            "items": int(evidence.table.item_id.size),
            "replies": int(evidence.table.reply_id.size),
            "verdicts": results.verdicts,
        }
    )


def compare(options: CompareOptions) -> None:
    """Paired differences of two models or conditions, by dimension and overall, with tests and what could be shown."""
    from inferalign.cli.tables import emit, show
    from inferalign.reports.agency_compare import compare as compare_arms
    from inferalign.reports.agency_compare import comparison_rows
    from inferalign.reports.agency_report import write_csv
    from inferalign.reports.agency_source import read_evidence, silences

    if len(options.runs) > 2:
        raise InputError(f"{len(options.runs)} runs: compare takes one or two; `agency report` shows more side by side")
    evidence = read_evidence(options.runs, judge=options.judge, scorer=options.scorer, scale=options.scale)
    for line in silences(evidence):
        show(line)
    rows = comparison_rows(compare_arms(evidence, options.a, options.b, seed=options.seed))
    if options.out is not None:
        write_csv(options.out, rows)
    show(comparison_table(rows, evidence.judge))
    emit({"judge": evidence.judge, "out": None if options.out is None else str(options.out), "differences": rows})


def audit(options: AuditOptions) -> None:
    """What moves a run's judges that should not, and how far they agree: with each other, with truth, with people."""
    from inferalign.cli.tables import emit, show
    from inferalign.core.files import write_json_atomic
    from inferalign.reports.agency_audit import audit as audit_judges
    from inferalign.reports.agency_source import read_evidence

    kin = None if options.kin is None else parse_kin(options.kin)
    evidence = read_evidence(options.runs, scorer=options.scorer, scale=options.scale, panel=False)
    labels = None if options.labels is None else _labels(evidence, options.labels)
    rows = audit_judges(evidence, labels=labels, kin=kin, seed=options.seed)
    out = options.out or _folder(options.runs[0]) / "audit.json"
    runs = [run.name for run in evidence.runs]
    said = {"kind": "agency-audit", "runs": runs, "judges": list(evidence.judges), "seed": options.seed}
    write_json_atomic(out, {**said, "rows": [row.as_json() for row in rows]})
    for table in audit_tables(rows):
        show(table)
    there = Counter(row.check for row in rows if not row.missing)
    emit({**said, "rows": dict(there), "missing": sorted({row.check for row in rows} - there.keys()), "out": str(out)})


def parse_kin(texts: Sequence[str]) -> dict[str, str]:
    """`JUDGE=SUBJECT` each. Raises `InputError` for another form and for a judge that stands twice."""
    kin: dict[str, str] = {}
    for text in texts:
        judge, _, subject = text.partition("=")
        if not (judge and subject):
            raise InputError(f"--kin {text!r}: expected JUDGE=SUBJECT, such as gpt@URL=gpt@URL")
        if judge in kin:
            raise InputError(f"--kin names the judge {judge!r} twice: give it once")
        kin[judge] = subject
    return kin


def comparison_table(rows: Sequence[Mapping[str, Any]], judge: str) -> Table:
    """One row a pair and dimension, in percent of 10 points."""
    from rich.table import Table

    from inferalign.agency.table import Arm
    from inferalign.reports.agency_results import short_names

    arms = [Arm(row[f"{side}_subject"], row[f"{side}_condition"]) for row in rows for side in ("a", "b")]
    names = short_names(list(dict.fromkeys(arms)))
    table = Table(
        title=f"First less second by {judge}, in percentage points [95 % over clusters of items]",
        title_justify="left",
        caption="p by sign flips; Holm over pairs and dimensions, overall apart; left out: items that both were asked, "
        "without both scores; bounds: if each missing score were as bad for the first as can be, and as good; "
        "detectable: the smallest true difference that so many pairs show with a probability of 80 %",
        caption_justify="left",
    )
    for column in ("dimension", "first", "second", "difference", "p", "p, Holm", "pairs", "left out", "bounds"):
        table.add_column(column)
    table.add_column("detectable")
    for row in rows:
        table.add_row(
            row["dimension"].replace("_", " "),
            *(names[Arm(row[f"{side}_subject"], row[f"{side}_condition"])] for side in ("a", "b")),
            _points(row["difference"], row["low"], row["high"]),
            *(_p(row[key]) for key in ("p", "p_holm")),
            str(row["pairs"]),
            str(row["dropped"]),
            f"{10 * row['at_worst']:.1f} to {10 * row['at_best']:.1f}" if row["dropped"] else "-",
            _detectable(row["detectable"]),
        )
    return table


def _detectable(points: float | None) -> str:
    if points is None:
        return "-"
    return f"{10 * points:.1f}" if points <= TOP else "> 100"  # more than any two scores can differ


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.0001 else "< .0001"


def _points(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return "-"
    return f"{10 * mean:.1f}" if low is None or high is None else f"{10 * mean:.1f} [{10 * low:.1f}, {10 * high:.1f}]"


def audit_tables(rows: Sequence[AuditRow]) -> list[Table | str]:
    """One table a check, then a line for each thing that the run does not hold."""
    made: list[Table | str] = []
    for check in dict.fromkeys(row.check for row in rows):
        there = [row for row in rows if row.check == check and not row.missing]
        if there:
            made.append(_check_table(check, there))
        made += [
            f"{', '.join(filter(None, (check, row.judge, row.where)))}: {row.note}"
            for row in rows
            if row.check == check and row.missing
        ]
    return made


def _check_table(check: str, rows: Sequence[AuditRow]) -> Table:
    from rich.table import Table

    table = Table(title=f"{check}, value [95 % interval]", title_justify="left")
    noted = any(row.note for row in rows)
    for column in ("judge", "where", "what", "value", "n", *(("note",) if noted else ())):
        table.add_column(column, ratio=2 if column == "what" else None, no_wrap=column == "value")
    for row in rows:
        e = row.estimate
        value = "none" if e.mean is None else f"{e.mean:.3f}"
        interval = "" if e.low is None or e.high is None else f" [{e.low:.3f}, {e.high:.3f}]"
        where = row.where or "all"
        table.add_row(row.judge, where, row.what, value + interval, str(e.n), *((row.note,) if noted else ()))
    return table


def _labels(evidence: Evidence, path: Path) -> HumanScores:
    """The labels joined to the run, letters scored by its own rubrics."""
    from inferalign.agency.labels import human_scores, read_labels
    from inferalign.core.lookup import resolve

    def score(dimension: str, letters: Sequence[str]) -> float:
        return resolve(evidence.rubrics, dimension, "dimension with known issues").score(letters)

    return human_scores(evidence.table, read_labels(path), score)


def _folder(run: Path) -> Path:
    return run.parent if run.suffix == ".eval" else run
