"""What the agency reports are made from: one run folder or several, or Inspect logs, as one table with its rubrics.

Runs are put side by side. Items that two of them hold must be the same; a subject that two of them hold under one
condition is told apart by its run's name, and so are conditions of one name with different system prompts. Where
several judges were asked, the scores that are reported are the oracle's (the truth, where it is known), else those of
all of them as a panel, unless one is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inferalign.agency.panel_verdicts import ORACLE, PANEL, panel_verdicts
from inferalign.agency.records import Item, Verdict
from inferalign.agency.stored import Stored
from inferalign.agency.table import Arm, Table
from inferalign.agency.table_build import build_table
from inferalign.core.errors import InputError, RunError
from inferalign.core.lookup import did_you_mean
from inferalign.core.records import differences
from inferalign.reports.agency_run import Run, arms_of, conditions_of, read_one
from inferalign.scorers.verdicts import ISSUES, Issue, Rubric, rubric


@dataclass(frozen=True, kw_only=True)
class Evidence:
    runs: tuple[Run, ...]
    stored: Stored
    """Of all runs together, with the panel's verdicts if there is one."""
    table: Table
    judges: tuple[str, ...]
    """That were asked, by any of the runs."""
    judge: str
    """Whose scores are reported: one of `judges`, or `PANEL`."""
    rubrics: Mapping[str, Rubric]
    """By dimension; one whose issues nobody wrote down (a foreign log) is not in it."""
    arms: tuple[tuple[Arm, ...], ...]
    """Of each run, as they are called in the table."""

    def letters(self, dimension: str) -> tuple[str, ...]:
        """The issues of a dimension; without a rubric those that judges were shown or named, if any."""
        if dimension in self.rubrics:
            return tuple(self.rubrics[dimension].issues)
        table = self.table
        rows = np.nonzero(table.reply_dimension[table.verdict_reply] == dimension)[0].tolist()
        seen = (letter for row in rows for letter in (*table.verdict_order[row], *(table.verdict_letters[row] or ())))
        return tuple(sorted(set(seen)))


def read_evidence(
    paths: Sequence[Path],
    *,
    judge: str | None = None,
    scorer: str | None = None,
    scale: tuple[float, float] | None = None,
    panel: bool = True,
) -> Evidence:
    """The runs at `paths`, put side by side. `scorer` and `scale` are for foreign logs, see `agency.inspect_logs`.

    `panel=False` makes no panel of several judges: their first one stands in its place.

    Raises `RunError` for a folder that is no judged run and for items or issues that differ, `InputError` for a judge
    that no run asked and for runs without a judge in common.
    """
    runs = tuple(_named([read_one(path, scorer=scorer, scale=scale) for path in paths]))
    relabelled = [_told_apart(run, runs) for run in runs]
    items = _common_items(runs)
    stored = Stored(
        items,
        [reply for part in relabelled for reply in part.replies],
        [verdict for part in relabelled for verdict in part.verdicts],
    )
    rubrics = rubrics_of(runs, items)
    judges = tuple(sorted({verdict.judge for verdict in stored.verdicts}))
    if not judges:
        raise RunError(f"{', '.join(str(path) for path in paths)}: no verdict yet. Repeat the run to finish it.")
    common = _common_judges(runs)
    _check_judges(runs, common)
    chosen = chosen_judge(common if panel else common[:1], judge)
    if chosen == PANEL and PANEL not in judges:
        _check_panel(stored, rubrics)
        stored = stored._replace(verdicts=[*stored.verdicts, *panel_verdicts(stored, common, rubrics)])
    arms = tuple(arms_of(part.replies) for part in relabelled)
    return Evidence(
        runs=runs,
        stored=stored,
        table=build_table(*stored, due={arm: run.due for run, own in zip(runs, arms, strict=True) for arm in own}),
        judges=judges,
        judge=chosen,
        rubrics=rubrics,
        arms=arms,
    )


def silences(evidence: Evidence) -> list[str]:
    """A line for each arm that a run set out to ask and has no reply of: no table has a row for it."""
    return [
        f"{run.name}: no reply of {arm}, so it is in no table: its calls failed, or the run is not finished. "
        "Repeat the run's command to see why."
        for run in evidence.runs
        for arm in run.silent
    ]


def chosen_judge(judges: Sequence[str], wanted: str | None) -> str:
    """The judge that `wanted` names, else the oracle, the only judge, or the panel of all. Raises `InputError`."""
    if wanted is None:
        return ORACLE if ORACLE in judges else judges[0] if len(judges) == 1 else PANEL
    if wanted in judges or (wanted == PANEL and len(judges) > 1):
        return wanted
    known = [*judges, PANEL] if len(judges) > 1 else list(judges)
    raise InputError(
        f"no verdicts of the judge {wanted!r}.{did_you_mean(wanted, known)} There are: {', '.join(known)}."
    )


def _common_judges(runs: Sequence[Run]) -> tuple[str, ...]:
    asked = [{verdict.judge for verdict in run.stored.verdicts} for run in runs]
    if common := set.intersection(*asked):
        return tuple(sorted(common))
    each = "; ".join(
        f"{run.name}: {', '.join(sorted(names)) or 'none'}" for run, names in zip(runs, asked, strict=True)
    )
    raise InputError(f"the runs have no judge in common ({each}): have them judged by one that all share")


