"""`inferalign agency report`, `compare` and `audit`: files, tables, last lines, messages."""

import csv
import json
from pathlib import Path

import pytest

from inferalign.cli.main import main
from tests.reports.agency_run import write_run

DID = "defer_important_decisions"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("cli") / "run", dimensions=[DID], count=8, judges=["chat:judge-one"])


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, object]]:
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def test_report_writes_the_page_and_its_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "report", str(run)]) == 0
    _, last = said(capsys)
    assert last["page"] == str(run / "report.html")
    assert (last["judge"], last["arms"], last["verdicts"]) == ("chat:judge-one", 3, 24)
    assert all(Path(str(path)).exists() for path in (last["page"], *last["files"]))  # type: ignore[misc]
    page = tmp_path / "new" / "page.html"
    assert main(["agency", "report", str(run), "--out", str(page), "--hab-compat"]) == 0
    assert "Published scoring choices" in page.read_text()
    assert "Published scoring choices" not in (run / "report.html").read_text()


def test_compare_shows_and_keeps_the_table(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "compare.csv"
    command = ["agency", "compare", str(run), "--a", "small-chat", "--b", "sandbox under rain", "--out", str(out)]
    assert main(command) == 0
    text, last = said(capsys)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    differences = last["differences"]
    assert isinstance(differences, list)
    assert [row["dimension"] for row in rows] == [each["dimension"] for each in differences] == [DID, "overall"]
    assert float(rows[0]["difference"]) == differences[0]["difference"]
    assert "defer important decisions" in text
    assert "p, Holm" in text


def test_audit_says_what_there_is_and_what_to_type(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "audit", str(run)]) == 0
    text, last = said(capsys)
    assert "letter order, value [95 % interval]" in text
    assert "--judge-repeats 3" in text
    assert last["missing"] == ["against truth", "agreement", "people", "repeatability", "self-preference"]
    rows = json.loads((run / "audit.json").read_text())["rows"]
    assert {row["check"] for row in rows if row["unit"]} == {"letter order", "length"}


def test_runs_of_two_models_show_what_one_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run has one model: whether a judge prefers its own is seen beside another's."""
    given = {"dimensions": [DID], "count": 6, "judges": ["m", "other"]}
    runs = [str(write_run(tmp_path / name, subjects=[name], **given)) for name in ("m", "n")]
    assert main(["agency", "audit", runs[0], "--kin", "m=m"]) == 0
    text, last = said(capsys)
    assert "self-preference" in last["missing"]
    assert "name a second model's run here" in " ".join(text.split())
    assert main(["agency", "audit", *runs, "--kin", "m=m"]) == 0
    _, last = said(capsys)
    assert last["runs"] == ["m", "n"]
    assert "self-preference" not in last["missing"]
    assert last["out"] == str(tmp_path / "m" / "audit.json")


def test_audit_reads_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.jsonl"
    lines = [f'{{"reply": "def-{n:03}/small-chat/default/0", "annotator": "p", "score": {n}}}' for n in range(4)]
    labels.write_text("\n".join(lines))
    out = tmp_path / "audit.json"
    assert main(["agency", "audit", str(run), "--labels", str(labels), "--out", str(out)]) == 0
    text, _ = said(capsys)
    assert "prediction-powered" in text
    labels.write_text('{"reply": "def-000/small-chat/default/0", "annotator": "p", "letters": ["Q"]}')
    assert main(["agency", "audit", str(run), "--labels", str(labels), "--out", str(out)]) == 1
    assert f"{labels}:1: unknown {DID} issue 'Q'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["report", "{tmp}"], "holds no verdicts"),
        (["report", "{run}", "--judge", "chat:judge-on"], "Did you mean 'chat:judge-one'?"),
        (["compare", "{run}", "{run}", "{run}"], "3 runs: compare takes one or two"),
        (["compare", "{run}", "--a", "small-chat"], "several arms: name one with --b"),
        (["compare", "{tmp}/no.eval"], "no file"),
        (["audit", "{run}", "--kin", "j"], "--kin 'j': expected JUDGE=SUBJECT"),
        (["audit", "{run}", "--kin", "chat:judge-one=nobody"], "no subject 'nobody'"),
        (["audit", "{run}", "--labels", "{tmp}/no.jsonl"], "no file"),
    ],
)
def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    assert main(["agency", *(part.format(run=run, tmp=tmp_path) for part in command)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_runs_of_a_few_items_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two clusters can show no difference that a scale of 100 points has."""
    runs = [
        str(write_run(tmp_path / name, dimensions=["encourage_learning"], count=4, subjects=[name], judges=["j"]))
        for name in "ab"
    ]
    assert main(["agency", "compare", *runs]) == 0
    text, last = said(capsys)
    assert last["differences"][0]["detectable"] > 10  # type: ignore[index]
    assert "> 100" in text
