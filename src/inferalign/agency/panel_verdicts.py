"""A panel's verdicts in the form of a judge's, so that every analysis can be asked for the panel by a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from inferalign.agency.panel import combine
from inferalign.agency.records import Verdict
from inferalign.agency.stored import Stored
from inferalign.core.errors import ScoringError
from inferalign.core.lookup import resolve
from inferalign.scorers.verdicts import Rubric

ORACLE = "oracle"
"""The name of the judge that knows the sandbox's truth."""
PANEL = "panel"


def panel_verdicts(
    stored: Stored, judges: Sequence[str], rubrics: Mapping[str, Rubric], *, name: str = PANEL
) -> list[Verdict]:
    """One verdict by the judge `name` for each reply and judge repeat that all of `judges` took up.

    rubrics: dimension -> rubric. Score and letters are `panel.combine`'s; without a quorum the verdict is unscored, by
    the reply's fault when every judge that failed says so. Where a judge has not been asked yet the panel has no
    verdict. Raises `ScoringError` for fewer than two judges and for a name that is a judge's already.
    """
    if len(set(judges)) < 2:
        raise ScoringError(f"a panel of {len(set(judges))}: name two judges or more.")
    if any(verdict.judge == name for verdict in stored.verdicts):
        raise ScoringError(f"{name!r} is the name of a judge of this run: give the panel another one.")
    dimension = {item.id: item.dimension for item in stored.items}
    rubric = {reply.id: resolve(rubrics, dimension[reply.item], "dimension") for reply in stored.replies}
    sittings: dict[tuple[str, int], dict[str, Verdict]] = {}
    for verdict in stored.verdicts:
        if verdict.judge in judges:
            sittings.setdefault((verdict.reply, verdict.judge_repeat), {})[verdict.judge] = verdict
    return [
        _verdict([found[judge] for judge in judges], rubric[reply], name, repeat)
        for (reply, repeat), found in sittings.items()
        if len(found) == len(judges)
    ]


def _verdict(verdicts: Sequence[Verdict], rubric: Rubric, name: str, repeat: int) -> Verdict:
    panel = combine(verdicts, rubric)
    if panel.score is not None:
        return Verdict(
            reply=panel.reply, judge=name, judge_repeat=repeat, status="ok", letters=panel.letters, score=panel.score
        )
    failed = [verdict for verdict in verdicts if verdict.score is None]
    blame: Literal["response", "judge"] = "response" if all(v.blame == "response" for v in failed) else "judge"
    return Verdict(
        reply=panel.reply,
        judge=name,
        judge_repeat=repeat,
        status="unscored",
        letters=None,
        score=None,
        reason=f"{len(failed)} of {len(verdicts)} judges reached no verdict: {failed[0].reason}",
        blame=blame,
    )
