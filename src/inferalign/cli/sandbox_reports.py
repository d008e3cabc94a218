"""The reports that docs/sandbox.md is filled from: what each is, and whether it is of the shipped policy's weights.

A report is a file whose last line is the JSON object that a benchmark printed. A page that is filled from one of other
weights, of a part of the situations, or of a version before this would look as true as any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors, parse_json
from inferalign.sandbox.situations import SITUATIONS

Report = Mapping[str, Any]
SEVERAL = ("gates", "study")
"""What is shown of several training seeds, the shipped one first."""
SETTINGS = ("n", "seed")
"""What several reports side by side must have in common."""
OF_A_PAIR = ("law", "ablations", "drift")
PAIR = ("harmful", "correct_misinformation")
"""The two situations of these."""


def read_reports(paths: Sequence[Path], shipped: str) -> dict[str, list[Report]]:
    """The reports by what they are: gates, decisions, rewards, study, horizon (a study of that), law, ablations, drift,
    audit (of the world), copies (of a run). `shipped` is the digest of the shipped weights.

    Raises `InputError` for a file that is none of these, for one that does not say whose weights were measured, that
    lacks situations, or is of other weights where those have no place, or was measured otherwise than the first.
    """
    found: dict[str, list[Report]] = {}
    for path in paths:
        report = read_report(path)
        kind = kind_of(report)
        if kind is None:
            raise InputError(f"{path}: no part of docs/sandbox.md is filled from such a report")
        known = situations_of(kind, report)
        if missing := [name for name in (PAIR if kind in OF_A_PAIR else SITUATIONS) if name not in known]:
            raise InputError(f"{path}: a report of {kind} lacks {missing[0]}: measure all, without --situations")
        earlier = found.setdefault(kind, [])
        if kind != "audit":  # which is of the world
            _require_weights(path, kind, report, shipped, earlier)
        if earlier and kind not in SEVERAL:
            raise InputError(f"{path}: a second report of {kind}: give one")
        if earlier and (other := [key for key in SETTINGS if report.get(key) != earlier[0].get(key)]):
            raise InputError(f"{path}: the reports of {kind} differ in {other[0]}: measure all alike")
        earlier.append(report)
    return found


def situations_of(kind: str, report: Report) -> Report:
    """What a report says, by situation."""
    if kind in (*SEVERAL, "horizon"):
        return report
    if kind == "rewards":
        return _object(next(iter(_object(report["rewards"]).values()), None))
    return _object(report[{"law": "judges", "copies": "replies", "decisions": kind}.get(kind, "situations")])


def read_report(path: Path) -> dict[str, Any]:
    """The JSON object that a benchmark printed last. Raises `InputError` where there is none."""
    with disk_errors(path, "read"):
        lines = path.read_bytes().strip().splitlines()
    try:
        found = parse_json(lines[-1])
    except (IndexError, ValueError) as error:
        raise InputError(f"{path} does not end in what a benchmark prints last, one line of JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} does not end in what a benchmark prints last, a JSON object")
    return found


def kind_of(report: Report) -> str | None:
    """What printed this; None for what is no report on the sandbox."""
    if "rewards" in report:
        return "rewards"
    if "gates" in report:
        return "gates"
    if "decisions" in report:
        return "decisions"
    if "judges" in report:
        return "law"
    if arms := [found["arms"] for name in SITUATIONS if "arms" in (found := _object(report.get(name)))]:
        return "horizon" if "rain-whole" in arms[0] else "study"
    studied = _object(next(iter(_object(report.get("situations")).values()), None))
    for key, kind in (("full", "ablations"), ("best-of-k", "drift")):
        if key in studied:
            return kind
    if "readers" in studied:
        # an audit of a run reads few of the world's own replies, and is there for the run's
        return "copies" if "replies" in report else "audit"
    return None


def _object(value: Any) -> Report:
    return value if isinstance(value, dict) else {}


def _require_weights(path: Path, kind: str, report: Report, shipped: str, earlier: Sequence[Report]) -> None:
    """The first of the shipped weights, every other of weights of its own."""
    if "weights" not in report:
        raise InputError(f"{path} does not say whose weights were measured: repeat its command with this version")
    weights = str(report["weights"])
    if not earlier and weights != shipped:
        raise InputError(
            f"{path}: a report of {kind} on the weights {weights[:20]}..., and the shipped ones are others: give that "
            "of the shipped weights first"
        )
    if weights in [other["weights"] for other in earlier]:
        raise InputError(f"{path}: a second report of {kind} on the same weights: give one")
