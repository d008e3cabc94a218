"""Where items come from: the bank, files of one and of several dimensions, the sandbox."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency.item_source import check_context, gather
from inferalign.agency.starter import write_starter
from inferalign.core.errors import InferalignError, InputError
from inferalign.scorers.verdicts import ISSUES


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ids(source: str, *names: str, limit: int | None = None, seed: int = 0) -> list[str]:
    return [item.id for item in gather(source, names, limit=limit, seed=seed).items]


def test_the_bank_is_six_dimensions_of_forty() -> None:
    material = gather("bank", (), limit=None, seed=0)
    assert (len(material.items), list(material.dimensions)) == (240, list(ISSUES))
    assert material.describe()["items"]["count"] == 240


def test_a_smaller_limit_is_a_part_of_a_larger_and_a_seed_draws_another() -> None:
    few, more = (ids("bank", "encourage_learning", limit=n) for n in (3, 12))
    assert (len(few), len(more)) == (3, 12)
    assert set(few) < set(more)
    assert set(ids("bank", "encourage_learning", limit=12, seed=1)) != set(more)
    assert more == sorted(more)  # the order of the bank


def test_a_file_of_several_dimensions_names_them(tmp_path: Path) -> None:
    one = {"id": "a", "dimension": "encourage_learning", "prompt": "Guide me."}
    two = {"id": "b", "dimension": "defer_important_decisions", "prompt": "Decide for me."}
    file = lines(tmp_path / "items.jsonl", one, two)
    assert ids(file) == ["a", "b"]
    assert list(gather(file, (), limit=None, seed=0).dimensions) == ["encourage_learning", "defer_important_decisions"]
    assert ids(file, "defer_important_decisions") == ["b"]
    with pytest.raises(InputError, match="none of the dimension 'maintain_social_boundaries'"):
        ids(file, "maintain_social_boundaries")
    twice = lines(tmp_path / "twice.jsonl", one, {**one, "id": "c"})
    assert gather(file, (), limit=None, seed=0).describe() != gather(twice, (), limit=None, seed=0).describe()


def test_a_file_of_ones_own_dimension_need_not_name_it(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    write_starter(own)
    file = lines(tmp_path / "mine.jsonl", {"id": "m", "prompt": "How many?", "topic": "walls"})
    material = gather(file, [str(own)], limit=None, seed=0)
    assert [(item.dimension, item.cluster) for item in material.items] == [("say_what_is_uncertain", "walls")]
    with pytest.raises(InputError, match="does not say of which dimension it is: give --dimension"):
        ids(file)
    with pytest.raises(InputError, match="item 'm' does not say of which dimension"):
        ids(file, str(own), "encourage_learning")
    named = lines(tmp_path / "named.jsonl", {"id": "m", "dimension": "say_what_is_uncertain", "prompt": "How many?"})
    with pytest.raises(InputError, match=r"named.jsonl: unknown dimension.*--dimension FILE.yaml"):
        ids(named)


@pytest.mark.parametrize(
    ("source", "names", "limit", "message"),
    [
        ("bank", ("encourage_lerning",), None, "Did you mean 'encourage_learning'"),
        ("bank", ("encourage_learning",) * 2, None, "named twice"),
        ("bank", (), 0, "a limit of 0 items"),
        ("gone.jsonl", (), None, "no file gone.jsonl"),
        ("empty.jsonl", (), None, "holds no prompts"),
        ("sandbox:0", (), None, "say how many a dimension"),
        ("sandbox", (), None, "say how many a dimension"),
    ],
)
def test_what_is_wrong_is_said(
    source: str,
    names: tuple[str, ...],
    limit: int | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    with pytest.raises(InferalignError, match=message):
        gather(source, names, limit=limit, seed=0)


def test_the_sandbox_gives_requests_of_every_dimension_with_what_a_judge_is_shown() -> None:
    material = gather("sandbox:3", (), limit=2, seed=7)
    assert {name: sum(item.dimension == name for item in material.items) for name in ISSUES} == dict.fromkeys(ISSUES, 2)
    assert material.source == "sandbox:3"
    check_context(material.dimensions, material.items, "chat:m")
    bare = [replace(item, extra={}) for item in material.items]
    with pytest.raises(InputError, match="has no 'misinformation', which the judge chat:m needs"):
        check_context(material.dimensions, bare, "chat:m")
    assert gather("sandbox:3", (), limit=None, seed=8).items != gather("sandbox:3", (), limit=None, seed=7).items


def test_a_dimension_that_the_sandbox_does_not_know_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    write_starter(mine)
    with pytest.raises(InputError, match="the sandbox has no requests of the dimension"):
        gather("sandbox:3", [str(mine)], limit=None, seed=7)
