"""docs/sandbox.md shows dialogues that the world really makes, and figures as the gates printed them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from inferalign.cli.pages import markdown_table, rewrite
from inferalign.cli.sandbox_docs import (
    MODEL,
    PAGE,
    copies,
    dialogues,
    difficulty,
    judge,
    leaks,
    letters,
    model_card,
    others,
    parts_of,
    replies,
    reward,
    seeds,
)
from inferalign.cli.sandbox_docs import main as write
from inferalign.cli.sandbox_reports import read_report, read_reports
from inferalign.cli.sandbox_search_docs import (
    SEARCH_TABLES,
    ablations,
    bounds,
    controls,
    drift,
    errands,
    failures,
    horizon,
    issues,
    keys,
    law,
    margins,
    searches,
    trainings,
)
from inferalign.core.errors import InputError
from inferalign.sandbox.situations import SITUATIONS
from inferalign.scorers.verdicts import ISSUES

RATE = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 8}
REPORT = {
    "unparsed": RATE | {"mean": 0.01, "low": 0.0, "high": 0.02},
    "good_strict": RATE,
    "issues": {"A": RATE, "B": RATE | {"mean": 0.07}},
    "merit": {"mean": 6.25, "low": 6.0, "high": 6.5, "n": 8},
}
JUDGED = {
    "texts": 40,
    "sensitivity": RATE,
    "specificity": RATE,
    "balanced": 0.875,
    "auc": 0.9,
    "auc_rejected": 0.7,
    "accuracy": 0.85,
    "majority": 0.6,
    "flips": 0.05,
}
FACTS = {
    name: {
        "vanilla": REPORT,
        "greedy": REPORT,
        "letters": {"whole": JUDGED, "partial": {"texts": 0}},
        "words": {"whole": JUDGED | {"balanced": 0.75}, "partial": {"texts": 0}},
    }
    for name in SITUATIONS
}


def test_the_dialogues_letters_and_difficulties_in_the_page_are_the_worlds() -> None:
    text, parts = PAGE.read_text(), parts_of({})
    assert list(parts) == ["dialogues", "letters", "difficulty"]
    assert all(f"<!-- begin {part} -->" in text for part in parts)
    assert rewrite(text, parts) == text, "stale: run `python -m inferalign.cli.sandbox_docs`"


def test_a_dialogue_shows_each_plan_with_the_letters_of_the_oracle() -> None:
    lines = dialogues().splitlines()
    for name in SITUATIONS:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"| **{name}**"))
        plans = [line.split(" | ")[0].removeprefix("| ") for line in lines[at + 1 : at + 4]]
        assert plans == ["bad", "decoy", "good"]
        assert "A" in lines[at + 1].split(" | ")[2]
        assert all("A" not in line.split(" | ")[2] for line in lines[at + 2 : at + 4])


def test_figures_are_those_of_the_gates_and_a_class_that_is_empty_has_none(tmp_path: Path) -> None:
    path = tmp_path / "gates.txt"
    path.write_text("a table\n" + json.dumps(FACTS) + "\n")
    facts = read_report(path)
    said = replies(facts).splitlines()
    half = "50.0 [25.0, 75.0]"
    assert said[2] == f"| harmful | 1.0 [0.0, 2.0] | {half} | {half} | {half} | B 7 | 6.25 [6.00, 6.50] |"
    judged = judge(facts).splitlines()
    assert len(judged) == 2 + len(SITUATIONS)
    assert judged[2].endswith("| 0.875 | 0.900 | 0.700 | 0.850 | 0.600 | 5.0 | 0.750 |")
    sure = FACTS | {"harmful": FACTS["harmful"] | {"letters": {"whole": JUDGED | {"auc_rejected": None}}}}
    assert judge(sure).splitlines()[2].endswith("| 0.875 | 0.900 | - | 0.850 | 0.600 | 5.0 | 0.750 |")
    one_class = FACTS | {"harmful": FACTS["harmful"] | {"words": {"whole": {"texts": 40}}}}
    assert judge(one_class).splitlines()[2].endswith("| 5.0 | - |")


def test_a_report_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gates.txt"
    for text in ("", "a table\n", "[1]\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"gates\.txt does not end in what a benchmark prints last"):
            read_report(path)


SHIPPED, OTHER = "sha256:shipped", "sha256:other"
STUDY = {name: {"arms": {}} for name in SITUATIONS}
WHOLE: dict[str, object] = {name: {} for name in SITUATIONS}
REPORTS: dict[str, dict[str, object]] = {
    "gates": {**FACTS, "gates": {}},
    "rewards": {"rewards": {"reward": WHOLE}, "gates": {}},
    "study": STUDY,
    "law": {"judges": WHOLE},
    "decisions": {"decisions": WHOLE},
    "horizon": {name: {"arms": {"rain": {}, "rain-whole": {}}} for name in SITUATIONS},
    "ablations": {"situations": {name: {"full": {}} for name in SITUATIONS}},
    "drift": {"situations": {name: {"best-of-k": []} for name in SITUATIONS}},
    "audit": {"situations": {name: {"readers": {}} for name in SITUATIONS}},
    "copies": {"situations": {"harmful": {"readers": {}}}, "replies": WHOLE},
}
SEEDED = ("gates", "study")
OF_MODELS = tuple(kind for kind in REPORTS if kind != "audit")


def given(folder: Path, *reports: dict[str, object]) -> list[Path]:
    paths = [folder / f"{i}.txt" for i in range(len(reports))]
    for path, facts in zip(paths, reports, strict=True):
        path.write_text("a table\n" + json.dumps(facts) + "\n")
    return paths


def test_every_kind_of_report_is_told_and_has_its_parts(tmp_path: Path) -> None:
    shipped = [facts | {"weights": SHIPPED} for facts in REPORTS.values()]
    others = [REPORTS[kind] | {"weights": OTHER} for kind in SEEDED]
    found = read_reports(given(tmp_path, *shipped, *others), SHIPPED)
    assert {kind: len(reports) for kind, reports in found.items()} == {kind: 1 + (kind in SEEDED) for kind in REPORTS}
    named = re.findall("<!-- begin ([a-z-]+) -->", PAGE.read_text())
    assert set(named) == set(parts_of(found)), "every part has its report and its place"


@pytest.mark.parametrize("kind", OF_MODELS)
def test_a_report_of_other_weights_or_of_a_version_before_is_refused(kind: str, tmp_path: Path) -> None:
    report = REPORTS[kind]
    with pytest.raises(InputError, match=r"0\.txt does not say whose weights were measured: repeat its command"):
        read_reports(given(tmp_path, report), SHIPPED)
    with pytest.raises(
        InputError, match=rf"0\.txt: a report of {kind} on the weights sha256:other.*: give that of the"
    ):
        read_reports(given(tmp_path, report | {"weights": OTHER}), SHIPPED)
    with pytest.raises(InputError, match=rf"1\.txt: a second report of {kind} on the same weights: give one"):
        read_reports(given(tmp_path, *[report | {"weights": SHIPPED}] * 2), SHIPPED)


@pytest.mark.parametrize("kind", REPORTS)
def test_a_part_of_the_situations_is_refused(kind: str, tmp_path: Path) -> None:
    text = json.dumps(REPORTS[kind] | {"weights": SHIPPED})
    part = json.loads(text.replace('"correct_misinformation"', '"elsewhere"'))
    with pytest.raises(InputError, match=rf"0\.txt: a report of {kind} lacks correct_misinformation: measure all"):
        read_reports(given(tmp_path, part), SHIPPED)


@pytest.mark.parametrize("kind", SEEDED)
def test_training_seeds_are_compared_on_the_same_prompts_and_once_each(kind: str, tmp_path: Path) -> None:
    first, other = (REPORTS[kind] | {"weights": weights, "seed": 5} for weights in (SHIPPED, OTHER))
    assert len(read_reports(given(tmp_path, first, other), SHIPPED)[kind]) == 2
    with pytest.raises(InputError, match=rf"1\.txt: the reports of {kind} differ in seed: measure all alike"):
        read_reports(given(tmp_path, first, other | {"seed": 6}), SHIPPED)
    with pytest.raises(InputError, match=rf"2\.txt: a second report of {kind} on the same weights"):
        read_reports(given(tmp_path, first, other, other), SHIPPED)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for odd in ({"hello": 1}, {"harmful": 5}, {"situations": []}, {"situations": {"harmful": 1}}):
        with pytest.raises(InputError, match=r"0\.txt: no part of docs/sandbox\.md is filled from such a report"):
            read_reports(given(tmp_path, odd), SHIPPED)
    with pytest.raises(InputError, match=r"1\.txt: a second report of audit: give one"):
        read_reports(given(tmp_path, *[REPORTS["audit"]] * 2), SHIPPED)


def test_a_refused_report_rewrites_nothing(tmp_path: Path) -> None:
    pages = (PAGE, MODEL / "README.md")
    before = [page.read_text() for page in pages]
    with pytest.raises(InputError, match="whose weights"):
        write([str(path) for path in given(tmp_path, REPORTS["gates"])])
    assert [page.read_text() for page in pages] == before


def test_training_seeds_stand_side_by_side_where_all_were_measured() -> None:
    def study(seed: int, mean: float, *arms: str) -> dict[str, object]:
        more = {"minus_vanilla": RATE | {"mean": 0.125}}
        rate = {"good_strict": RATE | {"mean": mean}}
        found = {arm: rate if arm == "vanilla" else rate | more for arm in arms}
        return {"training_seed": seed, "harmful": {"arms": found}}

    lines = trainings([study(1, 0.5, "vanilla", "greedy", "rain"), study(0, 0.75, "vanilla", "greedy")]).splitlines()
    assert lines[0] == "| situation | decoding | seed 1, % | less vanilla | seed 0, % | less vanilla |"
    assert lines[2:] == [
        "| harmful | vanilla | 50.0 [25.0, 75.0] |  | 75.0 [25.0, 75.0] |  |",
        "| harmful | greedy | 50.0 [25.0, 75.0] | 12.5 [25.0, 75.0] | 75.0 [25.0, 75.0] | 12.5 [25.0, 75.0] |",
    ]


def test_every_letter_is_told_with_its_points() -> None:
    lines = letters().splitlines()[2:]
    assert len(lines) == 2 + sum(map(len, ISSUES.values()))
    assert "|  | B | 5 | praises or supports the idea of the relationship |" in lines


def test_the_two_horizons_stand_side_by_side() -> None:
    clause = {"good_strict": RATE, "tokens": 2000.4}
    more = {f"minus_{base}": RATE | {"mean": i / 10} for i, base in enumerate(("rain", "bound", "best-of-16"), start=1)}
    whole = {"good_strict": RATE | {"mean": 0.75}, "tokens": 1000.0, **more}
    line = horizon({"benign": {"arms": {"rain": clause, "rain-whole": whole}}}).splitlines()[2]
    rest = "[25.0, 75.0]"
    assert line == (f"| benign | 50.0 {rest} | 75.0 {rest} | 10.0 {rest} | 20.0 {rest} | 30.0 {rest} | 2,000 | 1,000 |")


def test_other_issues_of_a_search_and_what_the_model_learned_by_hand() -> None:
    """Where boundaries are kept the world's hard keys are bad in .7 to .8, 75 % on average; others in .05 to .2."""
    rates = {letter: RATE | {"mean": i / 10} for i, letter in enumerate("ABCDEF")}
    arms = {"vanilla": {"issues": rates, "merit": {"mean": 4.5}}, "greedy": {}}
    drawn = {"hard": RATE, "easy": RATE | {"mean": 0.125}}
    study = {"maintain_social_boundaries": {"arms": arms, "bad_draws": drawn}, "harmful": {"arms": arms}}
    assert issues(study).splitlines()[2:] == [
        "| maintain_social_boundaries | vanilla | 0 | 10 | 20 | 30 | 40 | 50 | 4.50 |"
    ]
    assert keys(study).splitlines()[2:] == [
        "| maintain_social_boundaries | 75 | 50.0 [25.0, 75.0] | 13 | 12.5 [25.0, 75.0] |"
    ]


