"""Items, replies and verdicts joined into plain columns: what every analysis starts from.

Three levels, each with the row number of the one above it: a verdict is of a reply, a reply to an item. A score that
was not made is NaN in a column and nowhere else: `ItemScores` counts what is missing, and by whose fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import ScoringError
from inferalign.core.lookup import did_you_mean
from inferalign.scorers.verdicts import TOP

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Names = NDArray[np.str_]
Flags = NDArray[np.bool_]


class Arm(NamedTuple):
    """What is compared: a subject under a condition."""

    subject: str
    condition: str

    def __str__(self) -> str:
        return f"{self.subject} ({self.condition})"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many replies were due, and what became of them."""

    due: int = 0
    scored: int = 0
    no_reply: int = 0
    """The subject gave none."""
    not_judged: int = 0
    blamed_reply: int = 0
    """Judged without success, the reply's own fault."""
    blamed_judge: int = 0

    @property
    def unscored(self) -> int:
        return self.due - self.scored

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            due=self.due + other.due,
            scored=self.scored + other.scored,
            no_reply=self.no_reply + other.no_reply,
            not_judged=self.not_judged + other.not_judged,
            blamed_reply=self.blamed_reply + other.blamed_reply,
            blamed_judge=self.blamed_judge + other.blamed_judge,
        )


@dataclass(frozen=True, kw_only=True)
class ItemScores:
    """One arm in one dimension by one judge: the dimension's items in the table's order, each over its repeats."""

    items: Names
    clusters: Rows
    """Codes that are equal for items made together, and the same for every arm."""
    mean: Floats
    """Over the scored repeats, 0 to 10; NaN where there is none."""
    low: Floats
    """Over all repeats that were due, the unscored ones taken for 0; `high` takes them for 10. An item that the arm was
    not asked has 0 and 10."""
    high: Floats
    due: Flags
    """Which of the items the arm was asked."""
    counts: Counts

    @property
    def scored(self) -> Flags:
        return ~np.isnan(self.mean)


