"""A recorded run as ranks: a best-of-4 is recognised from its folder, and folders that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inferalign.core.errors import InputError, RunError
from inferalign.theory.blackbox import beta_mixture
from inferalign.theory.procedures import best_of_n
from inferalign.theory.recorded import ranked, reference_scores
from tests.theory.runs import best_of, config, write_run


def test_a_recorded_best_of_4_has_its_density(tmp_path: Path) -> None:
    run, reference = best_of(tmp_path / "run", 4, 600, 1), best_of(tmp_path / "ref", 40, 600, 2)
    outputs = ranked(run, reference, seed=0)
    assert outputs.rank.shape == (600, 1)
    assert set(outputs.counts) == {40}
    q = np.linspace(0, 1, 11)
    np.testing.assert_allclose(beta_mixture(outputs).G(q, 1 - q), best_of_n(4).G(q, 1 - q), atol=0.05)


def test_what_was_not_scored_is_left_out_of_the_reference(tmp_path: Path) -> None:
    scores = np.array([[1.0, np.nan, 2.0], [4.0, 3.0, 5.0]])
    write_run(tmp_path / "ref", scores, np.array([2, 2]), config(2))
    pool = reference_scores(tmp_path / "ref")
    assert {name: row.tolist() for name, row in pool.items()} == {"p0": [1.0, 2.0], "p1": [4.0, 3.0, 5.0]}
    write_run(tmp_path / "run", scores, np.array([0, 0]), config(1))
    outputs = ranked(tmp_path / "run", tmp_path / "ref", seed=0)
    assert sorted(outputs.counts) == [2, 3]
    assert outputs.rank[1, 0] in (1, 2)  # 4.0 lies above 3.0 and ties with 4.0


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = best_of(tmp_path / "run", 4, 5, 1)
    with pytest.raises(InputError, match="share the seed 1"):
        ranked(run, best_of(tmp_path / "same", 40, 5, 1), 0)
    with pytest.raises(InputError, match="differ in their base model"):
        ranked(run, best_of(tmp_path / "other", 40, 5, 2, model="other"), 0)
    scores = np.ones((5, 4))
    write_run(tmp_path / "guide", scores, np.zeros(5), config(2, scorer="another"))
    with pytest.raises(InputError, match="differ in their guide"):
        ranked(run, tmp_path / "guide", 0)
    with pytest.raises(InputError, match=r"no answers for 2 prompts of .*, the first 'p3'"):
        ranked(run, best_of(tmp_path / "few", 40, 3, 2), 0)
    with pytest.raises(InputError, match="ranks need 2 at least"):
        ranked(run, best_of(tmp_path / "one", 1, 5, 2), 0)
    with pytest.raises(RunError, match=r"config.json"):
        ranked(run, tmp_path / "nothing", 0)


def test_an_answer_without_a_score_has_no_rank(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", np.full((2, 1), np.nan), np.zeros(2), config(1))
    with pytest.raises(InputError, match="the answer to prompt 'p0' has no score"):
        ranked(run, best_of(tmp_path / "ref", 9, 2, 2), 0)