def test_an_audit_is_copied_of_the_world_or_of_a_run() -> None:
    readers = {
        reader: RATE | {"mean": i / 10} for i, reader in enumerate(("reply", "prompt", "both", "overlap", "base"))
    }
    found = {"reading": {"cuts": 1234, "ambiguous": 1, "unread": 2}, "readers": readers}
    line = leaks({"situations": {"harmful": found}}).splitlines()[2]
    assert line.startswith("| harmful | 1,234 | 3 | 0.0 [25.0, 75.0] | 10.0 [25.0, 75.0] | 20.0 [")
    assert copies({"replies": {"benign": {"new": RATE}}}).splitlines()[2] == "| benign | 8 | 50.0 [25.0, 75.0] |"


def test_the_difficulty_of_a_situation_by_hand() -> None:
    """Errands have 16 keys, 2 hard ones: .52 + .08 * (.5, 1.5) / 2; 14 easy ones: .03 + .05 * (.5, ..., 13.5) / 14."""
    assert difficulty().splitlines()[2] == "| harmful | 2 | 54 to 58 | 14 | 3 to 8 |"


def test_seeds_are_compared_by_their_worst_situation() -> None:
    other = FACTS | {"harmful": FACTS["harmful"] | {"vanilla": REPORT | {"unparsed": RATE | {"mean": 0.125}}}}
    whole = {"training_seed": 1, "gates": {"a": True, "b": False}}
    said = seeds([FACTS | whole, other | whole]).splitlines()
    assert [line.split(" | ")[1] for line in said[2:]] == ["99.0", "87.5"]
    assert said[2].startswith("| seed 1 | ")
    assert said[2].endswith("| +0.0 | 0.875 to 0.875 | 0.900 | 1 of 2 |")


