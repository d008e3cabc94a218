"""`inferalign plan` from the command line: the JSON line, every source of a procedure, and one-line errors."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferalign.cli.main import main
from inferalign.core.errors import RunError
from inferalign.core.records import read_records
from inferalign.theory.blackbox import beta_mixture
from inferalign.theory.curves import KLS, TRANSFORMS
from inferalign.theory.recorded import ranked
from inferalign.theory.validity import bands
from tests.theory.runs import best_of, config, write_run

RECIPE = ["plan", "--for", "best-of-n:4", "--transform", "exp:10", "--kl", "0.5"]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    found = said([*RECIPE, "--prompts", "10", "--tokens-per-reply", "20.5"], capsys)
    assert found["procedure"] == "best-of-n:4"
    assert found["win_rate"] == pytest.approx(0.8715128, abs=1e-6)
    assert found["win_rate_plain"] == pytest.approx(0.7117448, abs=1e-6)
    assert found["ceiling"] == pytest.approx(0.8732505, abs=1e-6)
    assert found["beta"] == pytest.approx(0.31834, abs=1e-4)
    assert found["rollouts"] == 10 * found["anchors"]
    assert found["tokens"] == round(20.5 * found["rollouts"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("procedure", ["sample", "worst-of-n:4", "worst-of-n:3", "best-of-n:1"])
def test_every_named_procedure_and_the_default_transform(procedure: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(["plan", "--for", procedure, "--kl", "0.2"], capsys)
    assert found["transform"] == "optimal"
    assert found["gap"] == 0
    assert found["win_rate"] == found["ceiling"]


def test_beta_and_win_rate_in_place_of_kl(capsys: pytest.CaptureFixture[str]) -> None:
    by_kl = said(RECIPE, capsys)
    assert said([*RECIPE[:-2], "--beta", str(by_kl["beta"])], capsys)["kl"] == pytest.approx(0.5)
    assert said([*RECIPE[:-2], "--win-rate", str(by_kl["win_rate"])], capsys)["kl"] == pytest.approx(0.5)


def test_a_file_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.toml").write_text('for = "best-of-n:4"\ntransform = "exp:10"\nkl = 0.5\nmax-loss = 0.01\n')
    found = said(["plan", "--config", str(tmp_path / "p.toml")], capsys)
    assert found["win_rate"] == said(RECIPE, capsys)["win_rate"]
    assert found["max_loss"] == 0.01


def test_a_run_folder_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said([*RECIPE, "--run", str(tmp_path / "run")], capsys)
    assert said([*RECIPE, "--run", str(tmp_path / "run")], capsys) == found
    (record,) = read_records(tmp_path / "run", "plan")
    assert record["win_rate"] == found["win_rate"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == found
    assert "made by another configuration" in refused([*RECIPE[:-1], "0.6", "--run", str(tmp_path / "run")], capsys)


def test_a_run_folder_refuses_other_inputs_under_the_same_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, kept = tmp_path / "s.csv", ["--run", str(tmp_path / "run")]
    own = [*RECIPE[:-1], "0.2", "--scores", str(scores), *kept]
    scores.write_text("1,2,3,4\n2,3,1,5\n" * 3)
    found = said(own, capsys)
    assert said(own, capsys) == found
    scores.write_text("1,2,3,4\n2,3,1,6\n" * 3)
    assert "s.csv is" in refused(own, capsys)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == found

    run, reference = best_of(tmp_path / "a", 4, 30, 1), best_of(tmp_path / "b", 30, 30, 2)
    runs = ["plan", "--from", str(run), "--reference", str(reference), "--kl", "0.5", "--run", str(tmp_path / "run2")]
    found = said(runs, capsys)
    shutil.rmtree(reference)
    best_of(reference, 30, 30, 3)
    assert f"inputs.{reference} is" in refused(runs, capsys)


def test_a_curve_that_fails_leaves_no_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, points: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr("inferalign.theory.curves.DRAWS", (1,))
    run, curve = tmp_path / "run", tmp_path / "run" / "c.csv"
    with monkeypatch.context() as patched:
        patched.setattr("inferalign.theory.curves.write_csv", full)
        assert "the disk is full" in refused([*RECIPE, "--run", str(run), "--curve", str(curve)], capsys)
    assert not run.exists()
    found = said([*RECIPE, "--run", str(run), "--curve", str(curve)], capsys)
    assert found["curve"] == str(curve)
    assert curve.is_file()
    (record,) = read_records(run, "plan")
    assert "curve" not in record


def test_the_curve_and_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inferalign.theory.curves.DRAWS", (1, 2))
    arguments = [*RECIPE, "--curve", str(tmp_path / "c.csv")]
    found = said(arguments, capsys)
    assert found["figure"] == str(tmp_path / "c.svg")
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    assert (tmp_path / "c.csv").read_text().count("\n") == 1 + 3 * len(TRANSFORMS) * len(KLS)
    (tmp_path / "c.svg").unlink()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "Type: pip install 'inferalign[report]'" in out
    assert json.loads(out.splitlines()[-1])["figure"] is None
    assert not (tmp_path / "c.svg").exists()


def test_own_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).integers(0, 5, size=(30, 40))
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row.tolist()) + "\n" for row in rows))
    found = said([*RECIPE, "--scores", str(tmp_path / "s.jsonl")], capsys)["scores"]
    assert found["prompts"] == 30
    assert found["anchors"] == 40
    assert 0.15 < found["tied"] < 0.25
    assert found["kl_limit"] < 2
    assert 0.5 < found["forecast"]["win_rate"] < 0.8715


def test_recorded_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        "--from",
        str(best_of(tmp_path / "run", 4, 300, 1)),
        "--reference",
        str(best_of(tmp_path / "ref", 30, 300, 2)),
    ]
    found = said(["plan", *runs, "--kl", "1"], capsys)
    assert found["validity"] == "untested"
    assert 0 < found["estimate"]["win_rate_error"] < 0.2
    outputs = ranked(tmp_path / "run", tmp_path / "ref", 0)
    assert found["estimate"]["win_rate_error"] == pytest.approx(2 * bands(outputs, beta_mixture, 0).largest)
    assert found["estimate"]["outputs"] == 300
    assert found["estimate"]["warning"] is None
    assert found["win_rate"] == pytest.approx(0.941, abs=0.03)
    second = ["--from", str(best_of(tmp_path / "run2", 4, 300, 3, shift=1, model="warm"))]
    second += ["--reference", str(best_of(tmp_path / "ref2", 30, 300, 4, shift=1, model="warm"))]
    found = said(["plan", *runs, *second, "--kl", "1"], capsys)
    assert found["validity"]["p_value"] > 0.01
    scores = np.random.default_rng(5).normal(size=(300, 4))
    write_run(tmp_path / "run3", scores, scores.argmin(axis=1), config(5, model="warm"))
    best = best_of(tmp_path / "ref3", 30, 300, 6, model="warm")
    third = ["--from", str(tmp_path / "run3"), "--reference", str(best)]
    assert "the procedure is not calibrated" in refused(["plan", *runs, *third, "--kl", "1"], capsys)
    assert "both --from are" in refused(["plan", *runs, *runs, "--kl", "1"], capsys)


def test_a_reference_of_two_scores_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, reference = best_of(tmp_path / "run", 4, 50, 1), best_of(tmp_path / "ref", 2, 50, 2)
    assert main(["plan", "--from", str(run), "--reference", str(reference), "--kl", "1"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["estimate"]["warning"] == "only 2 reference scores: give `best-of-n:100`"
    assert "warning: coarse ranks" in out
    assert "at most" not in next(line for line in out.splitlines() if "sampling error" in line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "best-of-n:4", "--kl", "0.5", "--transform", "expp:10"], "Did you mean 'exp'"),
        (["--for", "best-of-n:0", "--kl", "0.5"], "N must be from 1 to 1024: give for example `best-of-n:4`"),
        (["--for", "best-of:4", "--kl", "0.5"], "Did you mean 'best-of-n'"),
        (["--for", "best-of-n:4", "--kl", "-1"], "KL -1 cannot be planned for"),
        (["--for", "best-of-n:4", "--kl", "0.5", "--win-rate", "0.95"], "no recipe can reach this"),
        (["--for", "best-of-n:4", "--kl", "3", "--anchors", "4"], "give at least 11 anchors"),
        (["--for", "best-of-n:4"], "give for example `--kl 0.5`"),
        (["--kl", "0.5"], "give `--for best-of-n:4`"),
        (["--for", "sample", "--kl", "0.5", "--reference", "x"], "come in pairs"),
        (["--for", "sample", "--kl", "0.5", "--prompts", "0"], "--prompts 0 counts nothing: give a number above 0"),
        (["--for", "sample", "--kl", "0.5", "--tokens-per-reply", "9"], "without --prompts"),
        (["--for", "sample", "--kl", "0.5", "--curve", "c.svg"], "give `--curve c.csv`"),
        (["--for", "sample", "--kl", "0.5", "--scores", "no.csv"], "cannot read no.csv"),
        (["--from", "nothing", "--reference", "nothing", "--kl", "0.5"], "there is no run folder at nothing"),
        (["--for", "sample", "--kl", "0.5", "--curve", "no/c.csv"], "no folder no for --curve: type `mkdir -p no`"),
        (["--for", "sample", "--kl", "0.5", "--curve", "../is.csv"], "is.csv is a folder, and --curve writes a file"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "is.csv").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert message in refused(["plan", *arguments, "--run", "run"], capsys)
    assert list((tmp_path / "here").iterdir()) == []


def test_no_torch_and_no_scipy_stats() -> None:
    code = f"import sys; from inferalign.cli.main import main; assert main({RECIPE!r}) == 0; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy.stats", "matplotlib", "pandas"} & set(done.stdout.splitlines()[-1].split())
