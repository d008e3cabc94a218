"""A recorded run as ranks: a best-of-4 is recognised from its folder, and folders that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inferalign.core.errors import InputError, RunError
from inferalign.core.records import RunFolder
from inferalign.theory.blackbox import beta_mixture
from inferalign.theory.procedures import best_of_n
from inferalign.theory.recorded import ranked, reference_scores, require_two_bases
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
    with pytest.raises(RunError, match=r"no run folder at .*nothing: give the --run folder"):
        ranked(run, tmp_path / "nothing", 0)
    with RunFolder.open(tmp_path / "plan", {"kl": 1}, {}, kind="plan") as folder:
        folder.append({"id": "plan"})
    for pair in ((tmp_path / "plan", run), (run, tmp_path / "plan")):
        with pytest.raises(RunError, match=r"plan/.* records of kind 'plan', expected 'generate'"):
            ranked(*pair, 0)


def test_an_answer_without_a_score_has_no_rank(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", np.full((2, 1), np.nan), np.zeros(2), config(1))
    with pytest.raises(InputError, match="the answer to prompt 'p0' has no score"):
        ranked(run, best_of(tmp_path / "ref", 9, 2, 2), 0)


def test_a_test_needs_two_base_models_and_one_procedure(tmp_path: Path) -> None:
    run, reference = best_of(tmp_path / "run", 4, 2, 1), best_of(tmp_path / "ref", 9, 2, 2)
    warm = best_of(tmp_path / "run2", 4, 2, 3, model="warm"), best_of(tmp_path / "ref2", 9, 2, 4, model="warm")
    require_two_bases([run, warm[0]], [reference, warm[1]])
    again = tmp_path / "run" / ".." / "run"
    with pytest.raises(InputError, match=r"both --from are .*run, which tests nothing: make the second pair"):
        require_two_bases([run, again], [reference, warm[1]])
    with pytest.raises(InputError, match="both --reference are"):
        require_two_bases([run, warm[0]], [reference, reference])
    same = best_of(tmp_path / "run3", 4, 2, 5), best_of(tmp_path / "ref3", 9, 2, 6)
    with pytest.raises(InputError, match=r"have the same base model.*with another base model"):
        require_two_bases([run, same[0]], [reference, same[1]])
    two = best_of(tmp_path / "run4", 2, 2, 7, model="warm")
    with pytest.raises(InputError, match=r"best-of-n:4 and .*best-of-n:2.*--procedure best-of-n:4"):
        require_two_bases([run, two], [reference, warm[1]])


def test_weights_tell_base_models_apart_wherever_they_run(tmp_path: Path) -> None:
    folders = []
    for name, weights, device in (("a", "sha256:1", "cpu"), ("b", "sha256:1", "cuda"), ("c", "sha256:2", "cpu")):
        settings = config(1) | {"model": {"model": "model", "weights": weights, "device": device}}
        folders.append(write_run(tmp_path / name, np.ones((1, 4)), np.zeros(1), settings))
    references = [tmp_path / "r1", tmp_path / "r2"]
    require_two_bases([folders[0], folders[2]], references)
    with pytest.raises(InputError, match="same base model"):
        require_two_bases(folders[:2], references)


def test_other_settings_are_another_procedure(tmp_path: Path) -> None:
    folders = []
    for budget, model in ((8, "base"), (16, "warm")):
        settings = config(1, model)
        settings["procedure"] = {"procedure": "rain", "settings": {"budget": budget}, "guide": {"model": model}}
        folders.append(write_run(tmp_path / model, np.ones((1, 1)), np.zeros(1), settings))
    with pytest.raises(InputError, match="one procedure with one setting"):
        require_two_bases(folders, [tmp_path / "r1", tmp_path / "r2"])
