"""The page and the files of an agency report: they say what the analyses say, and nothing in a reply can act."""

import csv
import json
import re
from pathlib import Path

import pytest

from inferalign.agency.analysis import OVERALL, summarise
from inferalign.agency.analysis_paired import compare_arms
from inferalign.agency.table import Arm
from inferalign.core.errors import InputError
from inferalign.core.files import write_json_atomic
from inferalign.reports.agency_cards import described
from inferalign.reports.agency_report import write_csv, write_report
from inferalign.reports.agency_results import compute, short_names
from inferalign.reports.agency_source import read_evidence
from inferalign.reports.html import digest
from tests.reports.agency_run import write_run
from tests.reports.test_html import HOSTILE, read

LONG = "A" * 100_000 + "the end of it"
SMALL = ("defer_important_decisions", "correct_misinformation")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("agency") / "small", dimensions=SMALL, count=12)


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    out = run.parent / "out" / "page.html"
    write_report(out, compute(read_evidence([run]), hab_compat=True))
    return out.read_text()


def cells(page: str, caption: str) -> list[list[str]]:
    """A table's body by its caption, as text."""
    found = re.search(rf'<caption><span class="caption">{re.escape(caption)}.*?<tbody>(.*?)</tbody>', page, re.S)
    assert found, caption
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.S)
    return [[read(cell).text for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)] for row in rows]


def test_means_on_the_page_are_those_of_the_analysis(run: Path, page: str) -> None:
    evidence = read_evidence([run])
    names = short_names(evidence.table.arms)
    means = {(s.dimension, names[s.arm]): s for s in summarise(evidence.table, evidence.judge)}
    rows = [[OVERALL, *row] for row in cells(page, "Overall")[:3]] + [
        [row[0].lower().replace(" ", "_"), *row[1:]] for row in cells(page, "By dimension")
    ]
    assert len(rows) == 9
    overall = [means[OVERALL, row[1]].score.mean or 0.0 for row in rows[:3]]
    assert overall == sorted(overall, reverse=True)
    for dimension, name, score, _, items, due, verdicts, bounds in rows:
        mean = means[dimension, name]
        e, counts = mean.percent, mean.counts
        assert score == f"{e.mean:.1f} [{e.low:.1f}, {e.high:.1f}]"
        assert (items, due) == (str(e.n), f"{counts.scored} of {counts.due}")
        ok, _, unscored = map(int, verdicts.split(" / "))
        assert (ok, unscored) == (counts.scored, counts.unscored)
        low, high = (10 * bound for bound in mean.bounds)
        assert bounds == (f"{low:.1f} to {high:.1f}" if counts.unscored else "all scored")


def test_the_figure_says_the_same(run: Path, page: str) -> None:
    evidence = read_evidence([run])
    panels = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(panels) == 3
    assert all(re.search(r'role="img" aria-labelledby="t\d d\d"', panel) for panel in panels)
    for summary in summarise(evidence.table, evidence.judge):
        e = summary.percent
        assert f">{e.mean:.1f} [{e.low:.1f}, {e.high:.1f}]</text>" in page
        assert e.mean is not None
        assert f'cx="{14 + 2.92 * e.mean:.2f}"' in page


def test_differences_and_ranks_are_those_of_the_analysis(run: Path, page: str) -> None:
    evidence = read_evidence([run])
    names = short_names(evidence.table.arms)
    paired = compare_arms(evidence.table, evidence.judge)
    section = page[page.index('<section id="differences">') :]
    rows = {(row[0], row[1], row[2]): row for row in cells(section, "Overall") + cells(section, "By dimension")}
    assert len(rows) == len(paired.differences) == 9
    for each in paired.differences:
        row = rows[each.dimension.replace("_", " ").capitalize(), names[each.a], names[each.b]]
        assert row[3].replace("−", "-") == (
            f"{10 * each.estimate.mean:.1f} [{10 * each.estimate.low:.1f}, {10 * each.estimate.high:.1f}]"
        )
        assert row[5] == ("< .001" if each.p_holm < 0.001 else f"{each.p_holm:.3f}".removeprefix("0"))
    ranks = {names[rank.arm]: rank for rank in paired.ranks if rank.dimension == OVERALL}
    for row in cells(page, "Overall"):
        rank = ranks[row[0]]
        assert row[2] == (str(rank.best) if rank.best == rank.worst else f"{rank.best} to {rank.worst}")


