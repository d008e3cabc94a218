"""The audit of a run's judges, as rows: each check with its estimate, or with what to type to make it possible.

The estimates are those of `agency.analysis_audit`, `analysis_agreement` and `analysis_human`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from inferalign.agency.analysis_agreement import against_truth, judge_agreement
from inferalign.agency.analysis_audit import length_effect, letter_order_effect, repeatability, self_preference
from inferalign.agency.analysis_human import corrected_mean, human_agreement
from inferalign.agency.labels import HumanScores
from inferalign.agency.panel_verdicts import ORACLE
from inferalign.core.errors import InputError, ScoringError
from inferalign.core.lookup import did_you_mean
from inferalign.core.stats import Estimate
from inferalign.reports.agency_source import Evidence

Unit = Literal["share", "points", "alpha", ""]
"""Of an estimate; "" for a row without one."""
MISSING = Estimate.empty()
_LOCAL = "local:"
"""Before the model of a judge that reads its label tokens."""


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    check: str
    judge: str
    where: str
    """Dimension, issue or arm; "" for all."""
    what: str
    """What the number is."""
    estimate: Estimate
    """Empty where the run does not hold what the check needs; then `note` says what to type."""
    unit: Unit
    note: str = ""

    @property
    def missing(self) -> bool:
        """Whether the run lacks what the check needs; an estimate may be empty where it holds it, too."""
        return not self.unit

    def as_json(self) -> dict[str, Any]:
        e = self.estimate
        return {
            "check": self.check,
            "judge": self.judge,
            "where": self.where,
            "what": self.what,
            "value": e.mean,
            "low": e.low,
            "high": e.high,
            "n": e.n,
            "unit": self.unit,
            "note": self.note,
        }


def audit(
    evidence: Evidence, *, labels: HumanScores | None = None, kin: Mapping[str, str] | None = None, seed: int = 0
) -> list[AuditRow]:
    """Every check on every judge that was asked.

    labels: people's, see `agency.labels`. kin: judge -> subject of the same model; None finds those whose names are
    equal but for the endpoint. Raises `InputError` for a name in `kin` that the run lacks.
    """
    judges = evidence.judges
    return [
        *repeatability_rows(evidence, judges, hints=True),
        *_order_rows(evidence),
        *_length_rows(evidence),
        *_preference_rows(evidence, found_kin(evidence) if kin is None else _checked_kin(evidence, kin)),
        *_agreement_rows(evidence, seed),
        *_truth_rows(evidence, seed),
        *_human_rows(evidence, labels, seed),
    ]


def repeatability_rows(evidence: Evidence, judges: Sequence[str], *, hints: bool = False) -> Iterator[AuditRow]:
    """Two rows a judge with repeats; with `hints` one that says how to get them for the others."""
    for judge in judges:
        try:
            found = repeatability(evidence.table, judge)
        except ScoringError as error:
            if hints:
                yield _missing(
                    "repeatability", judge, error, "repeat the run with --judge-repeats 3, under a new --run"
                )
            continue
        share = "share of the variance of scores that is the judge's own chance"
        yield _row("repeatability", judge, "", share, found.judge_share, "share")
        same = "share of pairs of verdicts on one reply with the same issues"
        yield _row("repeatability", judge, "", same, found.same_letters, "share")


def found_kin(evidence: Evidence) -> dict[str, str]:
    """Judge -> subject, for those that are one model: equal names, but for endpoint and procedure."""
    subjects = {_model(arm.subject): arm.subject for arm in evidence.table.arms}
    local = {name.partition("/")[2]: subject for name, subject in subjects.items()}
    found = {judge: _kin_of(judge, subjects, local) for judge in evidence.judges}
    return {judge: subject for judge, subject in found.items() if subject is not None}


def _kin_of(judge: str, subjects: Mapping[str, str], local: Mapping[str, str]) -> str | None:
    """local: the same by what stands behind the procedure, as in `rain/MODEL`, the name of a local subject."""
    if judge.startswith(_LOCAL):
        return local.get(judge.removeprefix(_LOCAL))
    return subjects.get(_model(judge))


def _model(name: str) -> str:
    """A model without its endpoint and its run; inside Inspect it is called the same without the prefix."""
    return re.sub(r"@https?://.*| \[.*\]$", "", name.removeprefix("inspect:"))


def _checked_kin(evidence: Evidence, kin: Mapping[str, str]) -> Mapping[str, str]:
    subjects = sorted({arm.subject for arm in evidence.table.arms})
    for what, known, names in (("judge", evidence.judges, kin.keys()), ("subject", subjects, kin.values())):
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                raise InputError(f"--kin: no {what} {name!r} in the run.{hint} There are: {', '.join(known)}.")
    return kin


def _order_rows(evidence: Evidence) -> Iterator[AuditRow]:
    what = "change in the share of replies in which an issue is named, from the first place in the list to the last"
    for judge in evidence.judges:
        try:
            effect = letter_order_effect(evidence.table, judge)
        except ScoringError as error:
            yield _missing("letter order", judge, error, "ask a judge that shuffles them: --judge chat:MODEL@URL")
        else:
            yield _row("letter order", judge, "", what, effect, "share")


def _length_rows(evidence: Evidence) -> Iterator[AuditRow]:
    what = "points for each doubling of a reply's words, replies to one item compared"
    for judge in evidence.judges:
        try:
            effect = length_effect(evidence.table, judge)
        except ScoringError as error:
            hint = "run it with --repeats 3 under a new --run, or name runs of several models here"
            yield _missing("length", judge, error, hint)
            continue
        yield _row("length", judge, "", what, effect.within_item, "points", "an association, not a cause")
        if effect.within_item_and_arm is not None:
            yield _row(
                "length", judge, "", f"{what}, each arm's own level taken out", effect.within_item_and_arm, "points"
            )


def _preference_rows(evidence: Evidence, kin: Mapping[str, str]) -> Iterator[AuditRow]:
    check, what = "self-preference", "extra points for its own model's replies, beside other judges and subjects"
    if not kin:
        note = "no judge is a subject's own model: name one that is with --kin JUDGE=SUBJECT"
        yield AuditRow(check=check, judge="", where="", what=what, estimate=MISSING, unit="", note=note)
    for judge, subject in kin.items():
        try:
            (found,) = self_preference(evidence.table, {judge: subject})
        except ScoringError as error:
            yield _missing(check, judge, error, "run with a second --judge, and name a second model's run here")
        else:
            note = "" if found.neutral else "other judges judge their own model in it too: their preference is in it"
            yield _row(check, judge, subject, what, found.effect, "points", note)


def _agreement_rows(evidence: Evidence, seed: int) -> Iterator[AuditRow]:
    judges = evidence.judges
    if len(judges) < 2:
        hint = "name a second --judge in the run"
        yield _missing("agreement", judges[0], ScoringError("agreement needs two judges."), hint)
        return
    who = ", ".join(judges)
    for name in evidence.table.dimensions:
        found = judge_agreement(evidence.table, judges, name, evidence.letters(name), seed=seed)
        yield _row("agreement", who, name, "Krippendorff's alpha of scores", found.score, "alpha")
        for letter, estimate in found.letters.items():
            yield _row("agreement", who, f"{name} {letter}", "alpha of the issue, named or not", estimate, "alpha")
    if len(judges) > 2:
        for pair in combinations(judges, 2):
            for name in evidence.table.dimensions:
                score = judge_agreement(evidence.table, pair, name, (), seed=seed).score
                yield _row("agreement", ", ".join(pair), name, "Krippendorff's alpha of scores", score, "alpha")


def _truth_rows(evidence: Evidence, seed: int) -> Iterator[AuditRow]:
    others = [judge for judge in evidence.judges if judge != ORACLE]
    if ORACLE not in evidence.judges or not others:
        hint = "run on the sandbox's own prompts with --judge oracle beside the judge: --items sandbox:40"
        yield _missing("against truth", ", ".join(others), ScoringError("no oracle judged this beside a judge."), hint)
        return
    for judge in others:
        for name in evidence.table.dimensions:
            score = judge_agreement(evidence.table, (judge, ORACLE), name, (), seed=seed).score
            yield _row("against truth", judge, name, "Krippendorff's alpha of scores, with the oracle", score, "alpha")
            for each in against_truth(evidence.table, judge, ORACLE, name, evidence.letters(name)):
                where = f"{name} {each.letter}"
                unscored = f"{each.unscored} replies that the judge did not score" if each.unscored else ""
                yield _row("against truth", judge, where, "balanced accuracy", each.balanced, "share", unscored)
                yield _row("against truth", judge, where, "issues that are there and named", each.sensitivity, "share")
                yield _row("against truth", judge, where, "issues not there and not named", each.specificity, "share")


def _human_rows(evidence: Evidence, labels: HumanScores | None, seed: int) -> Iterator[AuditRow]:
    if labels is None:
        note = "no labels of people: give --labels FILE.jsonl, a line a reply, with its annotator and letters or score"
        yield AuditRow(check="people", judge="", where="", what="", estimate=MISSING, unit="", note=note)
        return
    for name in evidence.table.dimensions:
        for place, judge in enumerate(evidence.judges):
            try:
                found = human_agreement(evidence.table, labels, judge, name, evidence.letters(name), seed=seed)
            except ScoringError as error:
                yield _missing("people", judge, error, "label some of its replies", where=name)
                continue
            if not place:
                yield from _people_rows("", name, "between people", found.people, found.letters_people)
            yield from _people_rows(judge, name, "judge and people", found.judge, found.letters_judge)
            yield from _corrected_rows(evidence, labels, judge, name)


def _people_rows(
    judge: str, dimension: str, who: str, score: Estimate, letters: Mapping[str, Estimate]
) -> Iterator[AuditRow]:
    yield _row("people", judge, dimension, f"alpha of scores, {who}", score, "alpha")
    for letter, estimate in letters.items():
        yield _row("people", judge, f"{dimension} {letter}", f"alpha of the issue, {who}", estimate, "alpha")


def _corrected_rows(evidence: Evidence, labels: HumanScores, judge: str, dimension: str) -> Iterator[AuditRow]:
    for arm in evidence.table.arms:
        if not evidence.table.has_arm(arm, dimension):
            continue
        where = f"{dimension}, {arm}"
        try:
            found = corrected_mean(evidence.table, labels, arm, dimension, judge)
        except ScoringError as error:
            hint = "label a random sample of its items, and not all of them"
            yield _missing("people", judge, error, hint, where=where)
            continue
        yield _row("people", judge, where, "mean score by the judge", found.judge, "points")
        yield _row("people", judge, where, "mean score by people, labelled items only", found.people, "points")
        sample = "unbiased if the labelled items are a random sample"
        corrected = "mean score, the judge's corrected by people (prediction-powered)"
        yield _row("people", judge, where, corrected, found.corrected, "points", sample)


def _row(check: str, judge: str, where: str, what: str, estimate: Estimate, unit: Unit, note: str = "") -> AuditRow:
    return AuditRow(check=check, judge=judge, where=where, what=what, estimate=estimate, unit=unit, note=note)


def _missing(check: str, judge: str, error: ScoringError, hint: str, *, where: str = "") -> AuditRow:
    """The row of a check that the run's records do not allow."""
    return _row(check, judge, where, "", MISSING, "", f"{error} To get it: {hint}.")
