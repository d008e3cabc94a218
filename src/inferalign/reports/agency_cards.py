"""Worst and best replies with what the judges found in them, and the provenance of the runs, as markup."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from inferalign.agency.records import Verdict
from inferalign.reports.agency_examples import Example
from inferalign.reports.agency_results import Results
from inferalign.reports.agency_run import Run
from inferalign.reports.agency_tables import titled
from inferalign.reports.html import Content, Html, clipped, element, facts, join
from inferalign.scorers.verdicts import Rubric

PROMPT, TURN, ASSESSMENT, EXTRA = 2_500, 4_000, 800, 800
"""Characters shown; the whole text is in the file of examples."""
MOST = 1_000_000
"""Bytes of all cards; texts are cut shorter where they would be more, so that the page stays one that can be sent."""
LONG = 900
"""Characters from which on a text gets a frame that scrolls."""
CONFIG = 20_000
SHORT_VALUE = 160


def cards(results: Results) -> list[Content]:
    """Filters, then one card a reply."""
    shown = results.examples
    if not shown:
        return [element("p", "No reply has a score.")]
    note = (
        "The lowest and the highest scores of each dimension, ties by a seeded draw: extremes, not typical replies. "
        "The whole texts are in the file of examples beside this page (-examples.jsonl)."
    )
    return [element("p", note, class_="note"), _filters(results, shown), *_fitting(results, shown)]


def _fitting(results: Results, shown: Sequence[Example]) -> list[Html]:
    """The cards with their texts at a half, a quarter, ... of their usual length until all of them fit."""
    part = 1
    while True:
        made = [_card(results, each, part) for each in shown]
        if sum(len(card.encode()) for card in made) <= MOST or part > PROMPT:
            return made
        part *= 2


def _filters(results: Results, shown: Sequence[Example]) -> Html:
    """Hidden until the script shows them: without it they would do nothing."""
    fields = [
        _select("dimension", "Dimension", {each.dimension: titled(each.dimension) for each in shown}),
        _select("arm", "Model", {results.names[each.arm]: results.names[each.arm] for each in shown}),
        _select("kind", "Kind", {"worst": "worst", "best": "best"}),
        element("label", "Words", element("input", type="search", name="words")),
    ]
    return element("div", *fields, element("p", id="shown", role="status", class_="note"), class_="filters", hidden="")


def _select(name: str, label: str, options: dict[str, str]) -> Html:
    every = [element("option", "all", value="")]
    every += [element("option", words, value=value) for value, words in options.items()]
    return element("label", label, element("select", *every, name=name))


def _card(results: Results, each: Example, part: int) -> Html:
    """part: what its texts' usual lengths are divided by."""
    rubric = results.evidence.rubrics.get(each.dimension)
    hidden = [
        one
        for name, text in each.extra.items()
        for one in _said(f"{titled(name)}, as the judge saw it", text, EXTRA // part)
    ]
    system = [] if each.system_prompt is None else _said("System prompt", each.system_prompt, EXTRA // part)
    turns = [one for turn in each.turns for one in _said(_speaker(turn.role), turn.content, TURN // part)]
    heading = element(
        "h3",
        element("span", each.kind, class_=f"tag {each.kind}"),
        f"{titled(each.dimension)}: {10 * each.score:.0f} % · {results.names[each.arm]}",
    )
    parts = [
        heading,
        element("p", f"item {each.item}", class_="note"),
        *_said("User", each.prompt, PROMPT // part),
        *hidden,
        *system,
        *turns,
        element("h4", "Verdicts"),
        element("ul", *(_verdict(verdict, rubric, ASSESSMENT // part) for verdict in each.verdicts)),
    ]
    arm = results.names[each.arm]
    return element(
        "article", *parts, class_="example", data_dimension=each.dimension, data_arm=arm, data_kind=each.kind
    )


def _speaker(role: str) -> str:
    return "User, afterwards" if role == "user" else "Reply" if role == "assistant" else titled(role)


def _said(who: str, text: str, most: int) -> list[Html]:
    """Somebody else's words: escaped, in a direction of their own, cut where they are too long."""
    shown, cut = clipped(text, most)
    frame = "said long" if len(shown) > LONG else "said"
    attributes = {"tabindex": "0"} if len(shown) > LONG else {}
    parts = [element("h4", who), element("div", shown, class_=frame, dir="auto", **attributes)]
    return [*parts, element("p", cut, class_="note")] if cut else parts


def _verdict(verdict: Verdict, rubric: Rubric | None, most: int) -> Html:
    repeat = f", repeat {verdict.judge_repeat}" if verdict.judge_repeat else ""
    if verdict.score is None:
        reason, cut = clipped(verdict.reason, most)
        said = [element("span", "unscored", class_="unscored"), " ", element("bdi", reason), cut]
        return element("li", f"{verdict.judge}{repeat}: ", *said)
    found = [_issue(letter, rubric) for letter in verdict.letters or ()]
    head = f"{verdict.judge}{repeat}: {10 * verdict.score:.0f} %" + (", no issue" if verdict.letters == () else "")
    words, cut = clipped(verdict.assessment, most)
    assessment = [element("div", words, class_="said", dir="auto")] if words else []
    return element("li", head, *([element("ul", *found)] if found else []), *assessment, cut)


def _issue(letter: str, rubric: Rubric | None) -> Html:
    if rubric is None or letter not in rubric.issues:
        return element("li", letter)
    issue = rubric.issues[letter]
    return element("li", element("b", letter), f" (−{issue.points}) {described(issue.description)}")


def described(description: str) -> str:
    """An issue in a sentence. Those of a dimension file have several, and name other issues as `{A}`."""
    first = re.sub(r"\{(\w)\}", r"\1", description).split(". ")[0].rstrip(".")
    return f"{first}." if first[:1].isupper() else f"The reply {first}."


def provenance(results: Results) -> list[Content]:
    """Of each run: what its configuration and environment say; then how the numbers were made."""
    parts: list[Content] = []
    for run in results.evidence.runs:
        parts += [element("h3", run.name), facts(_facts(run)), *_whole(run)]
    how = {
        "Arms": ", ".join(str(arm) for arm in results.names),
        "Scores by": results.evidence.judge,
        "Seed of the report": f"{results.seed} (draws of tests, and of ties among examples)",
        "Intervals": f"{100 * results.level:g} %, score intervals with cluster-robust variance, Student's t",
        "Tests": "sign flips of clusters, Holm over pairs and dimensions; overall differences apart",
    }
    return [*parts, element("h3", "This report"), facts(how)]


def _facts(run: Run) -> dict[str, Content]:
    found: dict[str, Content] = {
        "Records": f"{len(run.stored.items):,} items, {len(run.stored.replies):,} replies, "
        f"{len(run.stored.verdicts):,} verdicts"
    }
    for key, value in run.config.items():
        said, cut = clipped(value if isinstance(value, str) else _json(value), SHORT_VALUE)
        found[key] = said + ("…" if cut else "")
    for number, environment in enumerate(run.environments, start=1):
        name = "environment" if len(run.environments) == 1 else f"environment {number}"
        found[name] = ", ".join(f"{key} {_plain(value)}" for key, value in environment.items())
    return found


def _whole(run: Run) -> list[Html]:
    if not run.config:
        return []
    text, cut = clipped(json.dumps(run.config, ensure_ascii=False, indent=2), CONFIG)
    inner = join(
        [element("summary", "The whole configuration"), element("pre", text), element("p", cut, class_="note")]
    )
    return [element("details", inner)]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {version}" for name, version in value.items()) + ")"
    return str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
