"""`inferalign doctor`: what must hold here before a training means what it should."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What to look at."""

    model: str | None = None
    """`sandbox`, a model directory or a hub id, whose chat template and dropout are looked at, too."""
    samples: int = 81920
    """Draws of the gradient check; about a tenth of a millisecond each."""


def doctor(options: DoctorOptions | None = None) -> None:
    """Check versions, arithmetic, ties, and TRL's gradient against the exact one; fails when one of them does."""
    from rich.table import Table

    from inferalign.cli.tables import emit, show
    from inferalign.core.errors import InputError, RunError
    from inferalign.core.lookup import load

    options = options or DoctorOptions()
    each = load("inferalign.ctrl.checks:GENERATIONS")
    if options.samples < each or options.samples % each:
        raise InputError(f"samples is {options.samples}: expected a multiple of {each}, for example 81920")
    found = list(load("inferalign.ctrl.doctor:findings")(options.model, samples=options.samples))
    table = Table("check", "verdict", "found")
    for finding in found:
        table.add_row(finding.name, finding.verdict, finding.words)
    show(table)
    failed = [finding.name for finding in found if finding.verdict == "failed"]
    emit({"failed": failed, "findings": [asdict(finding) for finding in found]})
    if failed:
        raise RunError(f"{', '.join(failed)}: see above for what to do")
