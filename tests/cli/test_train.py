"""`inferalign train` after `inferalign calibrate`, on a small random model that judges itself; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inferalign.cli.main import main
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.scored import JUDGE, RESPONSE, Scored
from inferalign.engines.weights import weights_digest
from inferalign.scorers.self_eval import SelfEval
from inferalign.winrate.card import read_card
from tests.plain import QUESTION
from tests.winrate.models import perturbed

FLAGS = "--generations 8 --batch-size 16 --warmup 1 --learning-rate 0.003 --transform identity --steps 2 --kl 0.2"
Verdicts = list[Score | Unscored]


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path) -> list[str]:
    """Flags of a training whose anchors are there."""
    root = tmp_path_factory.mktemp("train")
    (root / "p.jsonl").write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"How {i}?"}) + "\n" for i in range(3)))
    (root / "question.toml").write_text(QUESTION)
    made = ["--model", str(llama_dir), "--prompts", str(root / "p.jsonl"), "--scorer", str(root / "question.toml")]
    made += ["--max-new-tokens", "3"]
    assert main(["calibrate", *made, "--run", str(root / "anchors"), "--k", "40"]) == 0
    return [*made, "--anchors", str(root / "anchors"), *FLAGS.split()]


def test_report_to_is_checked_before_anything_and_sends_every_step(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *common, "--run", str(tmp_path / "run"), "--report-to", "wandbb"]) == 1
    assert "no such tracker. Did you mean 'wandb'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    told: list[Any] = []

    class Reports:
        def __init__(self, names: list[str], run: Path, config: dict[str, Any]) -> None:
            told.append((names, run, config["settings"]["steps"]))

        def begin(self, done: int) -> None:
            told.append(done)

        def step(self, step: int, line: dict[str, Any]) -> None:
            told.append(line["step"])

        def close(self) -> None:
            assert (tmp_path / "run" / "metrics.json").exists(), "closing may take long, or fail"
            told.append("closed")

    monkeypatch.setattr("inferalign.ctrl.trackers.check_trackers", lambda names: None)
    monkeypatch.setattr("inferalign.ctrl.trackers.Reports", Reports)
    assert main(["train", *common, "--run", str(tmp_path / "run"), "--report-to", "wandb"]) == 0
    assert told == [(["wandb"], tmp_path / "run", 2), 0, 1, 2, "closed"]


def test_a_training_that_was_killed_when_it_was_done_is_done(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, command = tmp_path / "run", ["train", *common, "--run", str(tmp_path / "run")]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("inferalign.cli.tables.emit", killed)
        assert main(command) == 130
    before = weights_digest(str(run / "model"))
    capsys.readouterr()
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"run": str(run), **json.loads((run / "metrics.json").read_text())}
    assert (told["steps"], told["scoring"]) == (2, lines(run)[-1]["scoring"])
    assert weights_digest(str(run / "model")) == before
    assert main([*with_flags(common, "--learning-rate", "0.001"), "--run", str(run)]) == 1
    assert "holds a finished model: name another --run" in capsys.readouterr().err


def test_metrics_stand_wherever_a_model_does(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def killed(*_: object, **__: object) -> None:
        assert (run / "metrics.json").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr("inferalign.ctrl.run.save_trained", killed)
    assert main(["train", *common, "--run", str(run)]) == 130
    assert not (run / "model").exists()


def test_the_folder_of_another_command_is_refused(common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    anchors = Path(common[common.index("--anchors") + 1])
    before = (anchors / "config.json").read_bytes()
    assert main(["train", *common, "--run", str(anchors)]) == 1
    assert f"give a folder of its own, such as --run {anchors}-train" in capsys.readouterr().err
    assert (anchors / "config.json").read_bytes() == before


def test_a_training_that_begins_again_says_what_it_is(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before its first checkpoint, then repeated with another rate."""
    run = tmp_path / "run"

    def stopped(self: Any, step: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("inferalign.cli.progress.Bar.advance", stopped)
        assert main(["train", *common, "--run", str(run)]) == 130
    assert json.loads((run / "config.json").read_text())["settings"]["learning_rate"] == 0.003
    assert main([*with_flags(common, "--learning-rate", "0.001"), "--run", str(run)]) == 0
    assert json.loads((run / "config.json").read_text())["settings"]["learning_rate"] == 0.001


def with_flags(common: Sequence[str], *flags: str) -> list[str]:
    """`train` with some of its flags set otherwise; the command line refuses a flag that stands twice."""
    given = dict(zip(common[::2], common[1::2], strict=True)) | dict(zip(flags[::2], flags[1::2], strict=True))
    return ["train", *(token for pair in given.items() for token in pair)]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def test_from_prompts_to_a_card_with_win_rates(
    tmp_path: Path, common: list[str], llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", *common, "--run", str(run), "--for", "sample"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["steps"] == 2
    assert 0.2 < last["beta"] < 0.7
    assert json.loads((run / "config.json").read_text())["settings"]["procedure"] == "sample"
    first, second = lines(run)
    assert first["kl_sequence"] == 0
    assert 0.2 < first["calibrated/mean"] < 0.8
    # fresh draws of the starting model, before the first step and not again before the fifty-first
    assert 0.3 < first["reference/calibrated/mean"] < 0.7
    assert {"reference/calibrated/above_best_anchor", "reference/calibrated/tied"} <= first.keys()
    assert not [name for name in second if name.startswith("reference/")]

    anchors, card = AnchorSet.load(common[common.index("--anchors") + 1]), read_card(run / "model")
    assert card is not None
    assert (card.trained_for, card.transform, card.beta, card.seed) == ("sample", "identity", last["beta"], 0)
    assert (card.anchors, card.anchors_digest) == (40, anchors.card.digest)
    assert (card.base, card.base_weights) == (llama_dir.name, weights_digest(str(llama_dir)))
    assert (card.reward, card.sandbox, card.measured) == ("self", False, ())
    assert card.kl.mean == pytest.approx(second["kl_sequence"])
    assert "No win rate has been measured" in (run / "model" / "README.md").read_text()

    judge = tmp_path / "judge.toml"
    judge.write_text(QUESTION.replace("Judge the answer", "Is this kind"))
    compare = ["compare", str(llama_dir), f"own={run / 'model'}", "--prompts", common[common.index("--prompts") + 1]]
    compare += ["--selector", common[common.index("--scorer") + 1], "--judge", str(judge), "--procedures", "sample"]
    compare += ["--m", "2", "--base-m", "4", "--max-new-tokens", "3", "--run", str(tmp_path / "compared"), "--cards"]
    assert main(compare) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"][0]
    assert row["objective"]["mean"] is not None, "the card knows beta"
    completed = read_card(run / "model")
    assert completed is not None
    assert replace(completed, measured=()) == card
    assert completed.measured[0].win_rate.mean == pytest.approx(row["win_rate"]["mean"])
    assert "No win rate has been measured" not in (run / "model" / "README.md").read_text()


def test_how_often_the_anchors_are_checked_changes_no_weight(tmp_path: Path, common: list[str]) -> None:
    for name, every in (("often", "1"), ("seldom", "2")):
        assert main(["train", *common, "--run", str(tmp_path / name), "--check-every", every]) == 0
    often, seldom = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("often", "seldom"))
    assert all(torch.equal(tensor, seldom[name]) for name, tensor in often.items())
    checked = [line["reference/calibrated/mean"] for line in lines(tmp_path / "often")]
    assert checked[0] == lines(tmp_path / "seldom")[0]["reference/calibrated/mean"]
    assert checked[0] != checked[1]
    assert all(0.3 < mean < 0.7 for mean in checked)


def refused(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is said of what cannot be trained; exit code 1."""
    capsys.readouterr()
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("inferalign: ")]
    return line


def test_a_scorer_that_judges_otherwise_than_it_did_is_found(
    tmp_path: Path, common: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = SelfEval.score

    async def shifted(self: SelfEval, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> Verdicts:
        return [Score(v.value + 9) if isinstance(v, Score) else v for v in await judge(self, prompt, responses, usage)]

    async def away(self: SelfEval, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> Verdicts:
        return [Unscored("away", blame="judge")] * len(responses)

    run = tmp_path / "run"
    for score, words in (
        (shifted, "before step 1 the mean calibrated reward of 150 fresh draws of the starting model is 1.000"),
        (away, "before step 1 the judge failed on 150 of 150 fresh draws"),
    ):
        monkeypatch.setattr(SelfEval, "score", score)
        assert words in refused(["train", *common, "--run", str(run)], capsys)
    assert not (run / "model").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--anchors", "nowhere"], "there are no anchors in nowhere (no anchors.json): draw them with"),
        (["--max-new-tokens", "4"], "made otherwise (sampling.max_new_tokens is 3 there and 4 here)"),
        (["--kl", "9"], "allow a mean KL below"),
        (["--for", "best-of-n:0"], "N must be from 1"),
        (["--for", "best-of:4"], "Did you mean 'best-of-n'?"),
        (["--transform", "ex:10"], "unknown reward 'ex:10'. Did you mean 'exp'?"),
        (["--batch-size", "64"], "3 prompts are fewer than the 8 that a step takes"),
        (["--processes", "2"], "1 processes are training and 2 were asked for"),
        (["--check-every", "0"], "check_every is 0: expected at least 1"),
    ],
)
def test_one_line_of_what_cannot_be_trained(
    flags: list[str], words: str, tmp_path: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(with_flags(common, "--run", str(tmp_path / "run"), *flags), capsys)
    assert not (tmp_path / "run" / "model").exists()


def test_flags_that_are_missing_or_unknown(common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    at = common.index("--anchors")
    assert main(["train", *common[:at], *common[at + 2 :], "--run", "r"]) == 2
    assert "`train` needs --anchors" in capsys.readouterr().err
    assert main(["train", *common, "--run", "r", "--warmpu", "2"]) == 2
    assert "--warmup" in capsys.readouterr().err


def test_a_transform_of_the_wrong_sign_is_spoken_of(
    tmp_path: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ["--anchors", str(tmp_path), "--run", str(tmp_path / "run"), "--for", "worst-of-n:4", "--transform"]
    assert main(with_flags(common, *nowhere, "exp:10")) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "points below calibration alone under worst-of-n:4 at KL 0.2; unless it is a baseline that you want" in said
    for fine in ("exp:-5", "raw", "identity"):
        assert main(with_flags(common, *nowhere, fine)) == 1
        assert "calibration alone" not in capsys.readouterr().out


def test_anchors_of_another_model(
    tmp_path: Path, common: list[str], llama_dir: Path, qwen_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = perturbed(llama_dir, tmp_path / "near", 0.1)
    for model, words in (
        (near, "the model's weights are others (--model)"),
        (qwen_dir, "chat.chat_template_sha256 is"),
    ):
        line = refused(with_flags(common, "--run", str(tmp_path / "run"), "--model", str(model)), capsys)
        assert "these anchors were made otherwise (" in line
        assert words in line
        assert "draw new ones with `inferalign calibrate`" in line


@pytest.mark.parametrize(
    ("value", "blame", "words"),
    [
        (0.25, 0, "the scorer gives all anchors of a prompt the same score, for every prompt"),
        (0.0, RESPONSE, "no anchor was scored (120 could not be judged, the judge failed on 0)"),
        (0.0, JUDGE, "no anchor was scored (0 could not be judged, the judge failed on 120)"),
    ],
)
def test_anchors_that_can_teach_nothing(
    value: float, blame: int, words: str, tmp_path: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`calibrate` writes none of these; other programs may."""
    there = AnchorSet.load(common[common.index("--anchors") + 1])
    scores = Scored(np.full((3, 40), value), np.full((3, 40), blame, dtype=np.uint8))
    AnchorSet.of(there.card, there.prompt_ids, scores, there.lengths).save(tmp_path / "anchors")
    command = with_flags(common, "--run", str(tmp_path / "run"), "--anchors", str(tmp_path / "anchors"))
    assert words in refused(command, capsys)
