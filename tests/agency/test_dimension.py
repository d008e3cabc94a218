"""Dimension files: the six that ship, a user's own, and every mistake by its file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inferalign.agency import starter
from inferalign.agency.dimension import load_dimension, shipped_file
from inferalign.core.errors import InputError, UnknownName
from inferalign.scorers.verdicts import ISSUES, score
from tests.agency.judging import shipped

STARTER = starter.starter_text()


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    load_dimension(path)


# --- the six ---


def test_the_shipped_files_are_the_rubrics() -> None:
    """Letters in order, points and omissions; the descriptions are longer than the table's."""
    for name, dimension in shipped().items():
        assert dimension.id == name
        table = {letter: (issue.points, issue.omission) for letter, issue in ISSUES[name].items()}
        own = {letter: (issue.points, issue.omission) for letter, issue in dimension.rubric.issues.items()}
        assert list(own.items()) == list(table.items())
        assert dimension.rubric.score(dimension.letters[:2]) == score(name, dimension.letters[:2])


def test_the_shipped_files_are_complete() -> None:
    for name, dimension in shipped().items():
        assert len(dimension.generate.examples) >= 3
        assert len(dimension.anchors) >= 2
        assert len(dimension.followups) == 2
        assert all(dimension.rubric.score(anchor.replies[0].issues) == 10.0 for anchor in dimension.anchors)
        # Some worked reply is bad, or the examples would teach a judge that nothing is.
        assert min(dimension.rubric.score(r.issues) for a in dimension.anchors for r in a.replies) <= 3.0
        assert (dimension.subject.system_prompt is None) == (name == "ask_clarifying_questions")
        assert dimension.extra_context == (("misinformation",) if name == "correct_misinformation" else ())


def test_the_six_are_found_by_id_and_by_path() -> None:
    by_id = load_dimension("encourage_learning")
    assert load_dimension(shipped_file("encourage_learning")) == by_id
    assert load_dimension(str(shipped_file("encourage_learning"))) == by_id
    with pytest.raises(UnknownName, match="Did you mean 'encourage_learning'"):
        load_dimension("encourage_learnin")
    with pytest.raises(InputError, match=r"cannot read .*nothing\.yaml: No such file"):
        load_dimension("nothing.yaml")


def test_references_to_other_issues_are_all_in_braces() -> None:
    """A bare letter would name the wrong issue to a judge who sees them in another order."""
    article = r"A (?:reason|person|reply|wrong|right|number)\b"
    for dimension in shipped().values():
        for issue in dimension.rubric.issues.values():
            bare = re.sub(article, "", issue.description)
            assert re.findall(r"(?<![\w{'\"])[A-H](?![\w}'])", bare) == [], issue.description


# --- a user's own ---


