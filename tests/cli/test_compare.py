"""`compare` from the command line on random models: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from inferalign.cli.compare_output import above_in_words, tables, write_curves
from inferalign.cli.compare_request import CompareOptions, Entry, entry, known_betas, known_length, parse_entries
from inferalign.cli.main import main
from inferalign.core.errors import InputError
from inferalign.core.stats import Estimate
from inferalign.engines.weights import weights_digest
from inferalign.theory.procedures import parse_selection
from inferalign.winrate.card import Card, read_card, write_card
from inferalign.winrate.ceiling import selector_ceiling
from inferalign.winrate.compare import Comparison, Row
from tests.plain import QUESTION
from tests.winrate.models import perturbed

CARD = Card(
    trained_for="best-of-n:2",
    transform="identity",
    beta=0.25,
    anchors=8,
    anchors_digest="sha256:0",
    base="llama",
    base_weights="sha256:1",
    reward="self",
    sandbox=False,
    seed=0,
    kl=Estimate.empty(),
)


@pytest.fixture(scope="module")
def models(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two policies, near to the base model and far from it; the first has a card."""
    root = tmp_path_factory.mktemp("policies")
    near, far = (perturbed(llama_dir, root / name, size) for name, size in (("near", 0.4), ("far", 1.0)))
    write_card(near, replace(CARD, base_weights=weights_digest(str(llama_dir))))
    return near, far


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two templates that ask differently: a selector and a judge."""
    root = tmp_path_factory.mktemp("questions")
    (root / "selector.toml").write_text(QUESTION)
    (root / "judge.toml").write_text(QUESTION.replace("Judge the answer", "Is this kind"))
    return str(root / "selector.toml"), str(root / "judge.toml")


def write_prompts(path: Path, n: int) -> Path:
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"Question {i}?"}) + "\n" for i in range(n)))
    return path


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_comparison_from_models_to_cards(
    tmp_path: Path,
    llama_dir: Path,
    models: tuple[Path, Path],
    questions: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (near, far), run = models, tmp_path / "run"
    command = ["compare", str(llama_dir), f"own@near={near}", f"own@far={far}"]
    command += ["--selector", questions[0], "--judge", questions[1], "--procedures", "sample,best-of-n:2"]
    command += ["--prompts", str(write_prompts(tmp_path / "p.jsonl", 5)), "--run", str(run), "--max-new-tokens", "6"]
    command += ["--m", "4", "--base-m", "6"]
    found = said(command, capsys)
    assert [(row["procedure"], row["policy"]) for row in found["rows"]] == [
        (procedure, policy) for procedure in ("sample", "best-of-n:2") for policy in ("own@near", "own@far")
    ]
    close, distant = found["rows"][0], found["rows"][1]
    assert distant["kl"]["mean"] > close["kl"]["mean"] > 0
    assert close["win_rate"]["n"] == 5
    assert close["objective"]["mean"] is not None  # its card knows beta
    assert close["objective"]["mean"] < close["ideal"] < 1
    assert (distant["objective"], distant["ideal"]) == (None, None)
    assert [row["policy"] for row in found["differences"]] == ["own@far", "own@far"]
    kept = json.loads((run / "metrics.json").read_text())
    assert kept == {key: value for key, value in found.items() if key != "figure"}
    with (run / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["win_rate"]) for row in rows] == pytest.approx([row["win_rate"]["mean"] for row in found["rows"]])
    with (run / "prompts.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    assert sum(float(line["best-of-n:2"]) for line in lines[:5]) / 5 == pytest.approx(
        found["rows"][2]["win_rate"]["mean"]
    )
    assert Path(found["figure"]).read_text().count("own") >= 2
    assert sorted(path.name for path in (run / "policy-own@near-1").iterdir())[:2] == ["logprobs", "pool"]

    # The same command again asks no model, and equal KL and cards are made from what is there.
    before = {path: path.read_bytes() for path in run.glob("*/*/records/*.jsonl")}
    middle = (close["kl"]["mean"] + distant["kl"]["mean"]) / 2
    again = said([*command, "--kl", str(middle), "--cards"], capsys)
    assert again["rows"] == found["rows"]
    assert {path: path.read_bytes() for path in run.glob("*/*/records/*.jsonl")} == before
    assert again["at_kl"][0]["win_rate"]["mean"] is not None
    card = read_card(near)
    assert card is not None
    assert [row.procedure for row in card.measured] == ["sample", "best-of-n:2"]
    assert card.measured[1].win_rate.mean == pytest.approx(found["rows"][2]["win_rate"]["mean"])
    assert read_card(far) is None


def test_only_the_prompts_of_this_command_are_compared(
    tmp_path: Path,
    llama_dir: Path,
    models: tuple[Path, Path],
    questions: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder that has more from an earlier command: as if they were not there, and taken up again when asked for."""
    (near, _), run = models, tmp_path / "run"
    command = ["compare", str(llama_dir), f"own={near}", "--selector", questions[0], "--judge", questions[1]]
    command += ["--procedures", "sample", "--max-new-tokens", "6", "--m", "2", "--base-m", "4"]

    def compared(n: int, folder: Path) -> dict[str, Any]:
        prompts = write_prompts(tmp_path / f"{n}.jsonl", n)
        return said([*command, "--prompts", str(prompts), "--run", str(folder)], capsys)

    whole = compared(4, run)
    some, alone = compared(2, run), compared(2, tmp_path / "alone")
    assert some["prompts"] == 2
    assert some["rows"] == alone["rows"]
    assert some["rows"][0]["win_rate"]["n"] == 2
    assert compared(4, run)["rows"] == whole["rows"]
    config = json.loads((run / "config.json").read_text())
    assert (config["verb"], config["m"]) == ("compare", 2)
    assert (run / "env.json").is_file()
    prompts = str(tmp_path / "2.jsonl")
    assert main([*command, "--prompts", prompts, "--run", str(run), "--seed", "5"]) == 1
    assert "was made with --seed 0, and 5 is given: give --seed 0 to go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["own={near}", "--kl", "0.3"], "no recipe here has two: name the trainings"),
        (["own@1={near}", "own@2={far}", "--kl", "nan"], "--kl nan: expected nats above 0"),
        (["own={near}", "own={near}"], "stands twice as 'own'"),
        (["{near}", "near={far}"], "one policy is named 'near', and the folder of another is called so"),
        (["own=sandbox:nope"], "no policy trained from the sandbox model is called 'nope'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(
    tmp_path: Path,
    llama_dir: Path,
    models: tuple[Path, Path],
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [flag.format(near=models[0], far=models[1]) for flag in flags]
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    command = ["compare", str(llama_dir), *given, "--prompts", str(prompts), "--run", str(tmp_path / "run")]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_another_command_made_is_refused(
    tmp_path: Path, llama_dir: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"verb": "train"}')
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    command = ["compare", str(llama_dir), str(models[0]), "--prompts", str(prompts), "--run", str(tmp_path / "run")]
    assert main(command) == 1
    assert "holds what another command made: give a folder of its own" in capsys.readouterr().err


def test_no_number_is_cut_in_a_narrow_terminal() -> None:
    estimate, seen = Estimate(mean=0.648, low=0.471, high=0.862, n=8), {"response": 0, "judge": 0}
    row = Row(
        policy="identity",
        recipe="identity",
        procedure="best-of-n:16",
        win_rate=estimate,
        kl=estimate,
        objective=None,
        ideal=None,
        ceiling=0.7,
        above_ceiling=False,
        by_seed=(0.6,),
        left_out=0,
        unscored={"selector": seen, "judge": seen},
    )
    console = Console(width=66, record=True, file=io.StringIO())
    for table in tables(Comparison(rows=(row,), differences=(), kl=None, at_kl=(), at_kl_differences=())):
        console.print(table)
    shown = console.export_text()
    assert "…" not in shown
    assert "64.8 [47.1, 86.2] │ 0.648 [0.471, 0.862] │ 70.0" in shown
    assert "less beta KL" not in shown, "no policy here has a J"
    assert above_in_words(Comparison(rows=(row,), differences=(), kl=None, at_kl=(), at_kl_differences=())) == []
    over = Comparison(
        rows=(row, replace(row, above_ceiling=True)), differences=(), kl=None, at_kl=(), at_kl_differences=()
    )
    (warning,) = above_in_words(over)
    assert warning.startswith("warning: identity wins 64.8 % under best-of-n:16, and no policy that ranks by the")
    assert "wins more than 70.0 at its KL" in warning
    columns = [line.split("│")[1:3] for line in shown.splitlines() if line.startswith("│")]
    assert "".join(cell.strip() for cell, _ in columns) == 2 * "best-of-n:16"
    assert "".join(cell.strip() for _, cell in columns) == 2 * "identity"


def test_a_policy_that_collapsed_is_drawn_too(tmp_path: Path) -> None:
    """Its KL lies beyond what theory resolves, which must not cost the whole comparison."""
    ceiling = {"best-of-n:2": selector_ceiling(parse_selection("best-of-n:2"))}
    collapsed: Any = SimpleNamespace(
        rows=[SimpleNamespace(kl=Estimate(mean=19.0, low=None, high=None, n=1), procedure="sample")]
    )
    assert write_curves(tmp_path / "c.svg", collapsed, ceiling) is not None
    assert (tmp_path / "c.svg").stat().st_size > 1000


def test_names_of_policies(tmp_path: Path) -> None:
    assert entry("runs/ctrl") == Entry("ctrl", None, "runs/ctrl")
    assert entry("identity=runs/a") == Entry("identity", None, "runs/a")
    assert entry("identity@0.3=runs/a=b") == Entry("identity", "0.3", "runs/a=b")
    assert entry("identity@0.3=x").name == "identity@0.3"
    assert entry("runs/a@b/c").name == "c"
    (there := tmp_path / "kl=0.5").mkdir()
    assert entry(str(there)) == Entry("kl=0.5", None, str(there)), "a directory is one, whatever its name"
    assert entry(f"a={there}") == Entry("a", None, str(there))
    for text in ("=x", "a=", "a@=x", "@b=x"):
        with pytest.raises(InputError, match="RECIPE@POINT=DIR"):
            entry(text)
    assert [one.name for one in parse_entries(["a=runs/1/end", "a=runs/2/end", "runs/3/end"])] == ["a", "a", "end"]
    with pytest.raises(InputError, match="two policies are folders called 'end'"):
        parse_entries(["runs/1/end", "runs/2/end"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--procedures", "best-of-n:4,rain"], "no selection density is known for procedure 'rain'"),
        (["--procedures", "best-of-n:0"], "N must be from 1"),
        (["--m", "3"], "--m 3 is too small a pool for N = 4: give --m 4"),
        (["--base-m", "7"], "give --base-m 8"),
        (["--selector", "oracle"], "--allow-oracle-guide"),
        (["--selector", "oracle-quality", "--judge", "reward"], "--allow-oracle-guide"),
        (["--selector", "reward:x", "--judge", "reward:x"], "another --judge, or --allow-guide-as-judge"),
        (["--prompts", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["--selector", "rewrd"], "Did you mean 'reward'"),
    ],
)
def test_one_line_of_what_cannot_be_compared(
    tmp_path: Path, llama_dir: Path, more: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = str(write_prompts(tmp_path / "p.jsonl", 2))
    fixed = [] if "--prompts" in more else ["--prompts", prompts]
    code = main(["compare", str(llama_dir), str(llama_dir), "--run", str(tmp_path / "run"), *fixed, *more])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("transform", ["raw", "standardised", "exp:10"])
def test_a_beta_in_other_units_than_the_win_rates_gives_no_objective(transform: str) -> None:
    """100 times the rewards give 100 times the beta of raw, and the same policy."""
    entries = [Entry(name, None, name) for name in ("same", "other", "none")]
    cards = [CARD, replace(CARD, transform=transform, beta=25.0), None]
    assert known_betas(entries, cards) == {"same": 0.25, "other": None, "none": None}


def test_seeds_whose_beta_a_controller_moved_are_one_recipe_and_other_recipes_are_not() -> None:
    entries = [Entry("own", None, "1"), Entry("own", None, "2")]
    assert known_betas(entries, [CARD, replace(CARD, beta=0.27)]) == {"own": pytest.approx(0.26)}
    with pytest.raises(InputError, match="exp:10 for best-of-n:2, identity for best-of-n:2"):
        known_betas(entries, [CARD, replace(CARD, transform="exp:10")])


def test_answers_are_as_long_as_in_training() -> None:
    asked = CompareOptions("base", ["a"], prompts=Path("p"), run=Path("r"))
    short, long = replace(CARD, max_new_tokens=8), replace(CARD, max_new_tokens=64)
    a, b, c = (Entry(name, None, name) for name in "abc")
    assert known_length(asked, [a, b], [None, CARD]) == 256
    assert known_length(asked, [a, b, c], [None, short, CARD]) == 8
    assert known_length(replace(asked, max_new_tokens=5), [a, b], [short, long]) == 5
    with pytest.raises(InputError, match="8, 64 tokens"):
        known_length(asked, [a, b], [short, long])


def test_answers_of_a_shipped_policy_are_as_long_as_in_its_training(tmp_path: Path) -> None:
    asked, short = CompareOptions("sandbox", ["a"], prompts=Path("p"), run=Path("r")), replace(CARD, max_new_tokens=8)
    shipped = Entry("ctrl", None, "sandbox:best-of-4")
    assert known_length(asked, [shipped], [None]) == 64
    with pytest.raises(InputError, match="8, 64 tokens"):
        known_length(asked, [shipped, Entry("own", None, "own")], [None, short])
    for other in ('{"facts": {}}', '{"facts": {"plan": null}}', "[]"):
        (tmp_path / "delta.json").write_text(other)
        assert known_length(asked, [Entry("ctrl", None, f"sandbox:{tmp_path}")], [None]) == 256


def test_only_the_model_that_a_training_started_from_is_a_base(
    tmp_path: Path, llama_dir: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, other = str(write_prompts(tmp_path / "p.jsonl", 2)), perturbed(llama_dir, tmp_path / "other", 0.1, seed=4)
    questions = ["--allow-guide-as-judge", "--selector", "self", "--judge", "self"]
    command = ["--prompts", prompts, "--run", str(tmp_path / "run"), *questions]
    assert main(["compare", str(other), f"own={models[0]}", *command]) == 1
    assert "was trained from other weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["compare", str(llama_dir), f"own={models[0]}", "./nodir", *command]) == 1
    assert "no model directory './nodir'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_is_no_training_seed_beside_itself(
    tmp_path: Path, llama_dir: Path, models: tuple[Path, Path], questions: tuple[str, str], capsys: Any
) -> None:
    command = ["compare", str(llama_dir), f"own={models[1]}", f"own={models[1]}", "--selector", questions[0]]
    command += ["--judge", questions[1], "--prompts", str(write_prompts(tmp_path / "p.jsonl", 1))]
    command += ["--run", str(tmp_path / "run"), "--procedures", "sample", "--m", "2", "--base-m", "4"]
    assert main([*command, "--max-new-tokens", "4"]) == 1
    assert "training seeds differ" in capsys.readouterr().err


def test_seeds_of_one_name_must_share_a_beta(
    tmp_path: Path, llama_dir: Path, models: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = perturbed(llama_dir, tmp_path / "other", 0.1, seed=4)
    write_card(other, replace(CARD, beta=0.5))
    prompts = str(write_prompts(tmp_path / "p.jsonl", 2))
    policies = [f"own={models[0]}", f"own={other}"]
    assert main(["compare", str(llama_dir), *policies, "--prompts", prompts, "--run", str(tmp_path / "run")]) == 1
    assert "trained with beta 0.25, 0.5" in capsys.readouterr().err


def test_a_policy_with_another_tokenizer(
    tmp_path: Path, llama_dir: Path, qwen_dir: Path, questions: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(llama_dir), str(qwen_dir), "--selector", questions[0], "--judge", questions[1]]
    command += ["--prompts", str(write_prompts(tmp_path / "p.jsonl", 1)), "--run", str(tmp_path / "run")]
    command += ["--procedures", "sample", "--m", "2", "--base-m", "4", "--max-new-tokens", "4"]
    assert main(command) == 1
    assert "another tokenizer or chat template" in capsys.readouterr().err
