"""Inspect logs in place of runs: compared in pairs, reported, audited."""

import json
from pathlib import Path

import pytest
from inspect_ai.scorer import match

from inferalign.cli.main import main
from tests.agency.test_inspect_logs import by_table, sums

VALUES = {"q1": 2.0, "q2": 8, "q3": None, "q4": 5.5, "q5": 10}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("logs")
    better = {name: value and min(10.0, value + 1) for name, value in VALUES.items()}
    return [sums(folder / str(n), match(), by_table(values)).location for n, values in enumerate((VALUES, better))]


def test_two_logs_are_compared_item_by_item(logs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "compare", *logs, "--scorer", "table", "--scale", "0", "10"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = last["differences"][0]
    assert (row["dimension"], row["pairs"], row["dropped"]) == ("sums", 4, 1)
    assert row["difference"] == pytest.approx(-0.75)  # 1, 1, 1 and 0, where the scale ends
    assert row["a_subject"].rpartition(" [")[0] == row["b_subject"].rpartition(" [")[0]


def test_a_choice_among_scorers_is_asked_for(logs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "compare", *logs]) == 1
    assert "scorer" in capsys.readouterr().err


def test_a_log_has_a_page_and_an_audit(logs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    chosen = ["--scorer", "table", "--scale", "0", "10"]
    assert main(["agency", "report", *logs, *chosen, "--out", str(page)]) == 0
    assert "it is 5.5" in page.read_text()
    assert "2 of 10 replies that were due have no score" in page.read_text()
    assert main(["agency", "report", logs[0], *chosen, "--hab-compat"]) == 1
    assert "the issues of sums are not known" in capsys.readouterr().err
    assert main(["agency", "audit", logs[0], *chosen, "--out", str(tmp_path / "audit.json")]) == 0
    assert "a second --judge" in capsys.readouterr().out
