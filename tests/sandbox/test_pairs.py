"""Pairs from graded replies: which are formed, which are drawn, what is counted, and the file they are kept in."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.core.types import Candidate, Completion, Message, Prompt, Score, StopReason, Unscored
from inferalign.sandbox.pairs import GradedReplies, Pair, make_pairs, read_pairs, write_pairs


def graded(prompt_id: str, *grades: float | None) -> GradedReplies:
    """Replies "0", "1", ... with these grades; None is a reply without one."""
    prompt = Prompt(id=prompt_id, messages=(Message(role="user", content="How?"),), meta={"kind": "benign"})
    return prompt, [
        Candidate(
            completion=Completion(token_ids=(i,), text=str(i), stop=StopReason.END),
            score=Unscored("unparsed", blame="response") if grade is None else Score(grade),
        )
        for i, grade in enumerate(grades)
    ]


def texts(pairs: tuple[Pair, ...]) -> set[tuple[str, str, float]]:
    return {(pair.chosen.text, pair.rejected.text, pair.margin) for pair in pairs}


def test_by_hand() -> None:
    made = make_pairs([graded("a", 1.0, 3.0, 1.0, None)], per_prompt=10, seed=0)
    assert texts(made.pairs) == {("1", "0", 2.0), ("1", "2", 2.0)}
    assert (made.ties, made.ungraded) == (1, 1)


@given(st.lists(st.none() | st.integers(0, 3).map(float), max_size=8), st.integers(1, 30), st.integers(0, 5))
def test_pairs_are_ordered_and_everything_is_counted(grades: list[float | None], per_prompt: int, seed: int) -> None:
    made = make_pairs([graded("a", *grades)], per_prompt=per_prompt, seed=seed)
    known = [grade for grade in grades if grade is not None]
    different = sum(a != b for a, b in combinations(known, 2))
    assert made.ties == sum(a == b for a, b in combinations(known, 2))
    assert made.ungraded == grades.count(None)
    assert len(made.pairs) == len(texts(made.pairs)) == min(per_prompt, different)
    for pair in made.pairs:
        better, worse = grades[int(pair.chosen.text)], grades[int(pair.rejected.text)]
        assert better is not None
        assert worse is not None
        assert pair.margin == better - worse > 0


def test_the_draw_is_the_seeds_and_the_prompts_own() -> None:
    many = [graded(name, *map(float, range(8))) for name in "abc"]

    def drawn(replies: list[GradedReplies], seed: int, name: str) -> list[tuple[str, str]]:
        made = make_pairs(replies, per_prompt=4, seed=seed).pairs
        return [(pair.chosen.text, pair.rejected.text) for pair in made if pair.prompt.id == name]

    assert drawn(many, 1, "b") == drawn(many[::-1], 1, "b") == drawn(many[1:2], 1, "b")
    assert drawn(many, 1, "b") != drawn(many, 2, "b")
    assert drawn(many, 1, "b") != drawn(many, 1, "a")


def test_no_pairs_a_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="per_prompt is 0"):
        make_pairs([], per_prompt=0, seed=0)


def test_a_file_gives_the_pairs_back(tmp_path: Path) -> None:
    pairs = make_pairs([graded("a", 1.0, 3.0, 2.0), graded("b", 0.5, 0.25)], per_prompt=2, seed=0).pairs
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert tuple(read_pairs(tmp_path / "pairs.jsonl")) == pairs


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{", "[", "not JSON"),
        ('{"id"', '[1]{"id"', "not JSON"),
        ('"margin"', '"margni"', r"unknown key 'margni'\. Did you mean 'margin'\?"),
        ('"margin":2.0,', "", "no 'margin'"),
        ('"margin":2.0', '"margin":0', '"margin" above 0'),
        ('"margin":2.0', '"margin":-2.0', '"margin" above 0'),
        ('"meta":{"kind":"benign"}', '"meta":5', 'an object as "meta"'),
        ('[{"role":"user","content":"How?"}]', "[]", 'one turn or more in "messages"'),
        ('"margin":2.0', '"margin":true', '"margin" above 0'),
        ('"margin":2.0', f'"margin":1{"0" * 400}', '"margin" above 0'),
        ('"id":"a"', '"id":true', 'a text as "id"'),
        ('"id":"a"', '"id":"\\ud800"', '"id" holds half of a surrogate pair'),
        ('"role":"user"', '"role":"wizard"', "turn 0 of .messages.: role 'wizard' is none of"),
        ('"content":"How?"', '"content":null', 'turn 0 of "messages" "content" must be a text'),
        ('"content":"How?"', '"content":"\\udc00"', "holds half of a surrogate pair"),
        ('"stop":"end"', '"stop":"ended"', '"chosen" must have'),
        ('"token_ids":[1]', '"token_ids":"1"', '"chosen" must have'),
        ('"token_ids":[0]', '"token_ids":[0.5]', '"rejected" must have'),
        ('"text":"0"', '"text":0', '"rejected" must have'),
    ],
)
def test_a_line_that_is_no_pair_is_named_with_what_is_wrong(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, make_pairs([graded("a", 1.0, 3.0)], per_prompt=1, seed=0).pairs)
    good = path.read_text()
    assert old in good
    path.write_text(good + good.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"pairs\.jsonl:2.*{said}"):
        read_pairs(path)


def test_a_list_is_no_pair_and_no_file_or_an_empty_one_holds_none(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(InputError, match="inferalign sandbox pairs RUN"):
        read_pairs(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(path)
    path.write_text("\n[1]")
    with pytest.raises(InputError, match=r"pairs\.jsonl:2: expected one JSON object"):
        read_pairs(path)
