"""`agency build` against the mock server: items out of a generator and a validator, resumably."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency.build import Built, build
from inferalign.agency.build_plan import prepare_build
from inferalign.agency.item_source import gather
from inferalign.agency.requests import BuildRequest, EndpointFlags
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json
from inferalign.core.records import read_records
from inferalign.engines.remote_names import DEFAULT_KEY
from tests.agency.serving import CHAT, requests, serving
from tests.mock_server import MockServer, Settings

ANY = Settings(models="")
DIMENSION = "ask_clarifying_questions"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_KEY, raising=False)


def asked(server: MockServer, run: Path, **more: Any) -> BuildRequest:
    fixed = {"generator": f"writer@{server.url}", "validator": f"reader@{server.url}", "dimension": (DIMENSION,)}
    # The mock writes words at random: no message is good enough for the dimension's own least score.
    return BuildRequest(**{"run": run, "simulate": 60, "select": 4, "min_score": 1, **fixed} | more)


def made(request: BuildRequest, endpoint: EndpointFlags | None = None) -> Mapping[str, Built]:
    return asyncio.run(build(prepare_build(request, endpoint)))


def test_items_come_out_as_a_run_reads_them_and_a_repeat_asks_nothing(tmp_path: Path) -> None:
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run")
        built = made(request)[DIMENSION]
        asked_for = requests(server)
        items = (tmp_path / "run" / "items.jsonl").read_bytes()
        costs = read_json(tmp_path / "run" / "costs.json")
        assert sum(account["delivered"] for account in costs["accounts"]) == server.paths[CHAT].delivered
        assert made(request)[DIMENSION] == built
        assert requests(server) == asked_for
        assert read_json(tmp_path / "run" / "costs.json") == costs
    assert (tmp_path / "run" / "items.jsonl").read_bytes() == items
    material = gather(str(tmp_path / "run" / "items.jsonl"), (), limit=None, seed=0)
    assert [item.id for item in material.items] == [item.id for item in built.chosen.items]
    assert len(material.items) == 4
    metrics = read_json(tmp_path / "run" / "metrics.json")["dimensions"][DIMENSION]
    assert metrics["pool"]["items"] == len(built.pool.items)
    assert metrics["selected"]["items"] == [item.id for item in material.items]


def test_errors_of_transport_change_no_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferalign.agency.build.BASE_DELAY", 0.001)
    with serving(ANY) as server:
        calm = made(asked(server, tmp_path / "calm"))[DIMENSION]
    with serving(Settings(models="", errors=0.3)) as server:
        rough = made(asked(server, tmp_path / "rough"))[DIMENSION]
    assert [item.id for item in rough.chosen.items] == [item.id for item in calm.chosen.items]


def test_too_few_messages_left_says_what_became_of_them(tmp_path: Path) -> None:
    with serving(ANY) as server, pytest.raises(InputError, match=r"--select 30, and \d+ messages are left \(.*below"):
        made(asked(server, tmp_path / "run", simulate=30, select=30, min_score=1000))
    assert read_json(tmp_path / "run" / "costs.json")["accounts"][0]["delivered"] > 0


def test_a_validator_that_refused_may_be_asked_otherwise_and_the_messages_are_kept(tmp_path: Path) -> None:
    with serving(Settings(models="writer")) as server:
        with pytest.raises(RunError, match=r"404.*'reader' does not exist"):
            made(asked(server, tmp_path / "run"))
        server.settings = replace(server.settings, models="")
        before = server.paths[CHAT].delivered
        pool = made(asked(server, tmp_path / "run", validator=f"other@{server.url}"))[DIMENSION].pool
        assert before == 20
        assert server.paths[CHAT].delivered < before + 2 * len(pool.items)


def test_calls_that_all_failed_are_named_as_such(tmp_path: Path) -> None:
    with serving(Settings(models="", empty=1.0)) as server:
        with pytest.raises(InputError, match=r"0 messages are left \(4 calls failed: cut off\)"):
            made(asked(server, tmp_path / "run", simulate=12))
        assert requests(server) == 4


def test_a_reasoning_generator_has_room_to_reason(tmp_path: Path) -> None:
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run")
        plain = prepare_build(request)
        reasoning = prepare_build(request, EndpointFlags(server_sampling=("generator",)))
    assert (plain.simulating.temperature, plain.simulating.max_tokens) == (1.4, 1500)
    assert (reasoning.simulating.temperature, reasoning.simulating.max_tokens) == (None, 8192)
    assert reasoning.validating == plain.validating


def test_another_generator_on_the_same_folder_is_refused_and_changes_no_file(tmp_path: Path) -> None:
    with serving(ANY) as server:
        made(asked(server, tmp_path / "run"))
        kept = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
        for change in ({"generator": f"other@{server.url}"}, {"validator": f"other@{server.url}"}, {"seed": 1}):
            with pytest.raises(RunError, match="made by another configuration"):
                made(asked(server, tmp_path / "run", **change))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")} == kept


def test_another_choice_asks_nothing_and_more_messages_ask_only_for_those(tmp_path: Path) -> None:
    with serving(ANY) as server:
        made(asked(server, tmp_path / "run"))
        asked_for = requests(server)
        assert len(made(asked(server, tmp_path / "run", select=6, keep=30))[DIMENSION].chosen.items) == 6
        assert requests(server) == asked_for
        assert read_json(tmp_path / "run" / "config.json")["select"] == 6
        more = made(asked(server, tmp_path / "run", simulate=90))
        extended = requests(server)
        whole = made(asked(server, tmp_path / "whole", simulate=90))
        assert more == whole
        assert extended - asked_for < requests(server) - extended
        # Fewer messages are a part of them.
        assert made(asked(server, tmp_path / "run")) == made(asked(server, tmp_path / "fresh"))


def test_a_second_validator_sees_a_share_and_decides_nothing(tmp_path: Path) -> None:
    with serving(ANY) as server:
        alone = made(asked(server, tmp_path / "run"))[DIMENSION]
        assert alone.second is None
        before = requests(server)
        two = made(asked(server, tmp_path / "run", second_validator=f"other@{server.url}", second_share=0.25))
        built = two[DIMENSION]
        assert requests(server) - before >= round(0.25 * len(built.pool.items))
    assert (built.pool, built.kept, built.chosen) == alone[:3]
    assert built.second is not None
    assert built.second.n + built.second.unscored == round(0.25 * len(built.pool.items))
    told = read_json(tmp_path / "run" / "metrics.json")["dimensions"][DIMENSION]["second_validator"]
    assert told["n"] == built.second.n
    # The mock's verdicts depend on the text alone, so two models of it agree in everything.
    assert (told["same_letters"]["mean"], told["mean_difference"]) == (1.0, 0.0)
    shown = {record["item"] for record in read_records(tmp_path / "run" / "second")}
    assert shown < {item.id for item in built.pool.items}
    costs = read_json(tmp_path / "run" / "costs.json")["accounts"]
    assert [row["role"] for row in costs] == ["generator", "validator", "validator"]


def test_each_validator_may_have_a_key_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "SECOND", "THIRD"):
        monkeypatch.setenv(name, name.lower())
    with serving(Settings(models="", key="first")) as one, serving(Settings(models="", key="second")) as two:
        more = {"validator": f"reader@{two.url}", "validator_key_variable": "SECOND"}
        made(asked(one, tmp_path / "run", **more), EndpointFlags(key_variable="FIRST"))
        with serving(Settings(models="", key="third")) as three:
            more |= {"second_validator": f"other@{three.url}", "second_key_variable": "THIRD"}
            built = made(asked(one, tmp_path / "run", **more), EndpointFlags(key_variable="FIRST"))
            assert requests(three) > 0
    assert built[DIMENSION].second is not None


def test_a_forecast_by_hand_and_near_to_what_is_asked(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["writer"]\ninput = 2\noutput = 8\n')
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run", second_validator=f"other@{server.url}", embed=f"vectors@{server.url}")
        prepared = prepare_build(request, EndpointFlags(prices=prices))
        writer, reader, other, vectors = prepared.forecast()
        assert requests(server) == 0
        made(replace(request, embed="tfidf"))
        (account, *_) = read_json(tmp_path / "run" / "costs.json")["accounts"]
    assert (writer.calls, reader.calls, other.calls, vectors.calls) == (20, 60, 6, 1)
    assert writer.prompt_tokens == sum(len(call.prompt) // 4 for call in prepared.calls)
    assert writer.prompt_tokens == pytest.approx(account["prompt_tokens"], rel=0.02)
    assert writer.completion_most == 20 * 1500
    assert writer.cost == pytest.approx((2 * writer.prompt_tokens + 8 * writer.completion_tokens) / 1e6)
    assert (reader.cost, reader.completion_most, vectors.completion_most) == (None, 60 * 8192, 0)
    # The examples have 40 to 110 words or so, at 4 characters a token.
    assert 30 * 60 < writer.completion_tokens < 200 * 60
    assert vectors.prompt_tokens < reader.prompt_tokens


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"generator": None}, "no generator: name one with --generator"),
        ({"validator": None}, "no validator: name one with --validator"),
        ({"validator": "reader"}, "names no endpoint"),
        ({"simulate": 0}, "--simulate 0"),
        ({"select": 61}, "--select 61 of 60 messages"),
        ({"keep": 0}, "--keep 0: give at least 1"),
        ({"keep": 30}, "--select 40 of 30 messages"),
        ({"min_score": 1001}, "--min-score 1001: messages of ask_clarifying_questions have 0 to 1000 points"),
        ({"min_score": -1}, "--min-score -1"),
        ({"dimension": ("x",)}, "unknown dimension 'x'"),
        ({"second_validator": "r@http://127.0.0.1:9/v1"}, "is the validator itself"),
        ({"second_validator": "other"}, "names no endpoint"),
        ({"second_share": 0.0}, "--second-share 0: give a share above 0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    fixed = {"generator": "w@http://127.0.0.1:9/v1", "validator": "r@http://127.0.0.1:9/v1", "simulate": 60}
    with pytest.raises(InputError, match=message):
        prepare_build(BuildRequest(**{"run": tmp_path / "run", **fixed} | more))
    assert not (tmp_path / "run").exists()