def test_the_card_says_how_the_weights_were_made_and_what_was_measured_on_them() -> None:
    recipe = {"layers": 6, "hidden": 192, "seed": 3, "steps": 9000, "batch_size": 64, "specificity": 0.82}
    card = model_card({"version": "sandbox-9", "world": "7", "recipe": recipe}, FACTS | {"n": 500, "seed": 71})
    assert card.startswith("---\nlicense: apache-2.0\n")
    for said in (
        "# sandbox-9",
        "--seed 3 --out DIR`",
        "9,000 steps",
        "18 % of the good replies for that, more in correct_misinformation",
        "500 prompts a situation, seed 71",
    ):
        assert said in card
    assert replies(FACTS) in card
    assert judge(FACTS) in card


def test_answers_to_other_questions_are_copied() -> None:
    none = {"mean": None, "low": None, "high": None, "n": 0}
    points = {"n": 8, "rank": None, "error": 0.25, "bias": 0.1}
    found = {
        "whole": {"named": RATE, "not_named": none},
        "partial": {"named": none, "not_named": RATE},
        "points": points,
    }
    line = others({"decisions": {"harmful": found}}).splitlines()[2]
    assert line == "| harmful | 50.0 [25.0, 75.0] | - | - | 50.0 [25.0, 75.0] | - | 0.25 |"


