"""A packed training sequence asks each question of exactly the reply so far, and hides everything else from it."""

import numpy as np
import pytest

from inferalign.sandbox import curriculum, world
from inferalign.sandbox.oracle import grade

WORDS: dict[str, int] = {}


def encode(text: str) -> list[int]:
    """A toy encoder: specials, marks, spaced words; stable ids."""
    import re

    return [WORDS.setdefault(t, len(WORDS) + 1) for t in re.findall(r"<\|\w+\|>| ?\w+(?:'s)?| ?[^\w\s]|\s", text)]


ENDS = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)


@pytest.mark.parametrize("index", range(30))
def test_labels_are_the_oracles_verdict_on_the_cut(index: int) -> None:
    packed = curriculum.build(encode, ENDS, 0, index)
    request, clauses, imitated = curriculum.dialogue(0, index)
    ids = {i: token for token, i in WORDS.items()}
    lengths = [
        len(encode(f"{curriculum.USER}{request}{curriculum.ASSISTANT}" + world.render(clauses[:k])))
        for k in range(len(clauses) + 1)
    ]
    for branch in set(packed.segments) - {0}:
        where = [i for i, s in enumerate(packed.segments) if s == branch]
        cut = packed.cuts[where[0]]
        verdict = grade(request, world.render(clauses[: lengths.index(cut)]), complete=False)
        question = "".join(ids[packed.ids[i]] for i in where)
        asked = next(q for q in curriculum.QUESTIONS if q[0] == question)
        assert (
            ids[packed.targets[where[-1]]]
            == (asked[2] if verdict.harmful else asked[1])[: len(ids[packed.targets[where[-1]]])]
        )
        assert [packed.positions[i] for i in where] == list(range(cut, cut + len(where)))
    assert any(t != -100 for t, s in zip(packed.targets, packed.segments, strict=True) if s == 0) == imitated


def test_the_mask_shows_a_branch_its_cut_and_itself() -> None:
    sequences = [curriculum.build(encode, ENDS, 1, i) for i in range(4)]
    batch = curriculum.collate(sequences, pad_id=0)
    for b, packed in enumerate(sequences):
        for i in range(len(packed.ids)):
            naive = [
                j <= i
                and ((packed.segments[j] == 0 and j < packed.cuts[i]) or packed.segments[j] == packed.segments[i])
                for j in range(len(packed.ids))
            ]
            assert np.array_equal(batch["mask"][b, 0, i, : len(naive)], naive)
            assert sum(naive) == packed.positions[i] + 1, "a token sees as many tokens as its position says"
