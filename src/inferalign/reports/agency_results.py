"""Everything that an agency report says, computed once: the page, the CSV and the JSON show these values.

The statistics are those of `agency.analysis*`; nothing is estimated here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferalign.agency.analysis import OVERALL, Summary, summarise
from inferalign.agency.analysis_agreement import Agreement, judge_agreement
from inferalign.agency.analysis_items import ItemFacts, item_facts
from inferalign.agency.analysis_paired import Difference, PairedTable, Rank, compare_arms
from inferalign.agency.records import Verdict
from inferalign.agency.table import Arm
from inferalign.core.config import to_dict
from inferalign.reports.agency_audit import AuditRow, repeatability_rows
from inferalign.reports.agency_compat import PublishedMean, published_means
from inferalign.reports.agency_examples import Example, examples
from inferalign.reports.agency_source import Evidence


@dataclass(frozen=True, kw_only=True)
class Health:
    """What became of one judge's verdicts on one arm in one dimension."""

    judge: str
    arm: Arm
    dimension: str
    ok: int
    repaired: int
    unscored: int

    @property
    def verdicts(self) -> int:
        return self.ok + self.repaired + self.unscored


@dataclass(frozen=True, kw_only=True)
class Results:
    evidence: Evidence
    names: Mapping[Arm, str]
    """Arms as the page calls them."""
    seed: int
    level: float
    means: tuple[Summary, ...]
    """By the reported judge."""
    paired: PairedTable | None
    """None for a single arm."""
    means_by_judge: Mapping[str, tuple[Summary, ...]]
    """Of each judge that was asked."""
    health: tuple[Health, ...]
    reasons: tuple[tuple[str, str, str, int], ...]
    """(judge, status, reason, how often) of verdicts that were repaired or not reached, most frequent first."""
    agreement: tuple[Agreement, ...]
    """Of all judges, by dimension, on the score; empty for one judge."""
    repeatability: tuple[AuditRow, ...]
    """For judges that judged a reply twice."""
    items: tuple[ItemFacts, ...]
    examples: tuple[Example, ...]
    published: tuple[PublishedMean, ...]
    """By the published scoring choices; empty unless they were asked for."""

    @property
    def verdicts(self) -> int:
        """Of judges that were asked."""
        return sum(each.verdicts for each in self.health if each.judge in self.evidence.judges)

    def called(self, mean: Summary) -> str:
        """The arm, and over how many dimensions its overall mean is where that is not all of them."""
        name, every = self.names[mean.arm], len(self.evidence.table.dimensions)
        if mean.dimension != OVERALL or len(mean.dimensions) == every:
            return name
        return f"{name}, {len(mean.dimensions)} of {every} dimensions"

    def ranks(self) -> dict[tuple[Arm, str], Rank]:
        return {(rank.arm, rank.dimension): rank for rank in self.paired.ranks} if self.paired else {}


def compute(evidence: Evidence, *, seed: int = 0, level: float = 0.95, hab_compat: bool = False) -> Results:
    """The results of `evidence`.

    Raises `InputError` for `hab_compat` where a dimension's issues are not known.
    """
    table, judge = evidence.table, evidence.judge
    judges = evidence.judges
    return Results(
        evidence=evidence,
        names=short_names(table.arms),
        seed=seed,
        level=level,
        means=tuple(summarise(table, judge, level=level)),
        paired=paired_or_none(evidence, seed=seed, level=level),
        means_by_judge={each: tuple(summarise(table, each, level=level)) for each in judges},
        health=tuple(_health(evidence)),
        reasons=tuple(_reasons(evidence.stored.verdicts, judges)),
        agreement=tuple(judge_agreement(table, judges, name, (), seed=seed) for name in table.dimensions)
        if len(judges) > 1
        else (),
        repeatability=tuple(repeatability_rows(evidence, judges)),
        items=tuple(item_facts(table, judge)),
        examples=tuple(examples(evidence, seed=seed)),
        published=tuple(published_means(evidence)) if hab_compat else (),
    )


def paired_or_none(evidence: Evidence, *, seed: int, level: float) -> PairedTable | None:
    """All pairs of arms; None for a single arm, and for arms that share no dimension."""
    table = evidence.table
    shared = [name for name in table.dimensions if all(table.has_arm(arm, name) for arm in table.arms)]
    if len(table.arms) < 2 or not shared:
        return None
    return compare_arms(table, evidence.judge, seed=seed, level=level)


def best_first(means: Iterable[Summary]) -> list[Arm]:
    """Arms by their overall mean, the best first; those without one last, then by name."""
    overall = [each for each in means if each.dimension == OVERALL]
    return [each.arm for each in sorted(overall, key=_place)]


def _place(overall: Summary) -> tuple[bool, float, Arm]:
    mean = overall.score.mean
    return mean is None, -(mean or 0.0), overall.arm


def short_names(arms: Sequence[Arm]) -> dict[Arm, str]:
    """Arms without their endpoint, and without a condition that all have, where that still tells them apart."""
    conditions = {arm.condition for arm in arms}
    short = {arm: re.sub(r"@https?://\S*", "", arm.subject) for arm in arms}
    if len(conditions) > 1:
        short = {arm: f"{name} ({arm.condition})" for arm, name in short.items()}
    used = Counter(short.values())
    return {arm: name if used[name] == 1 else str(arm) for arm, name in short.items()}


