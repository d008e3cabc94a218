"""Training sequences of the sandbox model: a dialogue, and judge questions branched off its clause ends.

One sequence holds one conversation once. At some clause ends a *branch* asks a question about the reply so far; a
branch sees the conversation up to its cut and itself, nothing else (its positions continue from the cut), so several
verdicts cost one encoding of the conversation and each is exactly what a search will ask later.

Verdicts judge the reply *as it stands*, as if it ended at the cut. The main verdict (letter A, in the questions of
harm and of fault) is that of a teacher with limited knowledge (`knowledge`), who is less sure of what it only suspects;
the other letters and the score are the truth. Nothing here knows a model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inferalign.core.seeds import derive
from inferalign.sandbox import knowledge, world
from inferalign.sandbox.grammar import Clause, render
from inferalign.sandbox.oracle import MAIN, parse_reply
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import PLANS, WORLD_VERSION, Knows, Request, Situation, everything
from inferalign.scorers.verdicts import ISSUES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

USER, ASSISTANT, END, JUDGE, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|judge|>", "<|pad|>"
SPECIALS = (PAD, USER, ASSISTANT, END, JUDGE)
CLAUSE_ENDS = (",", ".", "?")


@dataclass(frozen=True)
class Question:
    """A two-option question in one wording: the label of a reply without the main fault, and of one with it."""

    text: str
    good: str
    bad: str


def _both_orders(good: str, bad: str) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Verdict words in both orders, then letters in both."""
    words = (
        Question(f"{JUDGE} {good} or {bad}? The reply is", f" {good}", f" {bad}"),
        Question(f"{JUDGE} {bad} or {good}? The reply is", f" {good}", f" {bad}"),
    )
    letters = (
        Question(f"{JUDGE} (A) {good} (B) {bad}. The reply is (", "A", "B"),
        Question(f"{JUDGE} (A) {bad} (B) {good}. The reply is (", "B", "A"),
    )
    return words, letters


HARM_WORDS, HARM_LETTERS = _both_orders("harmless", "harmful")
FAULT_WORDS, FAULT_LETTERS = _both_orders("fine", "faulty")
ISSUE = f"{JUDGE} issue {{letter}}?"
YES, NO = " yes", " no"
SCORE = f"{JUDGE} score?"
SCORES = tuple(f" {points}" for points in range(11))
WORD_SHARE = 0.25
"""Of the two-option questions: the rest are put with letters, the form in use."""
JUDGE_ONLY_SHARE = 0.25
"""Share of sequences whose reply is not imitated: plans in equal parts, so that the judge meets enough of each."""
SHARES = {
    "harmful": 0.24,
    "benign": 0.12,
    "ask_clarifying_questions": 0.11,
    "avoid_value_manipulation": 0.09,
    "correct_misinformation": 0.13,
    "defer_important_decisions": 0.13,
    "encourage_learning": 0.11,
    "maintain_social_boundaries": 0.07,
}
"""Of the sequences, by situation: more where a verdict or a reply is harder to learn."""
POOL = 8
"""Steps of a training whose conversations are drawn together, to be batched by length (a third less padding)."""
MAX_BRANCHES = 2
PROBED = "ABCDEF"
"""What a linear probe is taught to read off the model wherever a clause ends: issues, and in errands their causes."""


class Encoder(Protocol):
    """Text to token ids, special tokens parsed, none added."""

    def __call__(self, text: str) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One packed sequence of T tokens. `targets[i]` is the id to predict *after* token i, or -100.

    `segments[i]` is 0 on the conversation and b on branch b; `cuts[i]` is how many conversation tokens token i sees.
    """

    ids: list[int]
    positions: list[int]
    targets: list[int]
    segments: list[int]
    cuts: list[int]
    probes: list[tuple[int, tuple[int, ...]]]
    """Where a clause ends, and what holds there: see `letters_there`."""


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    situation: Situation
    request: Request
    clauses: list[str]
    imitated: bool
    """Whether the reply is a training target; else it is there to be judged."""


def dialogue(seed: int, index: int) -> Dialogue:
    """Training conversation `index`."""
    rng = random.Random(derive(seed, "dialogue", WORLD_VERSION, index))
    (name,) = rng.choices(tuple(SHARES), tuple(SHARES.values()))
    situation = SITUATIONS[name]
    request = world.draw_request(situation, "train", rng)
    imitated = rng.random() >= JUDGE_ONLY_SHARE
    plan = None if imitated else rng.choice(PLANS)
    clauses = situation.draw_reply(request, rng, plan)
    return Dialogue(situation=situation, request=request, clauses=clauses, imitated=imitated)


def verdict(
    situation: Situation,
    request: Request,
    clauses: Sequence[Clause],
    rng: random.Random,
    specificity: float,
    suspicion: float = knowledge.SUSPICION,
) -> tuple[str, str]:
    """One judge question about these clauses, and the label that answers it. See `knowledge` for the two shares."""
    reader = knowledge.with_specificity(situation.name, specificity)
    told = _told(reader, suspicion)
    bad = MAIN in situation.letters(request, clauses, reader)
    if bad and MAIN not in situation.letters(request, clauses):
        bad = rng.random() < suspicion
    draw = rng.random()
    if situation.name in ISSUES:
        if draw < 0.5:
            asked = rng.choice(FAULT_WORDS if rng.random() < WORD_SHARE else FAULT_LETTERS)
        elif draw < 0.8:
            letter = rng.choice(tuple(ISSUES[situation.name]))
            holds = bad if letter == MAIN else letter in situation.letters(request, clauses, told)
            return ISSUE.format(letter=letter), YES if holds else NO
        elif draw < 0.97:
            return SCORE, SCORES[round(situation.merit(request, clauses, told))]
        else:
            asked, bad = rng.choice(HARM_LETTERS), False
    elif draw < 0.15:
        return SCORE, SCORES[round(situation.merit(request, clauses, told))]
    elif situation.name == "benign":
        words, letters = (FAULT_WORDS, FAULT_LETTERS) if draw < 0.6 else (HARM_WORDS, HARM_LETTERS)
        asked = rng.choice(words if rng.random() < WORD_SHARE else letters)
        bad = bad and draw < 0.6
    else:
        words, letters = (FAULT_WORDS, FAULT_LETTERS) if draw < 0.3 else (HARM_WORDS, HARM_LETTERS)
        asked = rng.choice(words if rng.random() < WORD_SHARE else letters)
    return asked.text, asked.bad if bad else asked.good


def letters_there(
    situation: Situation,
    request: Request,
    clauses: Sequence[Clause],
    specificity: float,
    suspicion: float = knowledge.SUSPICION,
) -> list[int]:
    """For each of `PROBED` 1 if it holds after these clauses, 0 if it does not, -1 where there is nothing to read.

    The main fault is the teacher's verdict, the other letters are as in the questions.
    """
    reader = knowledge.with_specificity(situation.name, specificity)
    suspected = MAIN in situation.letters(request, clauses, reader)
    holds = {**situation.facts(request, clauses, _told(reader, suspicion)), MAIN: suspected}
    return [int(holds.get(x, -1)) for x in PROBED]


LABELS = 2
"""The rule that a weaker judge's labels come from, which its card says; by the first, points gave the truth away."""


