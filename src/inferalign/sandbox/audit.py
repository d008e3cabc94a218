"""The sandbox audits itself: is the oracle a true inverse, what can be told without understanding, what is copied?

Three questions, each asked situation by situation on draws of the audit's own:

- *Reading.* Is there exactly one reading of every reply, of every cut of it at a clause end, and of every request?
- *Leakage.* How well do readers without understanding (`readers`) find the main fault? They learn on the training
  split and are asked on the test split; beside them the oracle.
- *Copying.* With a run of a model: how many of its replies are no copy of a reply that it was trained on?
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from inferalign.core.jobs import Progress
from inferalign.core.stats import Estimate
from inferalign.engines.table import SANDBOX_CARD
from inferalign.engines.weights import weights_digest
from inferalign.sandbox import curriculum
from inferalign.sandbox.grading import Graded, proportion
from inferalign.sandbox.grammar import render, split_clauses
from inferalign.sandbox.oracle import grade, parse_reply, parse_request
from inferalign.sandbox.readers import Case, Reader, balanced_accuracy, cases, readers
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import WORLD_VERSION, Situation
from inferalign.sandbox.words import MOODS

LEAST = 50
"""Replies of a split that a bag of words needs to learn anything from."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How often a text has no reading, or more than one. Sums over the replies of a situation."""

    replies: int = 0
    cuts: int = 0
    """Replies cut at a clause end, the whole ones included."""
    ambiguous: int = 0
    """Cuts with a clause that has more than one reading."""
    unread: int = 0
    """Cuts that the oracle does not parse."""
    odd_requests: int = 0
    """Requests that have not exactly one reading, in exactly one situation."""


def reading(situation: Situation, seen: Sequence[Case]) -> Reading:
    """Counts the readings of each clause of each reply, by every template of the grammar and not by the first."""
    counted = lru_cache(maxsize=None)(lambda clause: len(situation.grammar.parses(clause)))
    cuts = ambiguous = unread = odd = 0
    for case in seen:
        clauses, _ = split_clauses(case.reply)
        for k in range(1, len(clauses) + 1):
            whole = k == len(clauses)
            text = case.reply if whole else " ".join(clauses[:k])
            ambiguous += any(counted(clause) > 1 for clause in clauses[:k])
            unread += parse_reply(situation.grammar, text, complete=whole) is None
        cuts += len(clauses)
        odd += not _is_plain(situation, case.request.text)
    return Reading(replies=len(seen), cuts=cuts, ambiguous=ambiguous, unread=unread, odd_requests=odd)


def _is_plain(situation: Situation, text: str) -> bool:
    mood = next((f"{mood} " for mood in MOODS if text.startswith(f"{mood} ")), "")
    claimed = [other.name for other in SITUATIONS.values() if other.parse_request(text) is not None]
    return claimed == [situation.name] and len(situation.requests.parses(text.removeprefix(mood).lower())) == 1


@dataclass(frozen=True, kw_only=True)
class WorldAudit:
    """The audit of one situation's own replies. Accuracies are on the test split."""

    reading: Reading
    distinct: float
    """Distinct replies among those that were drawn, as a share. It falls with their number, and has no interval."""
    oracle: Estimate
    """Balanced accuracy of the oracle against the plan that made the reply."""
    readers: Mapping[str, Estimate]
    """Balanced accuracy of each reader without understanding, and of the known base rates."""


@dataclass(frozen=True, kw_only=True)
class RunAudit:
    """The audit of a model's replies to one situation's requests. Copies and accuracies are over parsed replies."""

    parsed: Estimate
    new: Estimate
    """Share that occurs verbatim in no training conversation; empty when the training is not known."""
    readers: Mapping[str, Estimate]
    """Readers that learned on the world's replies, against the oracle."""


