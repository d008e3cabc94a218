"""The audit: each row is its analysis' estimate, and a check that the run does not allow says what to type."""

from pathlib import Path

import pytest

from inferalign.agency.analysis_agreement import against_truth, judge_agreement
from inferalign.agency.analysis_audit import length_effect, letter_order_effect, repeatability, self_preference
from inferalign.agency.analysis_human import corrected_mean, human_agreement
from inferalign.agency.labels import human_scores, read_labels
from inferalign.core.errors import InputError
from inferalign.reports.agency_audit import AuditRow, audit, found_kin
from inferalign.reports.agency_source import Evidence, read_evidence
from tests.reports.agency_run import write_run

DID = "defer_important_decisions"
URL = "@http://localhost:8000/v1"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Holds everything: repeats, shuffled letters, the oracle, and a judge that is a subject's model."""
    path = tmp_path_factory.mktemp("audit") / "run"
    judges = [f"m{URL}", "other", "oracle"]
    subjects = [f"m{URL}", "n"]
    made = write_run(path, dimensions=[DID], count=10, subjects=subjects, judges=judges, judge_repeats=2)
    return read_evidence([made], panel=False)


@pytest.fixture(scope="module")
def rows(full: Evidence) -> list[AuditRow]:
    return audit(full)


def of(rows: list[AuditRow], check: str, **wanted: str) -> list[AuditRow]:
    return [row for row in rows if row.check == check and all(getattr(row, k) == v for k, v in wanted.items())]


def test_every_check_is_there(rows: list[AuditRow]) -> None:
    there = {row.check for row in rows if not row.missing}
    assert there == {"repeatability", "letter order", "length", "self-preference", "agreement", "against truth"}
    assert [row.check for row in rows if row.missing] == ["people"]


def test_rows_are_the_analyses_estimates(full: Evidence, rows: list[AuditRow]) -> None:
    table, judge = full.table, f"m{URL}"
    repeated = repeatability(table, judge)
    assert [row.estimate for row in of(rows, "repeatability", judge=judge)] == [
        repeated.judge_share,
        repeated.same_letters,
    ]
    assert of(rows, "letter order", judge="other")[0].estimate == letter_order_effect(table, "other")
    assert of(rows, "length", judge=judge)[0].estimate == length_effect(table, judge).within_item
    together = judge_agreement(table, full.judges, DID, tuple("ABCDEF"))
    assert of(rows, "agreement", where=DID)[0].estimate == together.score
    assert of(rows, "agreement", where=f"{DID} C")[0].estimate == together.letters["C"]
    truth = against_truth(table, "other", "oracle", DID, tuple("ABCDEF"))
    assert of(rows, "against truth", judge="other", where=f"{DID} B", what="balanced accuracy")[0].estimate == (
        truth[1].balanced
    )
    assert not of(rows, "against truth", judge="oracle")


def test_a_subject_s_own_judge_is_found_by_its_name(full: Evidence, rows: list[AuditRow]) -> None:
    kin = {f"m{URL}": f"m{URL}"}
    assert found_kin(full) == kin
    (row,) = of(rows, "self-preference")
    assert row.where == f"m{URL}"
    assert row.estimate == self_preference(full.table, kin)[0].effect
    (other,) = of(audit(full, kin={"other": "n"}), "self-preference")
    assert (other.judge, other.where) == ("other", "n")


@pytest.mark.parametrize(
    ("judge", "subject"),
    [
        (f"m{URL}", "m@https://elsewhere.example/v1"),
        ("inspect:openai/m", "inspect:openai/m"),
        ("inspect:openai/m", "openai/m"),  # in a log of Inspect's
        ("local:org/m", "rain/org/m"),
        ("local:sandbox", "best-of-n:4/sandbox"),
    ],
)
def test_names_of_one_model(tmp_path: Path, judge: str, subject: str) -> None:
    made = write_run(
        tmp_path / "run", dimensions=[DID], count=2, subjects=[subject, "n"], judges=[judge, "o", "local:p"]
    )
    assert found_kin(read_evidence([made], panel=False)) == {judge: subject}


@pytest.mark.parametrize(
    ("kin", "message"),
    [
        ({"othr": "n"}, "--kin: no judge 'othr' in the run. Did you mean 'other'?"),
        ({"other": "o"}, "--kin: no subject 'o' in the run."),
    ],
)
def test_kin_that_is_not_there(full: Evidence, kin: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as error:
        audit(full, kin=kin)
    assert message in str(error.value)


def test_what_a_run_lacks_is_said_with_what_to_type(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", dimensions=[DID], count=4, subjects=["m"], judges=["j"])
    rows = audit(read_evidence([run]))
    notes = {row.check: row.note for row in rows if row.missing}
    assert "--judge-repeats 3" in notes["repeatability"]
    assert "runs of several models" in notes["length"]
    assert "--kin JUDGE=SUBJECT" in notes["self-preference"]
    assert "a second --judge" in notes["agreement"]
    assert "--judge oracle" in notes["against truth"]
    assert "--labels FILE.jsonl" in notes["people"]
    assert all(row.estimate.mean is None for row in rows if row.missing)
    assert not of([row for row in rows if row.missing], "letter order")


def test_labels_bring_agreement_and_corrected_means(full: Evidence, tmp_path: Path) -> None:
    lines = [
        f'{{"reply": "def-{item:03}/n/default/0", "annotator": "p{who}", "letters": {letters}}}'
        for item in range(5)
        for who, letters in ((1, '["A"]' if item % 2 else "[]"), (2, '["A", "B"]' if item % 3 else "[]"))
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    labels = human_scores(full.table, read_labels(tmp_path / "labels.jsonl"))
    every = of(audit(full, labels=labels), "people")
    rows = [row for row in every if row.judge == "oracle" and not row.missing]
    agreed = human_agreement(full.table, labels, "oracle", DID, tuple("ABCDEF"))
    assert (rows[0].estimate, rows[1].estimate) == (agreed.judge, agreed.letters_judge["A"])
    between = [row for row in every if not row.judge]
    assert [row.estimate for row in between] == [agreed.people, *agreed.letters_people.values()]
    arm = full.table.arms[1]
    assert arm.subject == "n"
    fixed = corrected_mean(full.table, labels, arm, DID, "oracle")
    assert [row.estimate for row in rows[-3:]] == [fixed.judge, fixed.people, fixed.corrected]
    missing = [row for row in every if row.missing]
    assert {row.where for row in missing} == {f"{DID}, m{URL} (default)"}
    assert all("label a random sample" in row.note for row in missing)