def test_the_files_beside_the_page_say_the_same(run: Path, page: str) -> None:
    folder = run.parent / "out"
    evidence = read_evidence([run])
    rows = list(csv.DictReader((folder / "page-scores.csv").read_text().splitlines()))
    assert len(rows) == 3 * 9  # the panel and its two judges; three arms by two dimensions and overall
    for row, mean in zip(rows, summarise(evidence.table, "panel"), strict=False):
        assert (row["judge"], row["subject"], row["dimension"]) == ("panel", mean.arm.subject, mean.dimension)
        assert float(row["mean"]) == mean.score.mean
    report = json.loads((folder / "page-data.json").read_text())
    assert [row["mean"] for row in report["means"]] == [float(row["mean"]) for row in rows]
    assert report["runs"][0]["config"]["dimensions"].keys() == set(SMALL)
    examples = [json.loads(line) for line in (folder / "page-examples.jsonl").read_text().splitlines()]
    assert len(examples) == 2 * 5
    for dimension in SMALL:
        own = [each for each in examples if each["dimension"] == dimension]
        worst = [each["score"] for each in own if each["kind"] == "worst"]
        best = [each["score"] for each in own if each["kind"] == "best"]
        assert worst == sorted(worst)
        assert max(worst) <= min(best)
        assert len({each["item"] for each in own if each["kind"] == "worst"}) == 3


def test_an_overall_mean_over_some_dimensions_says_so(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "two", dimensions=SMALL, count=4, subjects=["m"], judges=["j"]),
        write_run(tmp_path / "one", dimensions=SMALL[:1], count=4, subjects=["n"], judges=["j"]),
    ]
    write_report(tmp_path / "page.html", compute(read_evidence(paths)))
    page = (tmp_path / "page.html").read_text()
    names = [row[0] for row in cells(page, "Overall")]
    assert sorted(names) == ["m", "n, 1 of 2 dimensions"]
    assert ">n, 1 of 2 dimensions</text>" in page
    rows = list(csv.DictReader((tmp_path / "page-scores.csv").read_text().splitlines()))
    assert {(row["subject"], row["dimension"]): row["dimensions"] for row in rows} == {
        ("m", SMALL[0]): "1",
        ("m", SMALL[1]): "1",
        ("m", OVERALL): "2",
        ("n", SMALL[0]): "1",
        ("n", OVERALL): "1",
    }


def test_a_folder_holds_several_pages_with_their_data(run: Path, tmp_path: Path) -> None:
    results = compute(read_evidence([run]))
    names = {path.name for name in ("a.html", "b.html") for path in write_report(tmp_path / name, results)}
    assert names == {
        f"{page}{end}" for page in "ab" for end in (".html", "-data.json", "-scores.csv", "-examples.jsonl")
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    for folder in (tmp_path, Path()):
        with pytest.raises(InputError, match=r"which is a folder\. Name a file in it, as .*report\.html"):
            write_report(folder, results)


def test_no_text_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"a": "=HYPERLINK(1)", "b": -1.5, "c": "@x"}, {"a": "m", "b": None, "c": "a=b"}])
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n'=HYPERLINK(1),-1.5,'@x\nm,,a=b\n"


def test_the_policy_fits_the_page(page: str) -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    policy = next(value for name, value in read(page).attributes if name == "content" and value and "src" in value)
    assert f"style-src '{digest(style)}'" in policy
    assert f"script-src '{digest(script)}'" in policy
    assert {name for name, _ in read(page).attributes}.isdisjoint({"style", "onclick", "src"})
    assert not re.search(r"""(href|src)=["'](?!#)""", page)
    assert "url(" not in style
    assert "@import" not in style


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(tmp_path: Path, page: str) -> None:
    copy = write_run(tmp_path / "elsewhere" / "small", dimensions=SMALL, count=12)
    write_report(tmp_path / "page.html", compute(read_evidence([copy]), hab_compat=True))
    assert (tmp_path / "page.html").read_text() == page
    assert str(tmp_path) not in page


def test_published_choices_are_apart_and_labelled(run: Path, page: str) -> None:
    plain = run.parent / "plain.html"
    write_report(plain, compute(read_evidence([run])))
    assert "Published scoring choices" not in plain.read_text()
    assert "a judge&#x27;s failure scores 0. Do not mix" in page
    assert cells(page, "Overall") == cells(plain.read_text(), "Overall")
    assert len(cells(page, "Published scoring choices (--hab-compat)")) == 3 * 2


