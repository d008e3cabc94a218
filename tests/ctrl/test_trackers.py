"""Numbers to experiment trackers: which are refused, what they get, and that a repeated command goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inferalign.core.errors import InputError
from inferalign.ctrl import trackers
from inferalign.ctrl.trackers import check_trackers, flat, reports


class Recorder:
    """A tracker that keeps what it is told."""

    made: list[Recorder]

    def __init__(self, **options: Any) -> None:
        self.options, self.logged, self.open = options, [], False
        self.config: dict[str, Any] = {}
        Recorder.made.append(self)

    def start(self) -> None:
        self.open = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int) -> None:
        assert self.open
        self.logged.append((step, values))

    def finish(self) -> None:
        self.open = False


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.made = []
    monkeypatch.setattr(trackers, "LOGGER_TYPE_TO_CLASS", dict.fromkeys(trackers.TRACKERS, Recorder))
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard", "wandb"])


def test_unknown_and_missing_trackers_are_refused() -> None:
    check_trackers(["wandb", "tensorboard"])
    with pytest.raises(InputError, match=r"--report-to wandbb: no such tracker\. Did you mean 'wandb'\? Known: mlflow"):
        check_trackers(["wandbb"])
    with pytest.raises(InputError, match=r"--report-to mlflow: it is not installed: pip install mlflow"):
        check_trackers(["mlflow"])


def test_each_gets_the_numbers_of_each_step_and_is_closed(tmp_path: Path) -> None:
    config = {"model": tmp_path, "settings": {"beta": None, "steps": 2}}

    def interrupted() -> None:
        with reports(["wandb", "tensorboard", "wandb"], tmp_path / "run", config) as told:
            told(1, {"step": 1, "reward": 0.5, "scoring": {"tokens_fed": 7}, "note": "a word"})
            told(2, {"step": 2, "reward": None})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(Recorder.made) == 2
    for tracker in Recorder.made:
        assert tracker.logged == [(1, {"step": 1, "reward": 0.5, "scoring/tokens_fed": 7}), (2, {"step": 2})]
        assert tracker.config == {"model": str(tmp_path), "settings/beta": "None", "settings/steps": 2}
        assert not tracker.open


def test_a_training_that_goes_on_is_the_same_run(tmp_path: Path) -> None:
    for first in (1, 3):
        with reports(["wandb", "tensorboard"], tmp_path / "run", {}) as told:
            told(first, {"step": first})
    with reports(["wandb"], tmp_path / "other", {}) as told:
        told(1, {"step": 1})
    wandb, board, again, board_again, other = (tracker.options for tracker in Recorder.made)
    assert wandb == again
    assert (wandb["name"], wandb["resume"]) == ("run", "allow")
    assert wandb["id"] != other["id"]
    assert board["logging_dir"] == board_again["logging_dir"] == str(tmp_path / "run" / "tensorboard")
    assert (board["purge_step"], board_again["purge_step"]) == (1, 3), "steps that are taken again replace the old ones"


def test_nothing_is_opened_unasked_and_before_the_first_step(tmp_path: Path) -> None:
    with reports([], tmp_path, {}) as told:
        told(1, {"step": 1})
    with reports(["wandb"], tmp_path, {}):
        pass
    assert Recorder.made == []


def test_mappings_in_mappings_are_joined() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
