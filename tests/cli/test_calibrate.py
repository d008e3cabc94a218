"""`calibrate` from the command line on a random model: what it writes and says, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from inferalign.cli.main import main
from inferalign.core.errors import InputError
from inferalign.core.records import read_records
from inferalign.core.types import Prompt, Score, Unscored
from inferalign.ctrl.anchors import ARRAYS, CARD, AnchorSet
from inferalign.ctrl.reward import CalibratedReward
from inferalign.scorers.self_eval import SelfEval
from inferalign.theory.transforms import Identity
from tests.cli.test_generate import write_prompts


def arguments(model: Path, prompts: Path, run: Path, scorer: str, *more: str) -> list[str]:
    fixed = ["--model", str(model), "--prompts", str(prompts), "--run", str(run), "--seed", "3", "--scorer", scorer]
    number = [] if "--k" in more or "--for" in more else ["--k", "4"]
    return ["calibrate", *fixed, *number, "--max-new-tokens", "8", *more]


def test_a_run_ends_with_anchors_and_a_report(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 3), tmp_path / "run"
    assert main(arguments(llama_dir, prompts, run, short_template)) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert said == json.loads((run / "metrics.json").read_text())
    anchors = AnchorSet.load(run)
    assert anchors.prompt_ids == ("p0", "p1", "p2")
    assert said["digest"] == anchors.card.digest
    assert (said["prompts"], said["k"], said["finished"]) == (3, 4, 3)
    assert said["mean"] == pytest.approx(anchors.scores.values.mean())
    assert said["tokens"] == anchors.tokens
    assert said["tokens_per_second"] > 0
    assert said["unscored"] == {"response": 0, "judge": 0}
    assert said["advice"] is None
    for words in ("mean score", "spread within a prompt", "pairs that tie", "the judge failed", "tokens a second"):
        assert words in out
    assert sorted(path.name for path in run.iterdir()) == [
        CARD,
        ARRAYS,
        "config.json",
        "env.json",
        "metrics.json",
        "records",
    ]
    config = json.loads((run / "config.json").read_text())
    assert {"weights", "chat", "sampling", "scorer", "prompts_sha256", "k", "seed"} <= config.keys()


def test_repeating_changes_nothing_and_lost_anchors_are_made_again(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 2), tmp_path / "run"
    command = arguments(llama_dir, prompts, run, short_template)
    assert main(command) == 0
    before = {name: (run / name).read_bytes() for name in (CARD, ARRAYS, "records/main.jsonl")}
    (run / CARD).unlink()
    (run / ARRAYS).write_bytes(b"damaged")
    capsys.readouterr()
    assert main(command) == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens_per_second"] is None


def test_shards_and_concurrency_change_nothing(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 5)
    assert main(arguments(llama_dir, prompts, tmp_path / "a", short_template, "--concurrency", "1")) == 0
    capsys.readouterr()
    assert main(arguments(llama_dir, prompts, tmp_path / "b", short_template, "--shard", "1/2")) == 0
    assert "the shard that ends last writes the anchors" in capsys.readouterr().out
    assert not (tmp_path / "b" / CARD).exists()
    assert main(arguments(llama_dir, prompts, tmp_path / "b", short_template, "--shard", "2/2")) == 0
    assert rollouts(tmp_path / "b") == rollouts(tmp_path / "a")
    one, parts = AnchorSet.load(tmp_path / "a"), AnchorSet.load(tmp_path / "b")
    assert parts.scores.values == pytest.approx(one.scores.values, abs=1e-5)


def rollouts(run: Path) -> dict[str, Any]:
    return {record["id"]: record["token_ids"] for record in read_records(run)}


def test_ctrl_c_keeps_what_is_finished(
    tmp_path: Path,
    llama_dir: Path,
    short_template: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge, judged = SelfEval.score, []

    async def stopping(self: SelfEval, prompt: Prompt, *rest: Any) -> Any:
        judged.append(prompt.id)
        if len(judged) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return await judge(self, prompt, *rest)

    prompts, run = write_prompts(tmp_path / "p.jsonl", 5), tmp_path / "run"
    command = arguments(llama_dir, prompts, run, short_template, "--concurrency", "1")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore it
    try:
        with monkeypatch.context() as patched:
            patched.setattr(SelfEval, "score", stopping)
            assert main(command) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopped; 2 finished and kept, repeat the same command to go on" in capsys.readouterr().err
    assert [record["id"] for record in read_records(run)] == ["p0", "p1"]
    assert not (run / CARD).exists()
    assert main(command) == 0
    assert AnchorSet.load(run).prompt_ids == ("p0", "p1", "p2", "p3", "p4")


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) in (1, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("inferalign: ")]
    return line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--k", "1"), "k is 1: calibration compares"),
        (("--k", "4", "--kl", "2.1"), "4 anchors a prompt allow a mean KL below 2.083"),
        (("--for", "best-of-n:4", "--k", "4", "--kl", "2.1"), "give at least --k 5"),
        (("--for", "best-of:4"), "Did you mean 'best-of-n'?"),
        (("--for", "best-of-n:4", "--transform", "exq:3"), "exq"),
        (("--temperature", "0"), "temperature is 0, and 4 rollouts would be one answer"),
        (("--concurrency", "0"), "concurrency is 0"),
        (("--shard", "3/2"), "shard '3/2'"),
        (("--top-k", "0"), "top-k is 0"),
        (("--ray", "0"), "ray is 0: give the number of workers"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    assert said in refused(arguments(tmp_path / "no-model", prompts, tmp_path / "run", "self", *flags), capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["oracle", "oracle-quality"])
def test_the_oracle_is_no_reward_unless_asked_for(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    command = arguments(tmp_path / "no-model", prompts, tmp_path / "run", name)
    assert "the oracle knows the truth" in refused(command, capsys)
    assert "no model directory" in refused([*command, "--allow-oracle-guide"], capsys)


def test_a_prompt_whose_answers_the_context_would_cut_is_refused_in_one_line(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `train` would, but before anything is drawn."""
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    context = json.loads((llama_dir / "config.json").read_text())["max_position_embeddings"]
    longer = ("--max-new-tokens", str(context - 3))
    command = [a for a in arguments(llama_dir, prompts, tmp_path / "run", short_template) if a != "8"]
    command = [a for a in command if a != "--max-new-tokens"]
    said = refused([*command, *longer], capsys)
    assert f"the model's context of {context} has no room for {context - 3} more (2 prompts" in said
    assert "prompt 'p0' has" in said
    assert "give a smaller --max-new-tokens" in said
    assert not (tmp_path / "run").exists()


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "inferalign.ctrl.ray_rollouts", raising=False)
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    said = refused(arguments(tmp_path / "none", prompts, tmp_path / "run", "self", "--ray", "2"), capsys)
    assert "'ray' is not installed. Type: pip install 'inferalign[scale]'" in said


