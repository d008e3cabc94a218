import numpy as np
import pytest
from scipy import stats

from inferalign.agency.analysis_items import FEWEST, corrected_correlations, item_facts
from tests.agency.tables import scored


def test_facts_by_hand() -> None:
    """Six subjects: an item that follows the others, one that goes against them, one that is dead, one missing."""
    rising, falling = [0, 2, 4, 6, 8, 10], [10, 8, 6, 4, 2, 0]
    columns = [rising, rising, rising, falling, [4] * 6, [1, 1, 1, 3, 3, None]]
    table = scored({f"s{k}": [column[k] for column in columns] for k in range(6)})
    up, _, _, down, dead, gap = item_facts(table, "j")
    assert (up.ease, up.subjects, up.dead) == (0.5, 6, False)
    assert up.spread == pytest.approx(np.std(rising, ddof=1))
    assert (up.discrimination.mean or 0) > 0.9
    assert (down.discrimination.mean or 0) < -0.95
    assert (dead.dead, dead.ease, dead.discrimination.mean) == (True, 0.4, None)
    assert (gap.subjects, gap.discrimination.n, gap.ease) == (5, 5, pytest.approx(0.18))


def test_correlations_equal_leaving_the_item_out() -> None:
    scores = np.random.default_rng(1).integers(0, 11, size=(9, 6)).astype(float)
    for item, (found, subjects) in enumerate(corrected_correlations(scores)):
        others = np.delete(scores, item, axis=1).sum(axis=1)
        assert found == pytest.approx(stats.pearsonr(scores[:, item], others).statistic)
        assert subjects == 9


def test_the_interval_is_fishers() -> None:
    values = np.random.default_rng(2).integers(0, 11, size=(12, 4))
    first = item_facts(scored({f"s{k:02}": row.tolist() for k, row in enumerate(values)}), "j")[0]
    expected = stats.pearsonr(values[:, 0], values[:, 1:].sum(axis=1)).confidence_interval()
    assert (first.discrimination.low, first.discrimination.high) == pytest.approx(expected, abs=1e-6)


def test_a_missing_hard_item_does_not_make_a_subject_look_better() -> None:
    """Subjects alike but for noise; those that lack the hard last item would have a higher plain mean."""
    rng = np.random.default_rng(3)
    scores = rng.normal(5, 1, size=(400, 4))
    scores[:, 3] -= 8
    scores[:200, 3] = np.nan
    (found, _), *_ = corrected_correlations(scores)
    assert found == pytest.approx(0, abs=0.15)
    scores[:200, 0] += 3  # the same subjects do better on the first item: nothing to do with the rest
    assert corrected_correlations(scores)[0][0] == pytest.approx(0, abs=0.15)


def test_too_few_subjects_have_no_correlation() -> None:
    rows = {f"s{k}": [k, 10 - k, 2 * k] for k in range(FEWEST - 1)}
    facts = item_facts(scored(rows), "j")
    assert [each.discrimination.mean for each in facts] == [None] * 3
    assert facts[0].dead is False
    alone = item_facts(scored({"a": [3, None]}), "j")
    assert (alone[0].dead, alone[0].spread, alone[0].ease) == (None, None, 0.3)
    assert (alone[1].ease, alone[1].subjects) == (None, 0)
