from pathlib import Path

import numpy as np
import pytest

from inferalign.agency.agreement import krippendorff_alpha
from inferalign.agency.analysis_human import corrected_mean, human_agreement, prediction_powered
from inferalign.agency.clusters import t_interval
from inferalign.agency.labels import HumanScores, Label, human_scores, read_labels
from inferalign.agency.table import Arm, Table
from inferalign.agency.table_build import build_table
from inferalign.core.errors import InputError, ScoringError
from tests.agency.tables import DID, item, reply, scored, verdict

A = Arm("a", "default")


def file(path: Path, *lines: str) -> Path:
    target = path / "labels.jsonl"
    target.write_text("\n".join(lines) + "\n")
    return target


def test_labels_are_read_and_joined(tmp_path: Path) -> None:
    table = scored({"a": [4, 6, 8]})
    path = file(
        tmp_path,
        '{"reply": "i0/a/default/0", "annotator": "p", "letters": ["B", "D"]}',
        "",
        '{"item": "i2", "annotator": "p", "letters": []}',
        '{"item": "i2", "annotator": "q", "score": 7}',
    )
    labels = read_labels(path)
    assert [label.where for label in labels] == [f"{path}:1", f"{path}:3", f"{path}:4"]
    found = human_scores(table, labels)
    assert found.annotators == ("p", "q")
    np.testing.assert_equal(found.scores, [[4, np.nan], [np.nan, np.nan], [10, 7]])
    np.testing.assert_equal(found.mean, [4, np.nan, 8.5])
    np.testing.assert_equal(found.named("B"), [[1, np.nan], [np.nan, np.nan], [0, np.nan]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"item": "i0", "annotater": "p", "score": 1}', r"unknown key 'annotater'. Did you mean 'annotator'\?"),
        ('{"item": "i0", "reply": "r", "annotator": "p", "score": 1}', 'either "reply" or "item"'),
        ('{"annotator": "p", "score": 1}', 'either "reply" or "item"'),
        ('{"item": "i0", "annotator": "p"}', 'either "letters" or "score"'),
        ('{"item": "i0", "annotator": "p", "score": 1, "letters": []}', 'either "letters" or "score"'),
        ('{"item": "i0", "score": 1}', 'no "annotator"'),
        ('{"item": "", "annotator": "p", "score": 1}', "\"item\" is ''"),
        ('{"item": 3, "annotator": "p", "score": 1}', '"item" is 3'),
        ('{"item": "i0", "annotator": "p", "score": 11}', "from 0 to 10"),
        ('{"item": "i0", "annotator": "p", "score": true}', "from 0 to 10"),
        ('{"item": "i0", "annotator": "p", "score": "7"}', "from 0 to 10"),
        ('{"item": "i0", "annotator": "p", "letters": "AB"}', "expected a list"),
        ('{"item": "i0", "annotator": "p", "letters": ["A", "A"]}', "twice"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = '{"item": "i1", "annotator": "p", "score": 1}'
    with pytest.raises(InputError, match=message) as error:
        read_labels(file(tmp_path, good, line))
    assert "labels.jsonl:2: " in str(error.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_labels(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no labels"):
        read_labels(file(tmp_path, ""))
    with pytest.raises(InputError, match="cannot read"):
        read_labels(tmp_path)


def label(**fields: object) -> Label:
    return Label(
        **({"where": "f:9", "reply": None, "item": None, "annotator": "p", "letters": None, "score": None} | fields)
    )  # type: ignore[arg-type]


def test_labels_that_do_not_fit_the_run_are_named() -> None:
    table = scored({"a": [4, 6], "b": [1, 2]})
    with pytest.raises(InputError, match=r"f:9: no reply 'i0/a/default/9' in the run. Did you mean"):
        human_scores(table, [label(reply="i0/a/default/9", score=1.0)])
    with pytest.raises(InputError, match="2 replies, such as 'i0/a/default/0' to item 'i0'"):
        human_scores(table, [label(item="i0", score=1.0)])
    with pytest.raises(InputError, match="no reply to item 'zz'"):
        human_scores(table, [label(item="zz", score=1.0)])
    with pytest.raises(InputError, match="f:9: unknown defer_important_decisions issue 'Z'"):
        human_scores(table, [label(reply="i0/a/default/0", letters=("Z",))])
    twice = label(reply="i0/a/default/0", score=1.0)
    with pytest.raises(InputError, match="labelled i0/a/default/0 before"):
        human_scores(table, [twice, twice])


def test_another_rubrics_points_score_the_letters() -> None:
    labels = [label(reply="i0/a/default/0", letters=("A",))]
    assert human_scores(scored({"a": [4]}), labels, lambda dimension, letters: 10.0 - len(letters)).mean[0] == 9.0


def test_human_agreement_is_alpha_of_the_columns() -> None:
    replies = [reply(f"i{i}") for i in range(6)]
    said = ["A", "", "B", "AB", "", "A"]
    verdicts = [verdict(r, 10.0 - 3 * len(x), letters=x) for r, x in zip(replies, said, strict=True)]
    table = build_table([item(f"i{i}") for i in range(6)], replies, verdicts)
    people = {"p": ["A", "", "", "AB", "A", "A"], "q": ["A", "B", "", "B", "", None]}
    labels = [
        label(item=f"i{i}", annotator=who, letters=tuple(x))
        for who, row in people.items()
        for i, x in enumerate(row)
        if x is not None
    ]
    found = human_agreement(table, human_scores(table, labels), "j", DID, "AB", seed=1)
    nan = np.nan
    assert found.people.mean == pytest.approx(
        krippendorff_alpha([[2, 2], [10, 6], [10, 10], [0, 6], [2, 10], [2, nan]], "interval")
    )
    assert found.judge.mean == pytest.approx(
        krippendorff_alpha([[7, 2], [10, 8], [7, 10], [4, 3], [10, 6], [7, 2]], "interval")
    )
    # p and q are apart on A in the fourth and the fifth reply: named.
    assert found.letters_judge["A"].mean == pytest.approx(
        krippendorff_alpha([[1, 1], [0, 0], [0, 0], [1, 1], [0, 1], [1, 1]], "nominal")
    )
    assert found.letters_people["B"].n == 5
    with pytest.raises(ScoringError, match="has a label"):
        human_agreement(table, human_scores(table, labels), "j", "encourage_learning", "A")


def test_prediction_powered_by_hand() -> None:
    """f: 4, 6, 8 (mean 6, V 4/3); Y - f: -1, -3 (mean -2, V 1): 4 with V 7/3."""
    fit = prediction_powered([4, 6, 8], [0, 1, 2], [-1, -3], [3, 4])
    assert (fit.value, fit.variance, fit.clusters) == pytest.approx((4.0, 4 / 3 + 1, 5))
    assert fit.df == pytest.approx((7 / 3) ** 2 / ((4 / 3) ** 2 / 2 + 1))


def test_shared_clusters_bring_their_covariance() -> None:
    """Residual sums over n: f -2/3, 0, 2/3; gaps 1/2, -1/2. Gaps in the clusters of the first and last f."""
    apart = prediction_powered([4, 6, 8], [0, 1, 2], [-1, -3], [3, 4])
    shared = prediction_powered([4, 6, 8], [0, 1, 2], [-1, -3], [0, 2])
    assert shared.variance == pytest.approx((apart.variance or 0) + 2 * (-2 / 3 * 1 / 2 + 2 / 3 * -1 / 2))
    assert shared.clusters == 3


def test_equal_values_have_a_variance_of_0_whatever_rounding_says() -> None:
    for third in range(1, 30):
        for f in (6, 7, 9):
            fit = prediction_powered([third / 3] * f, range(f), [-third / 7] * 6, [0, 1, 2, 8, 9, 10])
            assert fit.variance is not None
            assert 0.0 <= fit.variance < 1e-20


def test_prediction_powered_is_unbiased_and_covers() -> None:
    """A judge that is 1.5 too kind and half noise: true mean 5, 25 labelled and 150 unlabelled, 500 runs."""
    rng = np.random.default_rng(6)
    values, covered, plain = [], 0, 0
    for _ in range(500):
        truth = 5 + 2 * rng.normal(size=175)
        judge = truth + 1.5 + rng.normal(size=175)
        fit = prediction_powered(judge[25:], range(25, 175), (truth - judge)[:25], range(25))
        estimate = t_interval(fit)
        values.append(fit.value)
        covered += (estimate.low or 0) <= 5 <= (estimate.high or 0)
        plain += abs(judge.mean() - 5) < 0.5
    assert np.mean(values) == pytest.approx(5, abs=4 * np.std(values) / np.sqrt(500))
    assert covered / 500 == pytest.approx(0.95, abs=0.03)
    assert plain == 0


def labelled(table: Table, truth: dict[int, float]) -> HumanScores:
    return human_scores(table, [label(item=f"i{i}", score=score) for i, score in truth.items()])


def test_corrected_mean_by_hand() -> None:
    """Judge 8, 6, 9, 7, 5, unscored; people give 6 and 3 to the first two: (9+7+5)/3 + (-2-3)/2 = 4.5."""
    table = scored({"a": [8, 6, 9, 7, 5, None]})
    found = corrected_mean(table, labelled(table, {0: 6, 1: 3, 5: 9}), A, DID, "j")
    assert found.corrected.mean == pytest.approx(4.5)
    assert (found.judge.mean, found.judge.n) == (7.0, 5)
    assert (found.people.mean, found.people.n, found.corrected.n) == (4.5, 2, 5)
    fit = prediction_powered([9, 7, 5], range(3), [-2, -3], range(3, 5))
    assert found.corrected.low == pytest.approx(t_interval(fit).low)


def test_a_judge_that_agrees_needs_no_correction_and_gains_from_it() -> None:
    scores = np.random.default_rng(7).integers(0, 11, size=60).tolist()
    table = scored({"a": scores})
    found = corrected_mean(table, labelled(table, dict(enumerate(scores[:12]))), A, DID, "j")
    assert found.corrected.mean == pytest.approx(np.mean(scores[12:]))
    width = {name: (e.high or 0) - (e.low or 0) for name in ("people", "corrected") if (e := getattr(found, name))}
    assert width["corrected"] < 0.7 * width["people"]


def test_a_correction_needs_two_of_each() -> None:
    table = scored({"a": [1, 2, 3]})
    with pytest.raises(ScoringError, match="1 labelled and 2 unlabelled"):
        corrected_mean(table, labelled(table, {0: 1}), A, DID, "j")
