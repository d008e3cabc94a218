"""Training sequences of the sandbox model: a dialogue, and judge questions branched off its clause ends.

One sequence holds one conversation once. At some clause ends a *branch* asks the self-evaluation question of the reply
so far; a branch sees the conversation up to its cut and itself, nothing else (its positions continue from the cut), so
several verdicts cost one encoding of the conversation and each is exactly what a search will ask later.
Ground truth comes from the oracle; nothing here knows a model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inferalign.core.seeds import derive
from inferalign.sandbox import world
from inferalign.sandbox.oracle import grade

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

USER, ASSISTANT, END, JUDGE, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|judge|>", "<|pad|>"
SPECIALS = (PAD, USER, ASSISTANT, END, JUDGE)
CLAUSE_ENDS = (",", ".", "?")

QUESTIONS: tuple[tuple[str, str, str], ...] = (
    (f"{JUDGE} harmless or harmful? The reply is", " harmless", " harmful"),
    (f"{JUDGE} harmful or harmless? The reply is", " harmless", " harmful"),
    (f"{JUDGE} (A) harmless (B) harmful. The reply is (", "A", "B"),
    (f"{JUDGE} (A) harmful (B) harmless. The reply is (", "B", "A"),
)
"""(question, label of a harmless reply, label of a harmful one): verdict words in both orders, then letters in both."""
WORD_QUESTIONS, LETTER_QUESTIONS = (0, 1), (2, 3)
LETTER_SHARE = 0.25
JUDGE_ONLY_SHARE = 0.3
"""Share of sequences whose reply is not imitated: kinds in equal parts, so that the judge meets enough harm."""
MAX_BRANCHES = 3


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


def dialogue(seed: int, index: int) -> tuple[str, list[str], bool]:
    """Training conversation `index`: request text, reply clauses, and whether the reply is to be imitated."""
    rng = random.Random(derive(seed, "dialogue", world.WORLD_VERSION, index))
    judged_only = rng.random() < JUDGE_ONLY_SHARE
    kind: world.Kind = "harmful" if judged_only and rng.random() < 0.85 else rng.choice(world.KINDS)
    request = world.draw_request(kind, "train", rng)
    plan = rng.choice(world.PLANS) if judged_only else None
    return request.text, world.draw_reply(request, rng, plan), not judged_only


def build(encode: Encoder, clause_end_ids: frozenset[int], seed: int, index: int) -> Packed:
    """The packed sequence of training conversation `index`."""
    request, clauses, imitated = dialogue(seed, index)
    rng = random.Random(derive(seed, "branches", index))
    head = encode(f"{USER}{request}{ASSISTANT}")
    reply = encode(world.render(clauses))
    end = encode(END)
    ids = head + reply + end
    targets = [-100] * len(ids)
    if imitated:
        targets[len(head) - 1 : -1] = reply + end
    positions, segments, cuts = list(range(len(ids))), [0] * len(ids), list(range(1, len(ids) + 1))
    ends = [len(head) + i + 1 for i, token in enumerate(reply) if token in clause_end_ids]
    if len(ends) != len(clauses):
        raise AssertionError(f"{len(clauses)} clauses became {len(ends)} clause ends: {clauses!r}")
    for branch, k in enumerate(sorted(rng.sample(range(len(ends)), min(MAX_BRANCHES, len(ends)))), start=1):
        verdict = grade(request, world.render(clauses[: k + 1]), complete=False)
        if verdict.harmful is None:
            raise AssertionError(f"the oracle cannot read a reply of the world: {clauses[: k + 1]!r}")
        question, harmless, harmful = QUESTIONS[
            rng.choice(LETTER_QUESTIONS if rng.random() < LETTER_SHARE else WORD_QUESTIONS)
        ]
        asked = encode(question)
        (label,) = encode(harmful if verdict.harmful else harmless)
        ids += asked
        targets += [-100] * (len(asked) - 1) + [label]
        positions += range(ends[k], ends[k] + len(asked))
        segments += [branch] * len(asked)
        cuts += [ends[k]] * len(asked)
    return Packed(ids=ids, positions=positions, targets=targets, segments=segments, cuts=cuts)


def collate(sequences: Sequence[Packed], pad_id: int) -> dict[str, NDArray[np.generic]]:
    """Pad B sequences to T: ids, positions, targets `[B, T]` and the attention mask `[B, 1, T, T]` (True = attend)."""
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
    return {
        "ids": padded([s.ids for s in sequences], pad_id),
        "positions": padded([s.positions for s in sequences], 0),
        "targets": padded([s.targets for s in sequences], -100),
        "mask": mask[:, None],
    }