def test_neither_a_number_nor_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    command = [a for a in arguments(tmp_path, prompts, tmp_path / "run", "self") if a not in ("--k", "4")]
    assert "give what they are for, such as `--for best-of-n:4 --kl 0.5`" in refused(command, capsys).lower()


def test_no_prompts_and_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "holds no prompts" in refused(arguments(tmp_path, empty, tmp_path / "run", "self"), capsys)
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    assert "no model directory" in refused(arguments(tmp_path / "none", prompts, tmp_path / "run", "self"), capsys)


def test_the_planner_chooses_and_says_so(
    tmp_path: Path, llama_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 1), tmp_path / "run"
    flags = ("--for", "sample", "--transform", "identity", "--kl", "0.05")
    assert main(arguments(llama_dir, prompts, run, short_template, *flags)) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert said["k"] == said["advice"]["recommended"] == AnchorSet.load(run).card.k
    assert f"k {said['k']}: the fewest anchors a prompt" in out


def test_a_constant_reward_is_an_error_and_writes_no_anchors(
    tmp_path: Path,
    llama_dir: Path,
    short_template: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def constant(self: Any, prompt: Any, responses: Any, usage: Any) -> list[Score]:
        return [Score(0.25)] * len(responses)

    async def nothing(self: Any, prompt: Any, responses: Any, usage: Any) -> list[Unscored]:
        return [Unscored("the judge is away", blame="judge")] * len(responses)

    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    for name, score, said in (
        ("constant", constant, "the reward is constant within each of 2 prompts (every score on 'p0' is 0.25)"),
        ("nothing", nothing, "the judge is away (8). Mend the judge and repeat"),
    ):
        monkeypatch.setattr(SelfEval, "score", score)
        run = tmp_path / name
        assert said in refused(arguments(llama_dir, prompts, run, short_template), capsys)
        assert not (run / CARD).exists()
        assert len(list(read_records(run))) == 2


def test_repeating_after_the_judge_was_away_scores_again_what_it_failed_on(
    tmp_path: Path,
    llama_dir: Path,
    short_template: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = SelfEval.score

    async def away(self: SelfEval, prompt: Prompt, responses: Any, *rest: Any) -> Any:
        if prompt.id == "p1":
            return [Unscored("the judge is away", blame="judge")] * len(responses)
        return await judge(self, prompt, responses, *rest)

    prompts, run = write_prompts(tmp_path / "p.jsonl", 3), tmp_path / "run"
    command = arguments(llama_dir, prompts, run, short_template)
    assert main(arguments(llama_dir, prompts, tmp_path / "whole", short_template)) == 0
    monkeypatch.setattr(SelfEval, "score", away)
    assert main(command) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert (said["unscored"]["judge"], said["too_few"], said["scored_again"]) == (4, 1, 0)
    assert "repeat this, or `train` refuses them" in out
    with pytest.raises(InputError, match=r"'p1' has 0 anchors .* repeat the `inferalign calibrate` that drew them"):
        CalibratedReward(AnchorSet.load(run), Identity()).require(["p1"])
    monkeypatch.setattr(SelfEval, "score", judge)
    assert main(command) == 0
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert (said["unscored"]["judge"], said["too_few"], said["scored_again"]) == (0, 0, 4)
    assert "the judge was asked again about 4 rollouts that it had failed on" in out
    CalibratedReward(AnchorSet.load(run), Identity()).require(["p1"])
    whole, found = AnchorSet.load(tmp_path / "whole"), AnchorSet.load(run)
    assert rollouts(run) == rollouts(tmp_path / "whole")
    assert found.scores.values == pytest.approx(whole.scores.values, abs=1e-5)
    assert main(command) == 0
    assert AnchorSet.load(run).card.digest == found.card.digest


def test_another_model_is_refused_by_what_differs(
    tmp_path: Path, llama_dir: Path, qwen_dir: Path, short_template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, run = write_prompts(tmp_path / "p.jsonl", 1), tmp_path / "run"
    assert main(arguments(llama_dir, prompts, run, short_template)) == 0
    said = refused(arguments(qwen_dir, prompts, run, short_template), capsys)
    for words in ("made by another configuration", "weights is", "chat.chat_template_sha256 is", "there and"):
        assert words in said
    assert "k is 4 there and 5 here" in refused(arguments(llama_dir, prompts, run, short_template, "--k", "5"), capsys)


def test_a_copied_model_under_another_name_goes_on_elsewhere(
    tmp_path: Path, llama_dir: Path, short_template: str
) -> None:
    """The folder keeps the name, but the anchors serve a copy: `require` compares hashes."""
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    copy = Path(shutil.copytree(llama_dir, tmp_path / "copied"))
    assert main(arguments(llama_dir, prompts, tmp_path / "a", short_template)) == 0
    assert main(arguments(copy, prompts, tmp_path / "b", short_template)) == 0
    AnchorSet.load(tmp_path / "a").require(AnchorSet.load(tmp_path / "b").card)
