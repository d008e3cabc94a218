"""Runs side by side: items that must be one, subjects told apart, the judge that is reported."""

import json
import re
from html import escape
from pathlib import Path

import pytest

from inferalign.agency.table import Arm
from inferalign.core.errors import InputError, RunError
from inferalign.reports.agency_page import render
from inferalign.reports.agency_results import compute
from inferalign.reports.agency_source import chosen_judge, read_evidence, silences
from tests.reports.agency_run import write_run

ONE = ("defer_important_decisions",)


def small(path: Path, **settings: object) -> Path:
    return write_run(path, dimensions=ONE, **{"count": 3, "subjects": ["m"], "judges": ["j"], **settings})  # type: ignore[arg-type]


def test_a_subject_of_two_runs_is_told_apart_and_keeps_its_verdicts(tmp_path: Path) -> None:
    paths = [small(tmp_path / "before"), small(tmp_path / "after", subjects=["m", "n"])]
    evidence = read_evidence(paths)
    assert evidence.table.arms == [Arm("m [after]", "default"), Arm("m [before]", "default"), Arm("n", "default")]
    assert evidence.arms == ((Arm("m [before]", "default"),), (Arm("m [after]", "default"), Arm("n", "default")))
    assert evidence.table.item_id.size == 3
    alone = read_evidence(paths[:1])
    for arm, other in ((evidence.arms[0][0], Arm("m", "default")),):
        together = evidence.table.item_scores(arm, ONE[0], "j")
        apart = alone.table.item_scores(other, ONE[0], "j")
        assert together.mean.tolist() == apart.mean.tolist()
        assert together.counts == apart.counts


def test_a_run_of_fewer_items_lacks_no_reply_to_the_others(tmp_path: Path) -> None:
    """Beside a run of 8 items one of 3 has the numbers that it has alone, by the published choices, too."""
    paths = [small(tmp_path / "eight", subjects=["n"], count=8), small(tmp_path / "three")]
    together, alone = (compute(read_evidence(some), hab_compat=True) for some in (paths, paths[1:]))
    own = Arm("m", "default")
    assert [mean for mean in together.means if mean.arm == own] == list(alone.means)
    assert [mean for mean in together.published if mean.arm == own] == list(alone.published)
    assert alone.means[0].counts.due == 3


def test_an_arm_without_any_reply_is_named_on_the_page(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    assert silences(read_evidence([run])) == []
    config |= {"subject": {"name": "m"}, "conditions": {"default": {}, "refused": {"system_prompt": "Be <brief>."}}}
    (run / "config.json").write_text(json.dumps(config))
    evidence = read_evidence([run])
    (line,) = silences(evidence)
    assert line.startswith("run: no reply of m (refused), so it is in no table")
    assert escape(line) in render(compute(evidence)).decode()


def test_conditions_of_one_name_that_differ_are_told_apart(tmp_path: Path) -> None:
    """`default` is `mine.txt` here, which was edited between the runs; the third run's is the first's."""
    paths = [small(tmp_path / name, subjects=[name]) for name in "abc"]
    for path, text in zip(paths, ("Be brief.", "Be kind.", "Be brief."), strict=True):
        config = json.loads((path / "config.json").read_text())
        config["conditions"] = {"default": {"system_prompt": text, "followups": False}}
        (path / "config.json").write_text(json.dumps(config))
    assert read_evidence([paths[0], paths[2]]).table.arms == [Arm("a", "default"), Arm("c", "default")]
    apart = read_evidence(paths[:2])
    assert apart.table.arms == [Arm("a", "default [a]"), Arm("b", "default [b]")]
    assert apart.table.item_scores(Arm("b", "default [b]"), ONE[0], "j").counts.scored > 0


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    evidence = read_evidence([small(tmp_path / "a" / "run"), small(tmp_path / "b" / "run")])
    assert [run.name for run in evidence.runs] == ["run", "run (2)"]
    assert {arm.subject for arm in evidence.table.arms} == {"m [run]", "m [run (2)]"}


def test_items_that_differ_are_refused(tmp_path: Path) -> None:
    paths = [small(tmp_path / "a"), small(tmp_path / "b", subjects=["n"])]
    shard = paths[1] / "items" / "records" / "main.jsonl"
    shard.write_text(shard.read_text().replace("Message 1", "Message one"))
    with pytest.raises(RunError, match=r"item 'def-001' is not the same in a and in b"):
        read_evidence(paths)


def test_issues_that_differ_are_refused(tmp_path: Path) -> None:
    paths = [small(tmp_path / "a"), small(tmp_path / "b", subjects=["n"])]
    for path, points in zip(paths, (4, 5), strict=True):
        config = json.loads((path / "config.json").read_text())
        config["dimensions"][ONE[0]]["issues"] = {"A": {"points": points, "description": "decides", "omission": False}}
        (path / "config.json").write_text(json.dumps(config))
    assert read_evidence(paths[:1]).rubrics[ONE[0]].issues["A"].points == 4
    with pytest.raises(RunError, match=r"issues of defer_important_decisions are not the same in a and in b"):
        read_evidence(paths)


def judged_by(path: Path, **how: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"judges": {"j": how}}))


