"""Files of scores: three forms, and what is wrong with any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferalign.core.errors import InputError
from inferalign.theory.score_files import read_scores

FORMS = {
    "a.jsonl": '{"id": "x", "scores": [1, 2.5]}\n\n[3, 4, 5]\n',
    "a.csv": "1,2.5\n3,4,5\n",
    "headed.csv": "s1,s2,s3\n1,2.5\n3,4,5\n",
    "named.csv": "ID,s1,score_2,Score 3\n7,1,2.5,\n8,3,4,5\n",
    "id_last.csv": "s1,s2,s3,id\n1,,2.5,7\n3,4,5,8\n",
    "long.csv": "id,score\nx,1\ny,3\nx,2.5\ny,4\ny,5\n",
    "swapped.csv": "score,id\n1,7\n3,8\n2.5,7\n4,8\n5,8\n",
    "ids.jsonl": '{"id": 1, "scores": [1, 2.5]}\n{"id": 2, "scores": [3, 4, 5]}\n',
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
        ("a.jsonl", f"[1, 2]\n[1, 2, 1{400 * '0'}]", r"a.jsonl:2: 10+\.\.\.0+ is no finite number"),
        ("a.jsonl", '{"id": "x", "scores": [1, 2]}\n' * 2, "a.jsonl:2: id 'x' stands at .*a.jsonl:1 already"),
        ("a.jsonl", '{"id": [], "scores": [1, 2]}', r"a.jsonl:1: \[\] is no id"),
        ("a.csv", "1,2\n3,nan\n", "a.csv:2: 'nan' is no finite number"),
        ("a.csv", f"1,2\n3,1{400 * '0'}\n", "a.csv:2: '10+"),
        ("a.csv", "n/a,n/a\n1,2\n", "a.csv:1: 'n/a' is neither a score nor a column's name: leave out"),
        ("a.csv", "first,second\n1,2\n", "a.csv:1: 'first' is neither .* make it `id,score`"),
        ("a.csv", "id,prompt,score\nx,why,1\n", "a.csv:1: column 'prompt' is unknown: make the header `id,score`"),
        ("a.csv", "p1,s1\n1,2\n", "column 'p1' is unknown"),
        ("a.csv", "id,s1,s1\nx,1,2\n", "column 's1' stands twice"),
        ("a.csv", "score\n1\n", "a column `score` needs a column `id`"),
        ("a.csv", "id,s1,s2\nx,1,2\n\nx,3,4\n", "a.csv:4: id 'x' stands at .*a.csv:2 already"),
        ("a.csv", "s1,s2,id\n1,2\n", "a.csv:2: '' is no id"),
        ("a.csv", "id,score\n,2\n", "a.csv:2: '' is no id"),
        ("a.csv", "s1,s2\n1,2,3\n", "a.csv:2: 3 cells under a header of 2"),
        ("a.csv", f"1,{200_000 * '1'}\n", "a.csv is not CSV"),
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
