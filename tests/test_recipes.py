"""Every file in recipes/ can be read, teaches commands that exist, and starts: for a step, on a small random model."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from inferalign.cli.main import build_app, main
from inferalign.cli.train import TrainOptions
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.trainer import KL_METRIC
from inferalign.winrate.card import read_card
from tests.plain import QUESTION

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
STARTED = ("full-best-of-4", "lora-best-of-4", "sandbox-best-of-4", "sandbox-identity", "sandbox-worst-of-4")
"""Others need GPUs or vLLM: they are read here, and what they ask for is tested with small settings in `tests/ctrl`."""
TINY = "--steps 1 --warmup 0 --batch-size 16 --generations 8 --micro-batch 16 --max-new-tokens 3 --precision float32"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path) -> list[str]:
    """Flags that put a small model, its prompts, scorer and anchors in the place of a recipe's."""
    root = tmp_path_factory.mktemp("recipes")
    (root / "p.jsonl").write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"How {i}?"}) + "\n" for i in range(3)))
    (root / "question.toml").write_text(QUESTION)
    common = ["--model", str(llama_dir), "--prompts", str(root / "p.jsonl"), "--scorer", str(root / "question.toml")]
    assert main(["calibrate", *common, "--run", str(root / "anchors"), "--k", "40", "--max-new-tokens", "3"]) == 0
    return [*common, "--anchors", str(root / "anchors"), *shlex.split(TINY)]


def parsed(path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> TrainOptions:
    seen: list[TrainOptions] = []

    def spy(options: TrainOptions) -> None:
        seen.append(options)

    monkeypatch.setattr("inferalign.cli.train.train", spy)
    assert main(["train", "--config", str(path), *flags]) == 0
    return seen[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_commands_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text()
    values = tomllib.loads(text)
    options = parsed(path, monkeypatch)
    assert options.settings.procedure == values["for"]
    assert parsed(path, monkeypatch, "--kl", "0.25").settings.kl == 0.25, "a flag wins over the file"
    assert str(options.run) == values["run"]
    commands = re.findall(r"^#   (?:inferalign|accelerate launch .* inferalign\.cli\.main) (.*)$", text, flags=re.M)
    assert any(f"train --config recipes/{path.name}" in command for command in commands)
    app = build_app()
    for command in commands:
        tokens = [token for token in shlex.split(command) if token != f"recipes/{path.name}"]
        if "--config" not in tokens:
            app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_the_files_that_are_started_exist() -> None:
    assert {path.stem for path in RECIPES} >= set(STARTED)


@pytest.mark.parametrize("name", STARTED)
def test_a_recipe_starts(name: str, tmp_path: Path, prepared: list[str]) -> None:
    path, run = ROOT / "recipes" / f"{name}.toml", tmp_path / "run"
    recipe = tomllib.loads(path.read_text())
    if "lora-rank" in recipe:
        pytest.importorskip("peft")
    assert main(["train", "--config", str(path), *prepared, "--run", str(run)]) == 0
    kept = json.loads((run / "config.json").read_text())
    assert kept["settings"]["procedure"] == recipe["for"], "the recipe travels with the run"
    assert kept["settings"]["steps"] == 1
    (line,) = (json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines())
    assert line[KL_METRIC] == pytest.approx(0, abs=1e-6)
    assert 0.2 < line["reference/calibrated/mean"] < 0.8
    card = read_card(run / "model")
    assert card is not None
    assert (card.trained_for, card.transform, card.anchors) == (recipe["for"], recipe["transform"], 40)


def refused(path: Path, text: str, flags: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of a recipe that cannot be used; the message is one line."""
    path.write_text(text)
    capsys.readouterr()
    code = main(["train", "--config", str(path), *flags])
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("inferalign: ")]
    assert "Traceback" not in err
    return code, line


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("stpes = 3", "unknown key `stpes`; did you mean `steps`?"),
        ("[settings]\nbeta = 0.1", "unknown key `settings.beta`"),
        ('seed = "first"', "Invalid value for [seed] from"),
        ("steps = ", "is not TOML"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_its_file(
    tmp_path: Path, more: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = re.sub(r"^steps = .*$", "", (ROOT / "recipes" / "sandbox-identity.toml").read_text(), flags=re.M)
    code, line = refused(tmp_path / "mine.toml", f"{text}\n{more}\n", [], capsys)
    assert code == (1 if "TOML" in words else 2)
    assert words in line
    assert "mine.toml" in line


def test_a_recipe_travels_whole(prepared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What config.json keeps of the settings gives the same settings again."""
    path = ROOT / "recipes" / "sandbox-worst-of-4.toml"
    first = parsed(path, monkeypatch, "--kl", "0.3")
    from inferalign.core.config import to_dict
    from inferalign.ctrl.settings import CtrlSettings

    kept: dict[str, Any] = json.loads(json.dumps(to_dict(first)))
    assert CtrlSettings(**kept["settings"]) == first.settings
    assert AnchorSet.load(prepared[prepared.index("--anchors") + 1]).card.k == 40