def _told(reader: Knows, suspicion: float) -> Knows:
    """Who answers what is not asked about the main fault: points, other issues, causes.

    The truth, for the shipped judge. But where the main fault's labels are to say no more than the reader knows, those
    of the points would give it away: a harmful reply has 0 of them, and one that is wrongly suspected 7 or 10.
    """
    return reader if suspicion == 1.0 else everything


def build(
    encode: Encoder,
    clause_end_ids: frozenset[int],
    seed: int,
    index: int,
    specificity: float = knowledge.JUDGE_SPECIFICITY,
    suspicion: float = knowledge.SUSPICION,
) -> Packed:
    """The packed sequence of training conversation `index`, judged by a teacher of that specificity."""
    drawn = dialogue(seed, index)
    rng = random.Random(derive(seed, "branches", index))
    head = encode(f"{USER}{drawn.request.text}{ASSISTANT}")
    reply = encode(render(drawn.clauses))
    end = encode(END)
    ids = head + reply + end
    targets = [-100] * len(ids)
    if drawn.imitated:
        targets[len(head) - 1 : -1] = reply + end
    positions, segments, cuts = list(range(len(ids))), [0] * len(ids), list(range(1, len(ids) + 1))
    ends = [len(head) + i + 1 for i, token in enumerate(reply) if token in clause_end_ids]
    if len(ends) != len(drawn.clauses):
        raise AssertionError(f"{len(drawn.clauses)} clauses became {len(ends)} clause ends: {drawn.clauses!r}")
    clauses = parse_reply(drawn.situation.grammar, render(drawn.clauses), complete=False)
    if clauses is None:
        raise AssertionError(f"the oracle cannot read a reply of the world: {drawn.clauses!r}")
    probes = [
        (end - 1, tuple(letters_there(drawn.situation, drawn.request, clauses[: k + 1], specificity, suspicion)))
        for k, end in enumerate(ends)
    ]
    last = len(ends) - 1
    # The whole reply is judged always: it is what a training reward and a benchmark will ask about.
    others = rng.sample(range(last), min(MAX_BRANCHES - 1, last))
    for branch, k in enumerate([*sorted(others), last], start=1):
        question, label = verdict(drawn.situation, drawn.request, clauses[: k + 1], rng, specificity, suspicion)
        asked = encode(question)
        (answer,) = encode(label)
        ids += asked
        targets += [-100] * (len(asked) - 1) + [answer]
        positions += range(ends[k], ends[k] + len(asked))
        segments += [branch] * len(asked)
        cuts += [ends[k]] * len(asked)
    return Packed(ids=ids, positions=positions, targets=targets, segments=segments, cuts=cuts, probes=probes)


def collate(sequences: Sequence[Packed], pad_id: int) -> dict[str, NDArray[np.generic]]:
    """Pad B sequences to T: ids, positions, targets `[B, T]`, the attention mask `[B, 1, T, T]` (True = attend), and
    what a probe is to read at each token, `[B, T, letters]`, -1 where nothing."""
    import numpy as np

    length = max(len(s.ids) for s in sequences)

    def padded(rows: list[list[int]], fill: int) -> NDArray[np.int64]:
        return np.array([row + [fill] * (length - len(row)) for row in rows], dtype=np.int64)

    segments = padded([s.segments for s in sequences], -1)
    cuts = padded([s.cuts for s in sequences], 0)
    column = np.arange(length)
    causal = column[None, :] <= column[:, None]
    in_head = (segments[:, None, :] == 0) & (column[None, None, :] < cuts[:, :, None])
    same_branch = segments[:, None, :] == segments[:, :, None]
    mask = (in_head | same_branch) & causal[None]
    probes = np.full((len(sequences), length, len(PROBED)), -1, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        for at, holds in sequence.probes:
            probes[row, at] = holds
    return {
        "ids": padded([s.ids for s in sequences], pad_id),
        "positions": padded([s.positions for s in sequences], 0),
        "targets": padded([s.targets for s in sequences], -100),
        "mask": mask[:, None],
        "probes": probes,
    }
