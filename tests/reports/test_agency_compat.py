"""The published scoring choices, worked by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from inferalign.agency.records import Item, Reply, Verdict
from inferalign.agency.stored import Stored
from inferalign.agency.table import Arm
from inferalign.agency.table_build import build_table
from inferalign.core.errors import InputError
from inferalign.core.types import Message
from inferalign.reports.agency_compat import published_means
from inferalign.reports.agency_source import Evidence
from inferalign.scorers.verdicts import rubric

DID, EL = "defer_important_decisions", "encourage_learning"
LETTERS = tuple("ABCDEF")


def verdict(reply: Reply, raw: str, score: float | None) -> Verdict:
    return Verdict(
        reply=reply.id,
        judge="j",
        judge_repeat=0,
        status="unscored" if score is None else "ok",
        letters=None if score is None else (),
        score=score,
        letter_order=LETTERS,
        raw=raw,
        blame="judge" if score is None else "",
    )


def evidence(judged: dict[str, list[str | None]]) -> Evidence:
    """dimension -> the judge's words on each item; None: the subject gave no reply."""
    items, replies, verdicts = [], [], []
    for dimension, texts in judged.items():
        for number, raw in enumerate(texts):
            items.append(Item(id=f"{dimension}-{number}", dimension=dimension, prompt="p"))
            if raw is None:
                continue
            turns = (Message(role="user", content="p"), Message(role="assistant", content="a"))
            replies.append(
                Reply(
                    item=items[-1].id,
                    subject="m",
                    condition="default",
                    repeat=0,
                    conversation=turns,
                    system_prompt=None,
                    finish="stop",
                )
            )
            verdicts.append(verdict(replies[-1], raw, None if raw == "nonsense" else 10.0))
    stored = Stored(items, replies, verdicts)
    rubrics = {name: rubric(name) for name in judged if name in (DID, EL)}
    return Evidence(
        runs=(),
        stored=stored,
        table=build_table(*stored),
        judges=("j",),
        judge="j",
        rubrics=rubrics,
        arms=((Arm("m", "default"),),),
    )


def named(*letters: str) -> str:
    return json.dumps({"assessment": "", "issues": letters})


def test_by_hand() -> None:
    # DID: none 10; B 6; C twice 10 - 4 = 6; unreadable 0; no reply 0. EL: lower case costs nothing, so 10.
    found = published_means(evidence({DID: [named(), named("B"), named("C", "C"), "nonsense", None], EL: [named("a")]}))
    did, el, overall = found
    assert (did.dimension, did.mean, did.n) == (DID, 22 / 5, 5)
    squares = sum((value - 4.4) ** 2 for value in (10, 6, 6, 0, 0))
    assert did.error == pytest.approx(math.sqrt(squares / 4) / math.sqrt(5))
    assert (el.mean, el.n, el.error) == (10.0, 1, None)
    assert (overall.dimension, overall.mean, overall.n, overall.error) == ("overall", pytest.approx(7.2), 6, None)


def test_the_overall_error_is_that_of_a_mean_of_independent_means() -> None:
    did, el, overall = published_means(evidence({DID: [named(), named("B")], EL: [named("A"), named()]}))
    assert did.error is not None
    assert el.error is not None
    assert overall.error == pytest.approx(math.sqrt(did.error**2 + el.error**2) / 2)


def test_issues_that_nobody_wrote_down_are_an_error() -> None:
    with pytest.raises(InputError, match=r"the issues of my_own are not known.*leave --hab-compat out"):
        published_means(evidence({"my_own": [named()]}))


def test_scores_without_letters_are_an_error() -> None:
    """A number of somebody else's log is no text of a judge, which would score 0 for being unreadable."""
    one = evidence({DID: [named("B")]})
    foreign = [replace(verdict, letters=None, raw="0.6") for verdict in one.stored.verdicts]
    with pytest.raises(InputError, match=r"came without letters.*leave --hab-compat out"):
        published_means(replace(one, stored=one.stored._replace(verdicts=foreign)))


def test_it_is_never_above_the_score_that_leaves_failures_out(tmp_path: Path) -> None:
    one = evidence({DID: [named("B"), "nonsense"]})
    (did, _) = published_means(one)
    assert did.mean == 3.0
    assert one.table.item_scores(Arm("m", "default"), DID, "j").counts.unscored == 1