def _check_judges(runs: Sequence[Run], judges: Sequence[str]) -> None:
    """Raises `RunError` for a name under which two runs asked differently: a name is that of a model, and one model
    may be asked in two ways. Their seeds, and dimensions that one of them lacks, may differ."""
    for name in judges:
        described = [(run.name, asked) for run in runs if (asked := _asked(run.config, name))]
        for other, asked in described[1:]:
            first, known = described[0]
            shared = known["dimensions"].keys() & asked["dimensions"].keys()
            sides = (known, asked)
            one, two = ({**side, "dimensions": {key: side["dimensions"][key] for key in shared}} for side in sides)
            if changes := list(differences(one, two)):
                raise RunError(
                    f"the judge {name!r} was not asked in the same way in {first} and in {other} "
                    f"({'; '.join(changes)}): their verdicts are no pairs. Report the runs apart, or have both judged "
                    "alike."
                )


def _asked(config: Mapping[str, Any], judge: str) -> dict[str, Any] | None:
    """How a run says that it asked a judge, without seeds; None where it does not say."""
    judges = config.get("judges")
    described = judges.get(judge) if isinstance(judges, Mapping) else None
    if not isinstance(described, Mapping):
        return None
    dimensions = described.get("dimensions")
    return {**_seedless(described), "dimensions": dict(dimensions) if isinstance(dimensions, Mapping) else {}}


def _seedless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _seedless(each) for key, each in value.items() if key != "seed"}
    return value


def rubrics_of(runs: Sequence[Run], items: Iterable[Item]) -> dict[str, Rubric]:
    """The rubric of every dimension, as the run that used it wrote it down, else as it is shipped.

    Raises `RunError` for runs that used different ones.
    """
    found: dict[str, Rubric] = {}
    for name in dict.fromkeys(item.dimension for item in items):
        written = [(run.name, issues) for run in runs if (issues := _issues(run.config, name))]
        for other, issues in written[1:]:
            if issues != written[0][1]:
                raise RunError(
                    f"the issues of {name} are not the same in {written[0][0]} and in {other}: scores of different "
                    "rubrics are no pair. Report the runs apart, or have both judged by one version of the dimension."
                )
        if written:
            found[name] = Rubric(name, written[0][1])
        elif name in ISSUES:
            found[name] = rubric(name)
    return found


def _issues(config: Mapping[str, Any], dimension: str) -> dict[str, Issue] | None:
    """`config["dimensions"][dimension]["issues"]`: letter -> {points, description, omission}."""
    dimensions = config.get("dimensions")
    described = dimensions.get(dimension) if isinstance(dimensions, Mapping) else None
    issues = described.get("issues") if isinstance(described, Mapping) else None
    if not isinstance(issues, Mapping):
        return None
    try:
        return {letter: Issue(**issue) for letter, issue in issues.items()}
    except TypeError as error:
        raise RunError(
            f"the issues of {dimension} in a run's config.json are not what a run writes ({error})"
        ) from error


def _named(runs: list[Run]) -> list[Run]:
    """Runs of different names: a second of one name gets a number."""
    seen: Counter[str] = Counter()
    named = []
    for run in runs:
        seen[run.name] += 1
        named.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})"))
    return named


def _told_apart(run: Run, runs: Sequence[Run]) -> Stored:
    """The run's records, with what other runs have, too, called after the run: subjects under the same condition, and
    conditions of one name that are not the same."""
    others = [other for other in runs if other is not run]
    elsewhere = {arm for other in others for arm in arms_of(other.stored.replies)}
    known = [conditions_of(other) for other in others]
    unlike = {name for name, said in conditions_of(run).items() if any(said != each.get(name, said) for each in known)}
    replies, ids = [], {}
    for reply in run.stored.replies:
        if reply.condition in unlike:
            kept = replace(reply, condition=f"{reply.condition} [{run.name}]")
        elif Arm(reply.subject, reply.condition) in elsewhere:
            kept = replace(reply, subject=f"{reply.subject} [{run.name}]")
        else:
            kept = reply
        ids[reply.id] = kept.id
        replies.append(kept)
    verdicts = [
        replace(verdict, reply=ids[verdict.reply])
        if ids.get(verdict.reply, verdict.reply) != verdict.reply
        else verdict
        for verdict in run.stored.verdicts
    ]
    return Stored(run.stored.items, replies, verdicts)


def _common_items(runs: Sequence[Run]) -> list[Item]:
    items: dict[str, tuple[Item, str]] = {}
    for run in runs:
        for item in run.stored.items:
            known, owner = items.setdefault(item.id, (item, run.name))
            if (known.dimension, known.prompt, known.extra) != (item.dimension, item.prompt, item.extra):
                raise RunError(
                    f"item {item.id!r} is not the same in {owner} and in {run.name}: replies to different messages "
                    "are no pair. Report the runs apart, or run both on the same items."
                )
    return [item for item, _ in items.values()]


def _check_panel(stored: Stored, rubrics: Mapping[str, Rubric]) -> None:
    if missing := sorted({item.dimension for item in stored.items} - rubrics.keys()):
        raise InputError(
            f"the issues of {missing[0]} are not known, so its judges make no panel: name one with --judge"
        )


def verdicts_by_reply(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """Each reply's verdicts, sorted by judge and repeat."""
    found: dict[str, list[Verdict]] = {}
    for verdict in sorted(verdicts, key=lambda each: (each.judge, each.judge_repeat)):
        found.setdefault(verdict.reply, []).append(verdict)
    return found