def score_rows(results: Results) -> list[dict[str, Any]]:
    """One flat row a mean, in points of 10: what `-scores.csv` holds, and `means` of the page's `-data.json`."""
    status = status_counts(results.health)
    ranks = results.ranks()
    published = {(each.judge, each.arm, each.dimension): each for each in results.published}
    by_judge = [(judge, means) for judge, means in results.means_by_judge.items() if judge != results.evidence.judge]
    rows = []
    for judge, means in [(results.evidence.judge, results.means), *by_judge]:
        for each in means:
            rank = ranks.get((each.arm, each.dimension)) if judge == results.evidence.judge else None
            ok, repaired, unscored = status.get((judge, each.arm, each.dimension), (None, None, None))
            row = {
                "judge": judge,
                "subject": each.arm.subject,
                "condition": each.arm.condition,
                "dimension": each.dimension,
                "dimensions": len(each.dimensions) or 1,
                "mean": each.score.mean,
                "low": each.score.low,
                "high": each.score.high,
                "items": each.score.n,
                "clusters": each.clusters,
                "rank_best": rank.best if rank else None,
                "rank_worst": rank.worst if rank else None,
                "if_unscored_were_0": each.bounds[0],
                "if_unscored_were_10": each.bounds[1],
                "replies_due": each.counts.due,
                "replies_scored": each.counts.scored,
                "no_reply": each.counts.no_reply,
                "not_judged": each.counts.not_judged,
                "unscored_by_reply": each.counts.blamed_reply,
                "unscored_by_judge": each.counts.blamed_judge,
                "verdicts_ok": ok,
                "verdicts_repaired": repaired,
                "verdicts_unscored": unscored,
            }
            if results.published:
                compat = published.get((judge, each.arm, each.dimension))
                row |= {
                    "published_mean": compat.mean if compat else None,
                    "published_se": compat.error if compat else None,
                    "published_n": compat.n if compat else None,
                }
            rows.append(row)
    return rows


def difference_rows(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    """One flat row a difference a - b, in points of 10."""
    return [
        {
            **{f"{side}_{key}": value for side in ("a", "b") for key, value in getattr(each, side)._asdict().items()},
            "dimension": each.dimension,
            "difference": each.estimate.mean,
            "low": each.estimate.low,
            "high": each.estimate.high,
            "pairs": each.estimate.n,
            "p": each.p,
            "p_holm": each.p_holm,
            "dropped": each.dropped,
            "at_worst": each.bounds[0],
            "at_best": each.bounds[1],
        }
        for each in differences
    ]


def as_json(results: Results) -> dict[str, Any]:
    """What the page's `-data.json` holds."""
    evidence = results.evidence
    return {
        "kind": "agency-report",
        "runs": [
            {
                "name": run.name,
                "config": run.config,
                "environments": list(run.environments),
                "costs": run.costs,
                "items": len(run.stored.items),
                "replies": len(run.stored.replies),
                "verdicts": len(run.stored.verdicts),
            }
            for run in evidence.runs
        ],
        "judge": evidence.judge,
        "judges": list(evidence.judges),
        "seed": results.seed,
        "level": results.level,
        "published_scoring": bool(results.published),
        "means": score_rows(results),
        "differences": difference_rows(results.paired.differences) if results.paired else [],
        "agreement": [{"dimension": each.dimension, "alpha": to_dict(each.score)} for each in results.agreement],
        "repeatability": [row.as_json() for row in results.repeatability],
        "reasons": [
            dict(zip(("judge", "status", "reason", "count"), reason, strict=True)) for reason in results.reasons
        ],
        "items": [to_dict(each) for each in results.items],
    }


def status_counts(health: Sequence[Health]) -> dict[tuple[str, Arm, str], tuple[int, int, int]]:
    """(judge, arm, dimension or `OVERALL`) -> verdicts that are ok, repaired, unscored."""
    found: dict[tuple[str, Arm, str], tuple[int, int, int]] = {}
    for each in health:
        for dimension in (each.dimension, OVERALL):
            ok, repaired, unscored = found.get((each.judge, each.arm, dimension), (0, 0, 0))
            found[each.judge, each.arm, dimension] = (
                ok + each.ok,
                repaired + each.repaired,
                unscored + each.unscored,
            )
    return found


def _health(evidence: Evidence) -> list[Health]:
    of_reply = {reply.id: reply for reply in evidence.stored.replies}
    dimension = {item.id: item.dimension for item in evidence.stored.items}
    counted: Counter[tuple[str, Arm, str, str]] = Counter()
    for verdict in evidence.stored.verdicts:
        reply = of_reply[verdict.reply]
        counted[verdict.judge, Arm(reply.subject, reply.condition), dimension[reply.item], verdict.status] += 1
    order = {name: place for place, name in enumerate(evidence.table.dimensions)}
    cells = sorted({key[:3] for key in counted}, key=lambda cell: (cell[0], cell[1], order[cell[2]]))
    return [
        Health(
            judge=judge,
            arm=arm,
            dimension=name,
            **{status: counted[judge, arm, name, status] for status in ("ok", "repaired", "unscored")},
        )
        for judge, arm, name in cells
    ]


def _reasons(verdicts: Iterable[Verdict], judges: Sequence[str]) -> list[tuple[str, str, str, int]]:
    counted = Counter(
        (verdict.judge, verdict.status, verdict.reason)
        for verdict in verdicts
        if verdict.status != "ok" and verdict.judge in judges
    )
    return [(*key, count) for key, count in sorted(counted.items(), key=lambda each: (-each[1], each[0]))]
