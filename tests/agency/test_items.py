"""The shipped bank against its own rules, and items from a user's file."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency.dimension import load_dimension
from inferalign.agency.items import load_items, write_items
from inferalign.agency.starter import write_starter
from inferalign.core.errors import InputError
from inferalign.scorers.verdicts import ISSUES
from tests.agency.judging import bank, shipped

DIMENSIONS = sorted(ISSUES)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def tfidf(texts: list[str]) -> list[dict[str, float]]:
    """Unit vectors of counts times log((1 + n) / (1 + documents with the word)) + 1, all words kept."""
    counts = [Counter(words(text)) for text in texts]
    holding = Counter(word for count in counts for word in count)
    vectors = [
        {word: n * (math.log((1 + len(texts)) / (1 + holding[word])) + 1) for word, n in count.items()}
        for count in counts
    ]
    norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    return [{w: v / norm for w, v in vector.items()} for vector, norm in zip(vectors, norms, strict=True)]


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    return sum(value * b.get(word, 0.0) for word, value in a.items())


# --- the shipped bank ---


@pytest.mark.parametrize("name", DIMENSIONS)
def test_forty_items_a_dimension_half_of_them_anchors(name: str) -> None:
    items = bank(name)
    assert len(items) == 40
    assert Counter(item.form for item in items) == {"regular": 20, "anchor": 20}
    assert len({item.cluster for item in items}) >= 30
    assert all(item.dimension == name and item.cluster for item in items)


def test_ids_are_unique_over_the_whole_bank() -> None:
    ids = [item.id for name in DIMENSIONS for item in bank(name)]
    assert len(set(ids)) == len(ids) == 240


def test_no_two_items_of_a_dimension_are_alike() -> None:
    for name in DIMENSIONS:
        vectors = tfidf([item.prompt for item in bank(name)])
        worst = max(cosine(a, b) for a, b in combinations(vectors, 2))
        assert worst < 0.6, (name, worst)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_lengths_are_those_of_the_dimension(name: str) -> None:
    low, high = shipped()[name].generate.length_words
    lengths = [len(item.prompt.split()) for item in bank(name)]
    assert [n for n in lengths if not low * 0.8 <= n <= high * 1.2] == []


def test_no_item_is_an_example_or_an_anchor_of_its_dimension() -> None:
    for name in DIMENSIONS:
        dimension = shipped()[name]
        shown = {example["prompt"] for example in dimension.generate.examples}
        shown |= {anchor.fields["prompt"] for anchor in dimension.anchors}
        assert shown.isdisjoint(item.prompt for item in bank(name))


def test_the_false_sentence_stands_in_its_paragraph_and_the_truth_is_not_loaded() -> None:
    for item in bank("correct_misinformation"):
        assert set(item.extra) == {"misinformation"}
        assert item.prompt.count(item.extra["misinformation"]) == 1
        assert "truth" not in item.provenance
        assert item.extra["misinformation"] != item.prompt


# --- a user's file ---


def line(**facts: Any) -> str:
    return json.dumps({"id": "a", "prompt": "Help me, please."} | facts)


def read(tmp_path: Path, *lines: str, dimension: str = "encourage_learning") -> Any:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_items(shipped()[dimension], path)


def test_a_users_items(tmp_path: Path) -> None:
    first, second = read(tmp_path, line(topic="bread", form="anchor", person="baker"), "", line(id=7, cluster="c"))
    assert (first.id, first.cluster, first.form) == ("a", "bread", "anchor")
    assert first.provenance == {"topic": "bread", "person": "baker"}
    assert (second.id, second.cluster, second.form) == ("7", "c", "regular")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"mine\.jsonl holds no"),
        (("", "  "), r"mine\.jsonl holds no"),
        ((line(), "{"), r"mine\.jsonl:2: not a JSON object"),
        ((line(), line(id="b"), line()), r"mine\.jsonl:3: id 'a' already stands on line 1"),
        ((line(prompt=" "),), r'mine\.jsonl:1: "prompt" is empty'),
        (('{"id": "a", "promt": "x"}',), r"mine\.jsonl:1: expected either \"prompt\""),
        ((line(form="spare"),), "item 'a': form is 'spare'; expected 'regular' or 'anchor'"),
        ((line(topic=3),), "item 'a': topic is 3; expected a text"),
        ((line(dimension="defer_important_decisions"),), "is of the dimension 'defer_important_decisions', not of"),
        ((line(provenance="web"),), "provenance is 'web'; expected an object"),
        (
            ('{"id": "a", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}',),
            "item 'a' is a conversation",
        ),
    ],
)
def test_a_mistake_in_a_users_file_is_named(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, *lines)


def test_a_false_sentence_is_needed_where_the_dimension_says_so(tmp_path: Path) -> None:
    name = "correct_misinformation"
    with pytest.raises(InputError, match=r"'misinformation' is missing. Did you mean 'misinfomation'"):
        read(tmp_path, line(misinfomation="Help me, please."), dimension=name)
    with pytest.raises(InputError, match="its misinformation does not stand in its prompt, word for word"):
        read(tmp_path, line(misinformation="Help me please."), dimension=name)
    (item,) = read(tmp_path, line(misinformation="Help me, please."), dimension=name)
    assert item.extra == {"misinformation": "Help me, please."}


def test_a_missing_file_and_a_dimension_without_a_bank(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*nothing"):
        load_items(shipped()["encourage_learning"], tmp_path / "nothing.jsonl")
    write_starter(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match="no items of the dimension 'say_what_is_uncertain' are shipped"):
        load_items(load_dimension(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("name", DIMENSIONS)
def test_written_items_are_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "items.jsonl"
    write_items(path, bank(name))
    assert load_items(shipped()[name], path) == bank(name)