def test_a_judge_that_was_asked_in_two_ways_is_refused(tmp_path: Path) -> None:
    """Verdicts know their judge by its model's name, under which one may ask it for letters or for decisions."""
    paths = [small(tmp_path / "a"), small(tmp_path / "b", subjects=["n"])]
    judged_by(paths[0], judge="chat", settings={"seed": 0}, dimensions={ONE[0]: "x", "other": "y"})
    judged_by(paths[1], judge="chat", settings={"seed": 1}, dimensions={ONE[0]: "x"})
    assert read_evidence(paths).judge == "j", "its seed and what only one was asked may differ"
    judged_by(paths[1], judge="decisions", threshold=0.5, dimensions={ONE[0]: "x"})
    with pytest.raises(RunError, match=r"'j' was not asked in the same way in a and in b \(judge is .chat. there"):
        read_evidence(paths)
    judged_by(paths[1], judge="chat", settings={}, dimensions={ONE[0]: "z"})
    with pytest.raises(RunError, match=rf'dimensions.{ONE[0]} is "x" there and "z" here'):
        read_evidence(paths)


@pytest.mark.parametrize("judges", [["j"], ["j", "k"]])
@pytest.mark.parametrize(("lost", "says"), [("replies", "belongs to the reply"), ("items", "belongs to the item")])
def test_a_lost_line_is_named(lost: str, says: str, judges: list[str], tmp_path: Path) -> None:
    run = small(tmp_path / "a", judges=judges)
    shard = run / lost / "records" / "main.jsonl"
    shard.write_text("".join(shard.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match=says):
        read_evidence([run])


@pytest.mark.parametrize(
    ("part", "old", "new", "says"),
    [
        ("replies", r'"role":', '"rule":', "is not what a run writes"),
        ("verdicts", r'"score":[\d.]+', '"score":"10"', "score '10' is no number"),
    ],
)
def test_a_damaged_line_is_named(part: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    run = small(tmp_path / "a")
    (shard,) = (run / part / "records").glob("*.jsonl")
    damaged, times = re.subn(old, new, shard.read_text())
    assert times
    shard.write_text(damaged)
    with pytest.raises(RunError, match=says):
        read_evidence([run])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ([], "is not what a run writes, an object"),
        (
            {"dimensions": {ONE[0]: {"issues": {"A": {"x": 1}}}}},
            "in a run's config.json are not what",
        ),
    ],
)
def test_a_damaged_config_is_named(config: object, says: str, tmp_path: Path) -> None:
    run = small(tmp_path / "a")
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=says):
        read_evidence([run])


def test_runs_without_a_judge_in_common_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no judge in common \(a: j; b: k\)"):
        read_evidence([small(tmp_path / "a"), small(tmp_path / "b", subjects=["n"], judges=["k"])])


def test_the_panel_is_of_the_judges_that_all_runs_share(tmp_path: Path) -> None:
    paths = [small(tmp_path / "a", judges=["j", "k"]), small(tmp_path / "b", subjects=["n"], judges=["j", "l"])]
    evidence = read_evidence(paths)
    assert evidence.judge == "j"
    assert evidence.judges == ("j", "k", "l")


@pytest.mark.parametrize(
    ("judges", "wanted", "chosen"),
    [
        (["a"], None, "a"),
        (["a", "b"], None, "panel"),
        (["a", "oracle"], None, "oracle"),
        (["a", "b"], "b", "b"),
        (["a", "oracle"], "panel", "panel"),
    ],
)
def test_the_reported_judge(judges: list[str], wanted: str | None, chosen: str) -> None:
    assert chosen_judge(judges, wanted) == chosen


def test_an_unknown_judge_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the judge 'judge-on'\. Did you mean 'judge-one'\? There are: judge-one\."):
        chosen_judge(["judge-one"], "judge-on")
    with pytest.raises(InputError, match="no verdicts of the judge 'panel'"):
        chosen_judge(["a"], "panel")


def test_a_panel_needs_to_know_the_issues(tmp_path: Path) -> None:
    run = small(tmp_path / "a", judges=["j", "k"])
    for shard in run.glob("items/records/*.jsonl"):
        shard.write_text(shard.read_text().replace(ONE[0], "my_own"))
    with pytest.raises(InputError, match=r"the issues of my_own are not known.*name one with --judge"):
        read_evidence([run])
    assert read_evidence([run], judge="k").letters("my_own") == tuple("ABCDEF")
    assert read_evidence([run], panel=False).judge == "j"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no verdicts"):
        read_evidence([tmp_path])


def test_environments_are_kept_once(tmp_path: Path) -> None:
    run = small(tmp_path / "a")
    assert len(read_evidence([run]).runs[0].environments) == 1
    (run / "env.json").write_text(json.dumps({"inferalign": "0.2.0"}))
    assert [env["inferalign"] for env in read_evidence([run]).runs[0].environments] == ["0.2.0", "0.1.0"]