def test_a_reward_models_figures_are_copied() -> None:
    found = {"accuracy": RATE, "ties": RATE, "rank": 0.5, "within": RATE, "gap_closed": 0.5}
    grades = {"random": 5.0, "best_of_4": 7.0, "perfect": 9.0}
    line = reward({"rewards": {"reward": {"all": found | grades}}}).splitlines()[2]
    assert line == "| shipped | all | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] | 0.50 | 0.50 | 5.00 | 7.00 | 9.00 |  |"
    two = {"rewards": {name: {"all": found | grades} for name in ("reward", "reward:judges/other")}}
    both = reward(two | {"agreement": {"reward and reward:judges/other": {"all": RATE | {"mean": 0.8}}}}).splitlines()
    assert both[2] == line
    assert both[3].startswith("| other | all | ")
    assert both[3].endswith(" | 9.00 | 80.0 [25.0, 75.0] |")
    unranked = found | {"rank": None, "within": RATE | {"mean": None, "n": 0}}
    assert " | - | - | 5.00 " in reward({"rewards": {"reward": {"all": unranked | grades}}}).splitlines()[2]


def test_the_figures_of_a_study_are_copied_where_they_were_measured() -> None:
    none = {"mean": None, "low": None, "high": None, "n": 0}
    refusing = {"refused": RATE, "contrast_refused": RATE | {"mean": 0.3}, "contrast_good": RATE | {"n": 7}}
    plain = {"good_strict": RATE, "merit": RATE | {"mean": 6.25}, "tokens": 40.4, **refusing}
    rain = plain | {"tokens": 1234.5, "minus_vanilla": RATE, "minus_bound": RATE | {"mean": -0.01}}
    judged = {"sensitivity": RATE, "specificity": RATE | {"mean": 0.8}}
    harmful = {
        "arms": {"vanilla": plain, "rain": rain},
        "judge": judged,
        "bound": RATE,
        "prompts_without_an_accepted_candidate": 3,
        "perfect_judge_of_16": RATE | {"mean": 1.0},
    }
    study = {"budget": "50/15/6", "benign": {"arms": {"vanilla": plain}}, "harmful": harmful}
    half = "50.0 [25.0, 75.0]"
    assert all(table(study) for table in SEARCH_TABLES["study"].values())
    assert errands(study).splitlines()[2:] == [
        f"| harmful | vanilla | {half} | 30.0 [25.0, 75.0] | {half} | 7 |",
        f"| harmful | rain | {half} | 30.0 [25.0, 75.0] | {half} | 7 |",
        f"| benign | vanilla | {half} | 30.0 [25.0, 75.0] | {half} | 7 |",
    ]
    agency = plain | {"refused": none, "minus_top-15": RATE, "minus_best-of-16": RATE | {"mean": -0.02}}
    other = {"encourage_learning": {"arms": {"rain": agency}}}
    assert errands(other).splitlines()[2:] == []
    assert margins({"benign": {"arms": {"vanilla": agency}}}).splitlines()[2:] == []
    assert margins(other).splitlines()[2:] == [f"| encourage_learning | rain | {half} |  | -2.0 [25.0, 75.0] |  |"]
    best = {"best-of-16": plain | {"minus_top-15": RATE, "minus_random-of-4": RATE | {"mean": 0.2}}}
    chosen = {"benign": {"arms": {"vanilla": plain, **best}}}
    assert controls(chosen).splitlines()[2:] == [f"| benign | best-of-16 | {half} | 20.0 [25.0, 75.0] |"]
    del best["best-of-16"]["minus_top-15"]
    chosen = {"benign": {"arms": best}}
    assert controls(chosen).splitlines()[2:] == ["| benign | best-of-16 |  | 20.0 [25.0, 75.0] |"]
    assert searches(study).splitlines()[2:] == [
        f"| harmful | vanilla | 8 | {half} |  |  |  | 6.25 | 40 |",
        f"| harmful | rain | 8 | {half} | {half} |  | -1.0 [25.0, 75.0] | 6.25 | 1,234 |",
        f"| benign | vanilla | 8 | {half} |  |  |  | 6.25 | 40 |",
    ]
    assert bounds(study).splitlines()[2:] == [
        f"| harmful | {half} | 80.0 [25.0, 75.0] | {half} | 3 | 100.0 [25.0, 75.0] |"
    ]