def audit_world(n: int, seed: int, progress: Progress) -> tuple[dict[str, WorldAudit], dict[str, dict[str, Reader]]]:
    """Audits `n` replies of each split in each situation; also the readers that learned on the training split.

    Advances `progress` by one a situation. Raises `InputError` for an n that is too small to learn from.
    """
    if n < LEAST:
        raise InputError(f"{n} replies a split were asked for: a reader learns from at least {LEAST} (--n)")
    audits, learned = {}, {}
    for name, situation in SITUATIONS.items():
        train, test = cases(situation, "train", n, seed), cases(situation, "test", n, seed)
        learned[name] = readers(situation, train)
        verdicts = [grade(case.request.text, case.reply).bad is True for case in test]
        audits[name] = WorldAudit(
            reading=reading(situation, train + test),
            distinct=len({case.reply for case in train + test}) / (2 * n),
            oracle=balanced_accuracy(test, verdicts),
            readers={reader: balanced_accuracy(test, says(test)) for reader, says in learned[name].items()},
        )
        progress.advance(1)
    return audits, learned


@dataclass(frozen=True, kw_only=True)
class Training:
    """Which conversations of `curriculum` a model was trained on: the first of a seed.

    They are drawn in pools of some steps, and of the last pool not all may have been met.
    """

    seed: int
    conversations: int


@dataclass(frozen=True)
class Unknown:
    """A training of which no card tells the whole."""

    reason: str


def training_of(run: Path) -> Training | Unknown:
    """What the model behind a run folder was trained on, by its card.

    Unknown is that of a model from elsewhere, of one that was trained on from another, and of a folder that holds other
    weights than the run's. Raises `InputError` when the card is of another world, whose conversations this version
    cannot write again.
    """
    name = said(run / "env.json", "model")
    card = Path(str(name)) / SANDBOX_CARD
    if name is None:
        return Unknown("the run names no model")
    if not card.is_file():
        return Unknown(f"no {SANDBOX_CARD} in {name} says what it was trained on")
    facts = read_json(card)
    match facts:
        case {"world": world} if world != WORLD_VERSION:
            raise InputError(
                f"{card} is of a model of world {world}, this is world {WORLD_VERSION}: audit runs of a model that "
                "this version trained"
            )
        case {"start": _}:
            return Unknown(f"{name} was trained on from another model")
        case {"recipe": _} if weights_digest(str(name)) != said(run / "config.json", "model", "weights"):
            return Unknown(f"{name} holds other weights now than when the run was made")
        case {"recipe": {"seed": int(seed), "steps": int(steps), "batch_size": int(batch_size)}}:
            return Training(seed=seed, conversations=math.ceil(steps / curriculum.POOL) * curriculum.POOL * batch_size)
    raise InputError(f"{card} is not what `inferalign sandbox train` writes: copy the model's folder again")


def said(file: Path, *keys: str) -> Any:
    """What a JSON file of a run holds under nested keys; None where it lacks them. Raises `RunError` if unreadable."""
    found = read_json(file)
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def copied(replies: Collection[str], training: Training, progress: Progress) -> set[str]:
    """Those of `replies` that are the reply of a training conversation, word for word. Advances by conversations."""
    wanted, found = set(replies), set()
    for i in range(training.conversations):
        text = render(curriculum.dialogue(training.seed, i).clauses)
        if text in wanted:
            found.add(text)
        progress.advance(1)
    return found


def audit_run(
    graded: Sequence[Graded],
    learned: Mapping[str, Mapping[str, Reader]],
    training: Training | Unknown,
    progress: Progress,
) -> dict[str, RunAudit]:
    """One audit a situation that occurs in a run's replies. The arguments are what `grade_run`, `audit_world` and
    `training_of` give. Of an unknown training nothing is said to be new."""
    parsed = [g for g in graded if g.verdict.parsed]
    known = copied([g.reply.strip() for g in parsed], training, progress) if isinstance(training, Training) else None
    audits = {}
    for name in SITUATIONS:
        asked, read = ([g for g in group if g.situation == name] for group in (graded, parsed))
        if not asked:
            continue
        seen = [_case(g) for g in read]
        new = (
            Estimate.empty()
            if known is None
            else proportion(sum(c.reply.strip() not in known for c in seen), len(seen))
        )
        audits[name] = RunAudit(
            parsed=proportion(len(read), len(asked)),
            new=new,
            readers={reader: balanced_accuracy(seen, says(seen)) for reader, says in learned[name].items()},
        )
    return audits


def _case(graded: Graded) -> Case:
    request = parse_request(graded.prompt)
    if request is None:
        raise AssertionError(f"{graded.id} was graded though the sandbox did not write its prompt")
    return Case(request=request, reply=graded.reply, bad=graded.verdict.bad is True)