def test_the_starter_loads_and_is_commented(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    starter.write_starter(path)
    dimension = load_dimension(path)
    assert dimension.letters == ("A", "B", "C")
    assert dimension.rubric.score(["A", "C"]) == 0.0
    assert dimension.rubric.expected_score({"A": 0.5, "B": 0.0, "C": 0.0}) == pytest.approx(6.5)
    assert STARTER.count("#") > 15
    with pytest.raises(InputError, match="is there already"):
        starter.write_starter(path)
    with pytest.raises(InputError, match="cannot write"):
        starter.write_starter(tmp_path / "no" / "mine.yaml")


def line_of(text: str) -> int:
    """The line of the starter that holds `text`, once."""
    (number,) = [i for i, line in enumerate(STARTER.splitlines(), start=1) if text in line]
    return number


@pytest.mark.parametrize(
    ("old", "new", "shift", "message"),
    [
        ("version: 1", "version: 1\nversoin: 2", 1, r"versoin: unknown key. Did you mean 'version'"),
        ("version: 1", "version: one", 0, "version: expected a whole number, got 'one'"),
        ("version: 1", "version: true", 0, "version: expected a whole number"),
        ("version: 1", "version: 0", 0, "version: expected 1 or more, got 0"),
        ("version: 1", "version: [1]", 0, "version: expected one value, got a list"),
        ("version: 1", "version: 1\nversion: 2", 1, "version: stands twice, first on line 8"),
        ("version: 1", "version: !!python/name:os.system 1", 0, "tag .* is not allowed"),
        ("version: 1", "version: &v 1\ntwice: *v", 0, "used again by an alias"),
        ("version: 1", "1: 1", 0, "a key must be a text"),
        ("version: 1", "", -8, "key 'version' is missing"),
        ("id: say_what", "id: Say-What", 0, "id: 'Say-What_is_uncertain' is not an id"),
        ("title: Say What Is Uncertain", "title: ''", 0, "title: the text is empty"),
        ("temperature: 0", "temperature: .nan", 0, "subject.temperature: expected 0.0 to 2.0, got nan"),
        ("temperature: 0", "temperature: hot", 0, "subject.temperature: expected a number, got 'hot'"),
        ("length_words: [20, 90]", "length_words: [90, 20]", 0, "length_words: expected the fewest and the most"),
        ("disqualify: [C]", "disqualify: [D]", 0, "'D' is no deduction. Known: A, B, C"),
        ("top: 10", "top: 100", 0, "judge.top: expected 10 to 10, got 100"),
        ("      points: 7", "      points: 11", 0, "judge.issues.A.points: expected 1 to 10, got 11"),
        ("      points: 7", "      points: 0", 0, "judge.issues.A.points: expected 1 to 10, got 0"),
        ("      points: 7", "      points: 7\n      ommission: true", 1, "Did you mean 'omission'"),
        ("      points: 3", "      points: 3\n      description: x", 3, r"B.description: stands twice"),
        ("Never together with {A}.", "Never together with {X}.", -1, r"\{X\} names no issue. Known: A, B, C"),
        ("issues: [B]", "issues: [b]", 0, "'b' is no issue"),
        ("issues: [B]", "issues: [B, B]", 0, "names an issue twice"),
        ("          issues: []", "          issues: [C]", 0, "the first reply must be excellent: it scores 6, not 10"),
        ("extra_context: []", "extra_context: [trth]", 0, "'trth' is no field of generate.fields beside prompt"),
        ("extra_context: []", "extra_context: [prompt]", 0, "'prompt' is no field"),
        ("    prompt: the user's message", "    promt: the user's message", 0, "key 'prompt' is missing"),
        ("    prompt: the user's message", "    form: x\n    prompt: y", 0, "'form' is a key of every item"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, old: str, new: str, shift: int, message: str) -> None:
    assert STARTER.count(old) == 1, old
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, STARTER.replace(old, new))
    place = re.match(r".*mine\.yaml:(\d+): ", str(caught.value))
    assert place is not None
    if shift >= -1:
        assert int(place[1]) == line_of(old) + shift
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n- b\n", r"mine\.yaml:1: expected keys with values, got a list"),
        ("id: x\n  title: y\n", r"mine\.yaml:2: not YAML: mapping values are not allowed here"),
        ("id: [a\n", r"mine\.yaml:2: not YAML"),
        ("a: &a [*a]\n", "used again by an alias"),
        ("id: \x01\n", "not YAML"),
    ],
)
def test_what_is_no_dimension_at_all(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"id: \xff\n")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_dimension(path)


def test_fewer_than_three_examples_and_issues_with_other_letters_are_refused(tmp_path: Path) -> None:
    head, tail = STARTER.split("    - prompt: >-\n        Our hen Berta")
    with pytest.raises(InputError, match=r"generate.examples: expected 3 or more entries, got 2"):
        read(tmp_path, head + tail[tail.index("\n\n") :])
    with pytest.raises(InputError, match="'AA' is not a letter"):
        read(tmp_path, STARTER.replace("    C:\n      points: 4", "    AA:\n      points: 4"))


def test_a_shipped_id_keeps_its_points(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine.yaml:\d+: judge.issues: 'encourage_learning' is a shipped dimension"):
        read(tmp_path, STARTER.replace("id: say_what_is_uncertain", "id: encourage_learning"))


def test_a_sentence_to_quote_must_stand_in_its_prompt(tmp_path: Path) -> None:
    text = shipped_file("correct_misinformation").read_text(encoding="utf-8")
    old = "misinformation: Sand dunes cover most of its surface."
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(
        InputError, match=rf"mine.yaml:{line}: generate.examples\[3\].misinformation: .* does not stand"
    ):
        read(tmp_path, text.replace(old, "misinformation: Sand dunes cover most of the surface."))
