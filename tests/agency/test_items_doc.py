"""The code in docs/agency_items.md runs, and its numbers are those of the files."""

import re
from pathlib import Path

import pytest

from inferalign.agency.dimension import load_dimension, load_shipped
from inferalign.agency.embed import EndpointEmbedder, SentenceTransformersEmbedder, TfidfEmbedder
from inferalign.agency.items import load_items
from inferalign.agency.simulate import SimulateSettings, shipped_themes

DOC = (Path(__file__).parents[2] / "docs" / "agency_items.md").read_text()


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL):
        exec(compile(block, "docs/agency_items.md", "exec"), names)
    assert "encourage_learning/1/0" in capsys.readouterr().out
    assert len(load_items(load_dimension("encourage_learning"), tmp_path / "ten.jsonl")) == 10


def test_the_numbers_are_those_of_the_files() -> None:
    assert f"one theme out of {len(shipped_themes())}" in DOC
    assert {dimension.generate.per_call for dimension in load_shipped().values()} == {3}
    assert {dimension.validate.min_score for dimension in load_shipped().values()} == {700}
    assert SimulateSettings().length_tolerance == 0.2
    assert TfidfEmbedder().near_duplicate == 0.6
    for embedder in (EndpointEmbedder, SentenceTransformersEmbedder):
        assert embedder.__init__.__kwdefaults__["near_duplicate"] == 0.92
