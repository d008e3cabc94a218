"""Numbers to experiment trackers: which are refused, what they get, and that a repeated command goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferalign.core.errors import InputError, RunError
from inferalign.ctrl import trackers
from inferalign.ctrl.trackers import Reports, check_trackers, flat


class Recorder:
    """A tracker that keeps what it is told."""

    made: list[Recorder]
    fails = ""

    def __init__(self, **options: Any) -> None:
        self.options, self.logged, self.open = options, [], False
        self.config: dict[str, Any] = {}
        self.tracker = SimpleNamespace(info=SimpleNamespace(run_id="run-7"))
        Recorder.made.append(self)

    def start(self) -> None:
        self._fail("start")
        self.open = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int) -> None:
        assert self.open
        self._fail("log")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.open = False
        self._fail("finish")

    def _fail(self, act: str) -> None:
        if Recorder.fails == act:
            raise ConnectionError("no route")


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.made, Recorder.fails = [], ""
    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", dict.fromkeys(trackers.TRACKERS, Recorder))
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard", "wandb"])


def begun(run: Path, *names: str, done: int = 0, config: dict[str, Any] | None = None) -> Reports:
    run.mkdir(exist_ok=True)
    reports = Reports(names, run, config or {})
    reports.begin(done)
    return reports


def test_unknown_and_missing_trackers_are_refused() -> None:
    check_trackers(["wandb", "tensorboard"])
    with pytest.raises(InputError, match=r"--report-to wandbb: no such tracker\. Did you mean 'wandb'\? Known: mlflow"):
        check_trackers(["wandbb"])
    with pytest.raises(InputError, match=r"--report-to mlflow: it is not installed: pip install mlflow"):
        check_trackers(["mlflow"])


def test_each_gets_the_numbers_of_each_step_and_is_closed(tmp_path: Path) -> None:
    config = {"model": tmp_path, "settings": {"beta": None, "steps": 2}}
    reports = begun(tmp_path / "run", "wandb", "tensorboard", "wandb", config=config)
    reports.step(1, {"step": 1, "reward": 0.5, "scoring": {"tokens_fed": 7}, "note": "a word"})
    reports.step(2, {"step": 2, "reward": None})
    reports.close()
    assert len(Recorder.made) == 2
    for tracker in Recorder.made:
        assert tracker.logged == [(1, {"step": 1, "reward": 0.5, "scoring/tokens_fed": 7}), (2, {"step": 2})]
        assert tracker.config == {"model": str(tmp_path), "settings/beta": "None", "settings/steps": 2}
        assert not tracker.open


def test_a_training_that_goes_on_is_the_same_run_and_one_that_begins_is_another(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for done in (0, 3, 0):
        begun(run, "wandb", "tensorboard", "trackio", "mlflow", done=done, config={"seed": 1}).close()
    first, again, anew = (Recorder.made[at : at + 4] for at in (0, 4, 8))
    ours, same, other = ([tracker.options for tracker in one] for one in (first, again, anew))
    assert (ours[0], ours[2]) == (same[0], same[2])
    assert (ours[0]["name"], ours[0]["resume"]) == ("run", "allow")
    assert ours[0]["id"] != other[0]["id"]
    assert ours[2]["name"] != other[2]["name"], "trackio knows a run by its name"
    assert ours[1]["logging_dir"] == str(run / "tensorboard")
    assert [one[1]["purge_step"] for one in (ours, same)] == [1, 4], "steps that are taken again replace the old ones"
    assert [one[3]["run_id"] for one in (ours, same, other)] == [None, "run-7", None]
    assert [tracker.config for tracker in again] == [{}] * 4, "mlflow refuses a setting that changed"
    assert [tracker.config for tracker in anew] == [{"seed": 1}] * 4


def test_one_that_cannot_be_opened_stops_the_training_before_it_begins(tmp_path: Path) -> None:
    Recorder.fails = "start"
    with pytest.raises(RunError, match=r"--report-to wandb: it cannot be opened \(ConnectionError: no route\): log in"):
        begun(tmp_path / "run", "wandb")


@pytest.mark.parametrize("act", ["log", "finish"])
def test_one_that_fails_later_is_left_out(tmp_path: Path, act: str) -> None:
    reports = begun(tmp_path / "run", "wandb", "tensorboard")
    Recorder.fails = act

    def used() -> None:
        reports.step(1, {"step": 1})
        reports.close()

    with pytest.warns(UserWarning, match=r"(wandb|tensorboard) gets no more numbers: ConnectionError: no route"):
        used()
    Recorder.fails = ""
    reports.step(2, {"step": 2})
    assert all(tracker.logged == ([] if act == "log" else [(1, {"step": 1})]) for tracker in Recorder.made)


def test_nothing_is_opened_unasked(tmp_path: Path) -> None:
    reports = begun(tmp_path / "run")
    reports.step(1, {"step": 1})
    reports.close()
    assert Recorder.made == []
    assert list((tmp_path / "run").iterdir()) == []


def test_mappings_in_mappings_are_joined() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