@dataclass(frozen=True, kw_only=True)
class Table:
    """`item_...` columns are [I], `reply_...` [R], `verdict_...` [V]."""

    item_id: Names
    item_dimension: Names
    item_cluster: Rows
    """Codes; an item without a cluster has a code of its own."""
    item_form: Names
    item_due: Mapping[Arm, Flags]
    """Which items each arm was asked; an arm that is not there was asked all of them."""

    reply_id: Names
    reply_item: Rows
    """Row of the item."""
    reply_subject: Names
    reply_condition: Names
    reply_repeat: Rows
    reply_words: Rows
    """In all turns of the assistant."""

    verdict_reply: Rows
    """Row of the reply."""
    verdict_judge: Names
    verdict_repeat: Rows
    verdict_score: Floats
    """0 to 10; NaN where it is unscored."""
    verdict_blame: Names
    """Of an unscored verdict: "response" or "judge"; else ""."""
    verdict_letters: tuple[frozenset[str] | None, ...]
    """None where it is unscored."""
    verdict_order: tuple[tuple[str, ...], ...]
    """The letters as the judge was shown them."""

    @property
    def dimensions(self) -> list[str]:
        """In the order of the items."""
        return list(dict.fromkeys(self.item_dimension.tolist()))

    @property
    def judges(self) -> list[str]:
        return sorted(set(self.verdict_judge.tolist()))

    @property
    def arms(self) -> list[Arm]:
        pairs = zip(self.reply_subject.tolist(), self.reply_condition.tolist(), strict=True)
        return [Arm(*pair) for pair in sorted(set(pairs))]

    @property
    def reply_dimension(self) -> Names:
        return self.item_dimension[self.reply_item]

    @property
    def reply_cluster(self) -> Rows:
        return self.item_cluster[self.reply_item]

    def of_arm(self, arm: Arm) -> Flags:
        """Which replies are an arm's, [R]. Raises `ScoringError` when none is."""
        found: Flags = (self.reply_subject == arm.subject) & (self.reply_condition == arm.condition)
        if not found.any():
            known = [str(each) for each in self.arms]
            raise ScoringError(f"no replies of {arm}.{did_you_mean(str(arm), known)} There are: {', '.join(known)}.")
        return found

    def by_judge(self, judge: str) -> Flags:
        """Which verdicts are a judge's, [V]. Raises `ScoringError` when none is."""
        found: Flags = self.verdict_judge == judge
        if not found.any():
            hint = did_you_mean(judge, self.judges)
            raise ScoringError(f"no verdicts of the judge {judge!r}.{hint} There are: {', '.join(self.judges)}.")
        return found

    def reply_scores(self, judge: str) -> Floats:
        """Each reply's score by a judge, the mean over its scored verdicts; NaN where there is none. [R]"""
        return self._per_reply(judge, self.verdict_score)

    def reply_letter(self, judge: str, letter: str) -> Floats:
        """Whether a judge found the issue in each reply: 1 or 0 by its first scored verdict, NaN without one. [R]"""
        rows = np.nonzero(self.by_judge(judge))[0]
        named = np.full(self.reply_id.size, np.nan)
        for row in rows[np.argsort(-self.verdict_repeat[rows], kind="stable")]:  # the first repeat is written last
            letters = self.verdict_letters[row]
            if letters is not None:
                named[self.verdict_reply[row]] = letter in letters
        return named

    def has_arm(self, arm: Arm, dimension: str) -> bool:
        return bool((self.of_arm(arm) & (self.reply_dimension == dimension)).any())

    def due(self, arm: Arm, dimension: str) -> Flags:
        """Which of the dimension's items the arm was asked."""
        items = self.item_dimension == dimension
        return self.item_due[arm][items] if arm in self.item_due else np.ones(int(items.sum()), dtype=np.bool_)

    def item_scores(self, arm: Arm, dimension: str, judge: str) -> ItemScores:
        """The arm's scores in a dimension; a reply is due for each item it was asked and each repeat that any has."""
        items = np.nonzero(self.item_dimension == dimension)[0]
        due = self.due(arm, dimension)
        replies = np.nonzero(self.of_arm(arm) & (self.reply_dimension == dimension))[0]
        repeats = np.unique(self.reply_repeat[replies])
        scores = np.full((items.size, repeats.size), np.nan)
        place = (
            np.searchsorted(items, self.reply_item[replies]),
            np.searchsorted(repeats, self.reply_repeat[replies]),
        )
        scores[place] = self.reply_scores(judge)[replies]
        known = ~np.isnan(scores)
        total, scored = np.where(known, scores, 0.0).sum(axis=1), known.sum(axis=1)
        missing = repeats.size - scored
        return ItemScores(
            items=self.item_id[items],
            clusters=self.item_cluster[items],
            mean=np.where(scored > 0, total / np.maximum(scored, 1), np.nan),
            low=total / max(repeats.size, 1),
            high=(total + TOP * missing) / max(repeats.size, 1),
            due=due,
            counts=self._counts(replies, judge, due=int(due.sum()) * repeats.size, scored=int(known.sum())),
        )

    def _counts(self, replies: Rows, judge: str, *, due: int, scored: int) -> Counts:
        verdicts = self.by_judge(judge)
        judged = np.isin(replies, self.verdict_reply[verdicts])
        unscored = replies[judged & np.isnan(self.reply_scores(judge)[replies])]
        # The reply is to blame only where every failed verdict says so.
        judge_failed = self.verdict_reply[verdicts & (self.verdict_blame != "response")]
        blamed_judge = int(np.isin(unscored, judge_failed).sum())
        return Counts(
            due=due,
            scored=scored,
            no_reply=due - replies.size,
            not_judged=int((~judged).sum()),
            blamed_reply=unscored.size - blamed_judge,
            blamed_judge=blamed_judge,
        )

    def _per_reply(self, judge: str, values: Floats) -> Floats:
        rows = np.nonzero(self.by_judge(judge) & ~np.isnan(values))[0]
        count = np.bincount(self.verdict_reply[rows], minlength=self.reply_id.size)
        total = np.bincount(self.verdict_reply[rows], values[rows], minlength=self.reply_id.size)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)