@pytest.mark.parametrize("text", [*HOSTILE, LONG])
def test_hostile_replies_and_names_are_text(tmp_path: Path, text: str) -> None:
    run = write_run(
        tmp_path / "a <b>", dimensions=SMALL[:1], count=1, judges=["chat:<u>"], subjects=["<i>m</i>"], texts=[text]
    )
    results = compute(read_evidence([run]))
    assert len(results.examples) == 1
    write_report(tmp_path / "page.html", results)
    page = (tmp_path / "page.html").read_text()
    seen = read(page)
    assert seen.tags.count("script") == 1
    assert {"img", "base", "iframe", "i", "u"}.isdisjoint(seen.tags)
    assert seen.tags.count("meta") == 5
    assert not any(name.startswith("on") for name, _ in seen.attributes)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", page)
    if text is LONG:
        assert "the first 4,000 of 100,013 characters" in seen.text
        assert "the end of it" not in seen.text
        assert "the end of it" in (tmp_path / "page-examples.jsonl").read_text()


def test_a_large_run_stays_below_two_megabytes(tmp_path: Path) -> None:
    subjects = [f"model-{number}" for number in range(8)]
    run = write_run(tmp_path / "large", count=6, subjects=subjects, judges=["a", "b"], texts=["word " * 20_000] * 6)
    write_report(tmp_path / "page.html", compute(read_evidence([run])))
    assert (tmp_path / "page.html").stat().st_size < 2_000_000


def test_texts_that_are_written_out_at_length_are_cut_shorter(tmp_path: Path) -> None:
    """Each of these characters takes 12 bytes: 30 replies of 4,000 would take 1.4 MB, and judges as much again."""
    hostile = ["\u202e" * 20_000] * 6
    run = write_run(tmp_path / "hostile", count=6, subjects=["m"], judges=["a", "b"], texts=hostile)
    write_report(tmp_path / "page.html", compute(read_evidence([run])))
    assert (tmp_path / "page.html").stat().st_size < 1_200_000
    page = (tmp_path / "page.html").read_text()
    assert page.count('<article class="example"') == 30
    assert "the first 2,000 of 20,000 characters" in page
    assert (tmp_path / "page-examples.jsonl").read_text().count("\u202e") == 30 * 20_000


def test_unknown_costs_are_shown_as_unknown(page: str) -> None:
    rows = cells(page, "small, in USD")
    assert [row[-1] for row in rows] == ["0.4416", "unknown"]
    assert "In all: unknown" in page


def test_a_single_arm_and_judge_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", dimensions=SMALL[:1], count=4, judges=["only"], subjects=["small-chat"])
    (run / "costs.json").unlink()
    results = compute(read_evidence([run]))
    write_report(tmp_path / "page.html", results)
    page = (tmp_path / "page.html").read_text()
    assert results.paired is None
    assert "there is nothing to compare" in page
    assert "no ledger was kept" in page
    assert "name a second --judge" in page


def test_short_names_tell_arms_apart() -> None:
    one, other = Arm("m@http://a/v1", "default"), Arm("m@https://b", "default")
    assert short_names([one]) == {one: "m"}
    assert short_names([one, other]) == {one: str(one), other: str(other)}
    capped = Arm("m@http://a/v1", "150-words")
    assert short_names([one, capped]) == {one: "m (default)", capped: "m (150-words)"}


def test_a_user_s_own_issues_are_read_from_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "own", dimensions=SMALL[:1], count=2, judges=["j"])
    config = json.loads((run / "config.json").read_text())
    issue = {"points": 1, "description": "hums a tune", "omission": False}
    config["dimensions"][SMALL[0]]["issues"] = dict.fromkeys("ABCDEF", issue)
    write_json_atomic(run / "config.json", config)
    assert read_evidence([run]).rubrics[SMALL[0]].score(["A", "B"]) == 8.0
    write_report(tmp_path / "page.html", compute(read_evidence([run])))
    assert "The reply hums a tune." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("asks the user nothing", "The reply asks the user nothing."),
        ("The reply guesses. Never together with {B}.", "The reply guesses."),
        ("The reply has {A}, and {C} too.", "The reply has A, and C too."),
    ],
)
def test_issues_are_said_in_a_sentence(description: str, sentence: str) -> None:
    assert described(description) == sentence
