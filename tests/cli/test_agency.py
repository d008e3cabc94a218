"""`inferalign agency` from the command line: local subjects, tables, and one clear line to each bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from inferalign.agency.dimension import load_dimension
from inferalign.agency.stored import read_run
from inferalign.cli.main import main
from inferalign.cli.progress import StageBars
from inferalign.engines.remote_names import DEFAULT_KEY
from tests.agency.serving import requests, serving
from tests.mock_server import Settings

NOBODY = "m@http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DEFAULT_KEY, raising=False)


def test_two_endpoints_and_a_panel(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Settings(models="")) as server:
        command = ["agency", "run", "--model", f"a@{server.url}", "--limit", "2", "--run", "run"]
        command += ["--judge", f"chat:b@{server.url}", "--judge", "scripted"]
        assert main(command) == 0
    out, errors = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert (summary["items"], summary["replies"], summary["due"], summary["cost"]) == (12, 12, 12, None)
    assert set(summary["verdicts"]) == {f"b@{server.url}", "scripted", "panel"}
    assert summary["percent"].keys() == {f"a@{server.url} (default) {name}" for name in (*ISSUES, "overall")}
    assert "panel" in out
    assert "maintain_social_boundaries" in out
    assert "replies: 12 of 12" in errors
    assert "verdicts: 24 of 24" in errors


ISSUES = (
    "ask_clarifying_questions",
    "avoid_value_manipulation",
    "correct_misinformation",
    "defer_important_decisions",
    "encourage_learning",
    "maintain_social_boundaries",
)


def test_a_local_model_answers_under_a_procedure_and_draws_alike_when_resumed(
    llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"id": f"i{i}", "prompt": f"Guide me to {i}."} for i in range(3)]
    Path("items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def command(run: str, *more: str) -> list[str]:
        fixed = ["--model", str(llama_dir), "--judge", "scripted", "--dimension", "encourage_learning"]
        short = ["--items", "items.jsonl", "--max-new-tokens", "8", "--conditions", "none", "--run", run]
        return ["agency", "run", *fixed, *short, *more]

    procedure = ("--procedure", "random-of-n:2", "--repeats", "2")
    assert main(command("whole", *procedure)) == 0, capsys.readouterr().err
    whole = {reply.id: reply for reply in read_run(Path("whole")).replies}
    assert len(whole) == 6
    assert {reply.subject for reply in whole.values()} == {f"random-of-n:2/{llama_dir}"}
    assert all(reply.facts["turns"][0]["candidates"] == 2 for reply in whole.values())
    texts = [reply.conversation[-1].content for reply in whole.values()]
    assert len(set(texts)) == 6  # at temperature 1, each repeat is a draw of its own
    records = Path("whole") / "replies" / "records" / "main.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:3]))
    for folder in Path("whole").glob("verdicts-*"):
        (folder / "records" / "main.jsonl").unlink()
        (folder / "config.json").unlink()
    assert main(command("whole", *procedure)) == 0, capsys.readouterr().err
    again = {reply.id: reply for reply in read_run(Path("whole")).replies}
    assert [again[name].conversation for name in whole] == [reply.conversation for reply in whole.values()]
    # `sample` takes the dimension's temperature, which is 0: repeats are equal.
    assert main(command("greedy", "--repeats", "2")) == 0
    greedy = read_run(Path("greedy")).replies
    assert len({reply.conversation for reply in greedy}) == 3
    capsys.readouterr()
    assert main(command("own", "--judge", "self")) == 1
    assert "would judge itself" in capsys.readouterr().err


def test_a_run_says_why_verdicts_are_unscored(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Settings(models="", refusals=1.0)) as server:
        command = ["agency", "run", "--model", f"a@{server.url}", "--limit", "2", "--run", "run"]
        assert main([*command, "--judge", f"chat:b@{server.url}", "--dimension", ISSUES[0]]) == 0
    out = capsys.readouterr().out
    reason = "the judge's answer cannot be read: refused"
    assert f"b@{server.url}: 2 unscored: {reason}" in out
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["unscored"] == {f"b@{server.url}": {reason: 2}}


def test_a_dry_run_asks_nothing_and_names_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "run", "--model", NOBODY, "--judge", f"chat:j@{NOBODY[2:]}", "--run", "r", "--dry-run"]) == 0
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])
    assert (summary["items"], [row["calls"] for row in summary["calls"]]) == (240, [240, 240])
    assert "unknown" in out
    assert not Path("r").exists()


def test_build_makes_items_that_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Settings(models="")) as server:
        build = ["agency", "build", "--generator", f"w@{server.url}", "--validator", f"v@{server.url}"]
        build += ["--dimension", ISSUES[0], "--simulate", "60", "--select", "3", "--min-score", "1", "--run", "made"]
        assert main(build) == 0, capsys.readouterr().err
        made = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert made["selected"] == {ISSUES[0]: 3}
        run = ["agency", "run", "--model", f"a@{server.url}", "--judge", "scripted", "--items", made["items"]]
        assert main([*run, "--run", "run"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["items"] == 3


def test_a_build_says_what_it_would_cost_and_how_far_two_validators_agree(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Settings(models="")) as server:
        build = ["agency", "build", "--generator", f"w@{server.url}", "--validator", f"v@{server.url}"]
        build += ["--second-validator", f"x@{server.url}", "--second-share", "0.5", "--run", "made"]
        build += ["--dimension", ISSUES[0], "--simulate", "12", "--select", "2", "--min-score", "1"]
        assert main([*build, "--dry-run"]) == 0
        out = capsys.readouterr().out
        summary = json.loads(out.splitlines()[-1])
        assert [row["calls"] for row in summary["calls"]] == [4, 12, 6]
        assert (summary["messages"], requests(server)) == (12, 0)
        assert "messages like the dimensions' examples" in " ".join(out.split())
        assert not Path("made").exists()
        assert main(build) == 0
    out, errors = capsys.readouterr()
    assert "100.0 % [" in out
    assert "validations: " in errors
    assert " of 18, " in errors


def test_a_new_dimension_is_one_that_loads_and_is_never_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "new-dimension", "mine.yaml"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["dimension"] == load_dimension("mine.yaml").id
    Path("mine.yaml").write_text("mine")
    assert main(["agency", "new-dimension", "mine.yaml"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no judge: name one with --judge"),
        (["--judge", "chat"], "type `chat:MODEL@URL`"),
        (["--judge", "caht:x"], "Did you mean 'chat'"),
        (["--judge", "chat:j"], "names no endpoint"),
        (["--judge", "decisions:noul:j@http://h/v1"], "unknown dialect"),
        (["--judge", "scripted", "--judge", "scripted"], "named twice"),
        (["--judge", "scripted:gone.jsonl"], "cannot read gone.jsonl"),
        (["--judge", "oracle"], "the oracle knows no truth about the item bank"),
        (["--judge", "scripted", "--dimension", "x"], "unknown dimension 'x'"),
        (["--judge", "scripted", "--items", "empty.jsonl"], "empty.jsonl holds no prompts"),
        (["--judge", "scripted", "--items", "sandbox:some"], "say how many a dimension"),
        (["--judge", "scripted", "--conditions", "x"], "unknown condition 'x'"),
        (["--judge", "scripted", "--budget", "0"], "a budget of 0 pays for no call"),
        (["--judge", "scripted", "--budget", "1"], "a budget needs a price"),
        (["--judge", "scripted", "--prices", "gone.toml"], "no file gone.toml"),
        (["--judge", "scripted", "--repeats", "0"], "--repeats 0"),
        (["--judge", "scripted", "--concurrency", "0"], "concurrency is 0"),
        (["--judge", "scripted", "--rpm", "0"], "0 requests a minute"),
        (["--judge", "scripted", "--procedure", "rain"], "--procedure is for local subjects"),
        (["--judge", "scripted", "--scorer", "nonsense"], "--scorer is for local subjects"),
        (["--judge", "scripted", "--allow-oracle-guide"], "--allow-oracle-guide is for local subjects"),
        (["--judge", "scripted"], "cannot be reached"),
        (["--judge", f"chat:{NOBODY}"], "cannot be reached"),
    ],
)
def test_bad_input_gets_one_clear_line(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.jsonl").write_text("\n")
    assert main(["agency", "run", "--model", NOBODY, "--run", "run", *more]) == 1
    out, errors = capsys.readouterr()
    assert message in errors
    assert [line for line in errors.splitlines() if line.startswith("inferalign: ")] == errors.splitlines()[-1:]
    assert out == ""
    assert not Path("run").exists()


def test_an_unknown_flag_has_a_did_you_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agency", "run", "--model", NOBODY, "--run", "run", "--jugde", "oracle"]) == 2
    assert "--judge" in capsys.readouterr().err


def test_a_judge_that_cannot_be_reached_costs_no_reply(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Settings(models="")) as server:
        assert main(["agency", "run", "--model", f"a@{server.url}", "--judge", f"chat:{NOBODY}", "--run", "run"]) == 1
        assert requests(server) == 0
    assert "127.0.0.1:9/v1 cannot be reached" in capsys.readouterr().err


def test_stage_bars_count_apart_and_say_so_at_the_end() -> None:
    stream = io.StringIO()
    with StageBars({"replies": 3, "verdicts": 6}, stream) as bars:
        bars["replies"].advance()
        bars["verdicts"].advance(2)
        bars["replies"].note("1 failed")
    assert [line.rpartition(",")[0] for line in stream.getvalue().splitlines()] == [
        "replies: 1 of 3",
        "verdicts: 2 of 6",
    ]
    assert "(1 failed)" in stream.getvalue()