def test_failures_are_those_of_rain() -> None:
    none = {"failed": 0, "rejected": 0, "refused": 0, "keys": 0, "best_score": None}
    some = none | {"failed": 48, "rejected": 47, "refused": 46, "keys": 2, "best_score": -0.994}
    shares = {"good_accepted": RATE, "good_accepted_elsewhere": RATE | {"mean": 0.9}}
    study = {"harmful": {"failures": none | shares}, "benign": {"failures": some | shares}, "encourage_learning": {}}
    assert failures(study).splitlines()[2:] == [
        "| benign | 48 | 47 | 46 | 2 | -0.99 | 50.0 [25.0, 75.0] | 90.0 [25.0, 75.0] |"
    ]
    alone = {"mean": 0.8333, "low": None, "high": None, "n": 1}
    one = {"benign": {"failures": some | shares | {"failed": 1, "good_accepted": alone}}}
    assert "| -0.99 | 83.3 | 90.0 [25.0, 75.0] |" in failures(one), "a rate of one prompt has no interval"


def test_other_studies_are_copied() -> None:
    half = "50.0 [25.0, 75.0]"
    bare = {"good_strict": RATE, "tokens": 1000.4}
    minus = {"mean": 0.01, "low": -0.02, "high": 0.03, "n": 8}
    parts = {"full": bare, "c = 0": bare | {"minus_full": minus}}
    parts["equal_tokens"] = bare | {"k": 13, "rain_minus_best_of_k": minus}
    study = {"budget": "50/15/6", "situations": {"harmful": parts}}
    assert ablations(study).splitlines()[2:] == [
        f"| harmful | RAIN | {half} |  | 1,000 |",
        f"| harmful | RAIN, c = 0 | {half} | 1.0 [-2.0, 3.0] | 1,000 |",
        f"| harmful | best-of-13, equal tokens | {half} | -1.0 [-3.0, 2.0] | 1,000 |",
    ]
    point = {"search": "best-of-1", "tokens": 52.5, "belief": RATE, "truth": RATE, "unread": RATE, "drift": minus}
    study = {"situations": {"harmful": {"best-of-k": [point], "rain": []}}}
    assert drift(study).splitlines()[2:] == [
        f"| harmful | best-of-1 | 52 | {half} | {half} | {half} | 1.0 [-2.0, 3.0] |"
    ]
    made = {"good": RATE, "minus_draw": minus, "minus_greedy": RATE, "tokens": 1050.4}
    by = {"rain": made, "best-of-8": made | {"tokens": 626}}
    worse = {"balanced": RATE, "sensitivity": RATE, "specificity": RATE, "auc": RATE | {"mean": None}, "by": by}
    better = worse | {"balanced": RATE | {"mean": 0.9}, "auc": RATE | {"mean": 0.98}}
    study = {"budget": "50/15/6", "judges": {"harmful": {"flips-0.4": worse, "own": better}}}
    one = f"{half} | 1.0 [-2.0, 3.0] | {half}"
    searches = f"{one} | 1,050 | {one} | 626 |"
    assert law(study).splitlines()[2:] == [
        f"| harmful | own | 90.0 [25.0, 75.0] | {half} | {half} | 98.0 [25.0, 75.0] | {searches}",
        f"| harmful | flips-0.4 | {half} | {half} | {half} | - | {searches}",
    ]


def test_a_part_without_a_place_is_left_out_and_the_rest_of_the_page_stays() -> None:
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    made = rewrite(page, {"x": lambda: "new", "y": lambda: "never"})
    assert made == "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n"
    assert markdown_table(["h", "k"], [["1", "2"]]) == "| h | k |\n| --- | --- |\n| 1 | 2 |"


def test_a_part_that_does_not_end_is_refused_and_the_page_stays_whole() -> None:
    with pytest.raises(InputError, match=r"the part x and does not end it: write `<!-- end x -->`"):
        rewrite("a\n<!-- begin x -->\nold\nand all the rest\n", {"x": lambda: "new"})
