"""Files of scores: three forms, and what is wrong with any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferalign.core.errors import InputError
from inferalign.theory.score_files import read_scores

FORMS = {
    "a.jsonl": '{"id": "x", "scores": [1, 2.5]}\n\n[3, 4, 5]\n',
    "a.csv": "1,2.5\n3,4,5\n",
    "headed.csv": "first,second\n1,2.5\n3,4,5\n",
    "long.csv": "id,score\nx,1\ny,3\nx,2.5\ny,4\ny,5\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name])
    assert [row.tolist() for row in read_scores(tmp_path / name)] == [[1.0, 2.5], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "1,2", "expected scores as .jsonl"),
        ("a.jsonl", "", "holds no scores"),
        ("a.jsonl", "[1, 2]\n{]\n", "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"id": 1}', 'no list of "scores"'),
        ("a.jsonl", "[1, null]", "a.jsonl:1: None is no finite number: leave out"),
        ("a.jsonl", "[1, true]", "True is no finite number"),
        ("a.csv", "1,2\n3,nan\n", "a.csv:2: nan is no finite number"),
        ("a.csv", "1,2\n3,four\n", "a.csv:2: 'four'"),
        ("a.csv", "id,score\nx,1,2\n", "a.csv:2: expected an id and a score, got 3"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / name)


def test_a_missing_file_and_bad_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_scores(tmp_path / "no.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe1")
    with pytest.raises(InputError, match="not UTF-8"):
        read_scores(tmp_path / "b.csv")
