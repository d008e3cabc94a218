"""What a run cost over all its starts: nothing is forgotten that a record or the last costs.json knows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency.benchmark import carry_out, prepare
from inferalign.agency.requests import EndpointFlags, RunRequest
from inferalign.agency.spending import recall
from inferalign.agency.stored import read_run
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json, write_json_atomic
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_ledger import Ledger, Price
from inferalign.engines.remote_names import DEFAULT_KEY
from tests.agency.serving import CHAT, serving
from tests.mock_server import MockServer, Settings

PRICE = Price(input=2.0, output=8.0)
TOLD = {"requests": 2, "prompt": 1000, "completion": 200, "cached": 400}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_KEY, raising=False)


def rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By role and the model's bare name."""
    return {(row["role"], row["model"].partition("@")[0]): row for row in read_json(path / "costs.json")["accounts"]}


def test_the_better_informed_of_records_and_costs_counts(tmp_path: Path) -> None:
    before = Ledger(prices={"m": PRICE})
    account = before.account("judge", "m")
    reserve = ChatTokens(prompt=2000, completion=1000)
    for outcome in ("delivered", "delivered", "untold", "refused", "undelivered"):
        with before.call(account, reserve) as call:
            call.sent()
            if outcome == "refused":
                call.outcome = "refused"
            elif outcome != "undelivered":
                call.arrived(None if outcome == "untold" else ChatTokens(prompt=500, completion=100))
    write_json_atomic(tmp_path / "costs.json", before.summary())
    costs = read_json(tmp_path / "costs.json")

    # One record, of two calls: costs.json knows of three.
    told = Ledger(prices={"m": PRICE}, budget=1.0)
    recall(told, tmp_path / "costs.json", {("judge", "m"): [TOLD]})
    assert told.summary() == costs | {"budget": 1.0}
    # Four records that a killed start has left, one of them untold; what was never delivered stands in costs.json.
    killed = Ledger(prices={"m": PRICE})
    recall(killed, tmp_path / "costs.json", {("judge", "m"): [TOLD, TOLD, {"requests": 1}, {}]})
    (row,) = killed.summary()["accounts"]
    assert (row["delivered"], row["untold"], row["prompt_tokens"], row["cached_tokens"]) == (5, 1, 2000, 800)
    assert (row["refused"], row["undelivered"], row["held"]) == (1, 1, costs["accounts"][0]["held"])
    # Records alone; a local model's have no requests.
    alone = Ledger()
    recall(alone, tmp_path / "none.json", {("judge", "m"): [TOLD], ("subject", "local"): [{"prompt": 9}]})
    assert [(row["role"], row["delivered"]) for row in alone.summary()["accounts"]] == [("judge", 2)]


def test_what_may_have_been_billed_counts_towards_the_budget_of_the_next_start(tmp_path: Path) -> None:
    before = Ledger(prices={"m": PRICE})
    reserve = ChatTokens(prompt=2000, completion=1000)  # .012
    with before.call(before.account("judge", "m"), reserve) as call:
        call.sent()
    write_json_atomic(tmp_path / "costs.json", before.summary())
    after = Ledger(prices={"m": PRICE}, budget=0.02)
    recall(after, tmp_path / "costs.json", {})
    with (
        pytest.raises(RunError, match=r"0\.012 is spent or reserved"),
        after.call(after.account("judge", "m"), reserve),
    ):
        pass


def asked(server: MockServer, run: Path, *judges: str) -> RunRequest:
    return RunRequest(model=f"subject@{server.url}", run=run, judge=judges, limit=1)


def done(request: RunRequest, endpoint: EndpointFlags | None = None) -> None:
    asyncio.run(carry_out(prepare(request, endpoint), base_delay=0.001))


def test_a_judge_that_is_not_asked_again_stays_in_the_costs_and_in_the_budget(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("".join(f'["{name}"]\ninput = 1000\noutput = 1000\n' for name in ("subject", "one", "two")))
    run = tmp_path / "run"
    with serving(Settings(models="")) as server:
        one, two = (f"chat:{name}@{server.url}" for name in ("one", "two"))
        done(asked(server, run, one), EndpointFlags(prices=prices))
        (run / "costs.json").unlink()  # as after a kill: the records know it
        with pytest.raises(RunError, match="budget of 11 has no room"):
            done(asked(server, run, two), EndpointFlags(prices=prices, budget=11))
        assert ("judge", "one") in rows(run)
        prices.write_text('["subject"]\ninput = 1\noutput = 1\n["two"]\ninput = 1\noutput = 1\n')
        with pytest.raises(InputError, match="a budget needs a price for 'one'"):
            done(asked(server, run, two), EndpointFlags(prices=prices, budget=1000))
        done(asked(server, run, two))
        found = rows(run)
        seen = server.paths[CHAT]
        assert {name for _, name in found} == {"subject", "one", "two"}
        assert sum(row["delivered"] for row in found.values()) == seen.delivered
        assert sum(row["completion_tokens"] for row in found.values()) == seen.completion_tokens


def test_calls_that_failed_stay_counted_when_the_command_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Settings(models="", errors=0.5, faults="429,500,drop,garbage")) as server:
        request = asked(server, tmp_path / "run", f"chat:judge@{server.url}")
        monkeypatch.setattr("inferalign.agency.run.ATTEMPTS", 1)
        with pytest.raises(RunError, match=r"replies and verdicts failed.*repeat to try") as caught:
            done(request)
        stored = read_run(tmp_path / "run")
        held = f"run holds {len(stored.replies)} of 6 replies and {len(stored.verdicts)} of 6 verdicts."
        assert str(caught.value).endswith(held)
        assert 0 < len(stored.replies) < 6
        monkeypatch.setattr("inferalign.agency.run.ATTEMPTS", 12)
        done(request)
        seen = server.paths[CHAT]
    costs = rows(tmp_path / "run").values()
    assert sum(row["delivered"] for row in costs) == seen.delivered
    assert sum(row["refused"] + row["undelivered"] for row in costs) == seen.requests - seen.delivered > 0
    assert sum(row["prompt_tokens"] for row in costs) == seen.prompt_tokens
