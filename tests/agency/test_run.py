"""`agency run` against the mock server: what is asked, kept, resumed, counted and refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inferalign.agency.benchmark import carry_out, prepare
from inferalign.agency.outcome import Outcome
from inferalign.agency.records import Verdict
from inferalign.agency.requests import EndpointFlags, RunRequest
from inferalign.agency.run_folder import verdicts_folder
from inferalign.agency.stored import read_run
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json
from inferalign.engines.remote_names import DEFAULT_KEY
from tests.agency.serving import CHAT, DECISIONS, requests, serving
from tests.mock_server import MockServer, Settings

ANY = Settings(models="")
ITEMS = 6 * 5


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_KEY, raising=False)


def asked(server: MockServer, run: Path, *judges: str, **more: Any) -> RunRequest:
    """Five items a dimension, a chat judge unless others are named."""
    judge = judges or (f"chat:judge@{server.url}",)
    return RunRequest(**{"model": f"subject@{server.url}", "run": run, "judge": judge, "limit": 5} | more)


def done(request: RunRequest, endpoint: EndpointFlags | None = None) -> tuple[dict[str, Any], Outcome]:
    return asyncio.run(carry_out(prepare(request, endpoint), base_delay=0.001))


def verdicts(run: Path) -> dict[str, tuple[Any, ...]]:
    return {v.id: (v.status, v.letters, v.score, v.letter_order) for v in read_run(run).verdicts}


def by_item(run: Path) -> dict[str, tuple[Any, ...]]:
    """Without the names of the endpoints, whose ports differ between servers."""
    stored = read_run(run)
    item_of = {reply.id: reply.item for reply in stored.replies}
    return {item_of[v.reply]: (v.status, v.letters, v.score, v.letter_order) for v in stored.verdicts}


def test_every_item_is_answered_and_judged_once(tmp_path: Path) -> None:
    with serving(ANY) as server:
        metrics, means = done(asked(server, tmp_path / "run"))
        assert requests(server) == 2 * ITEMS
    stored = read_run(tmp_path / "run")
    assert len(stored.items) == len(stored.replies) == len(stored.verdicts) == ITEMS
    assert {len(reply.conversation) for reply in stored.replies} == {2}
    assert {reply.system_prompt is None for reply in stored.replies} == {False, True}  # as the dimensions say
    assert metrics["verdicts"] == {stored.verdicts[0].judge: {"ok": ITEMS}}
    assert len(metrics["means"]) == 7
    (summaries,) = means.values()
    assert summaries[-1].dimension == "overall"
    assert summaries[-1].percent.mean == pytest.approx(sum(row.percent.mean or 0.0 for row in summaries[:-1]) / 6)
    assert metrics == read_json(tmp_path / "run" / "metrics.json")
    config = read_json(tmp_path / "run" / "config.json")
    assert config["kind"] == "agency-run"
    assert config["items"]["count"] == ITEMS
    assert len(config["dimensions"]) == 6


def test_the_ledger_is_the_servers_and_repeating_costs_nothing(tmp_path: Path) -> None:
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run", conditions=("default", "none+followups"))
        done(request)
        seen = server.paths[CHAT]
        costs = read_json(tmp_path / "run" / "costs.json")
        subject, judge = costs["accounts"]
        assert (subject["delivered"], judge["delivered"]) == (ITEMS * (1 + 3), ITEMS * 2)
        assert subject["delivered"] + judge["delivered"] == seen.delivered == seen.requests
        for ours, theirs in (("prompt_tokens", seen.prompt_tokens), ("completion_tokens", seen.completion_tokens)):
            assert subject[ours] + judge[ours] == theirs
        again, _ = done(request)
        assert requests(server) == seen.delivered
        # What was spent before is read back from the records.
        assert read_json(tmp_path / "run" / "costs.json") == costs
    assert again == read_json(tmp_path / "run" / "metrics.json")


def test_errors_of_transport_change_nothing_but_the_number_of_requests(tmp_path: Path) -> None:
    with serving(ANY) as server:
        done(asked(server, tmp_path / "calm"))
    with serving(Settings(models="", errors=0.3, faults="429,500,drop,garbage")) as server:
        done(asked(server, tmp_path / "rough"))
        # 26 more on average; which fail hangs on the port, and fewer than 4 more in one case of ten thousand.
        assert requests(server) > 2 * ITEMS + 3
        accounts = read_json(tmp_path / "rough" / "costs.json")["accounts"]
        assert sum(account["delivered"] for account in accounts) == server.paths[CHAT].delivered == 2 * ITEMS
        assert sum(account["refused"] + account["undelivered"] for account in accounts) == requests(server) - 2 * ITEMS
    assert by_item(tmp_path / "rough") == by_item(tmp_path / "calm")


def test_verdicts_that_cannot_be_read_are_repaired_or_unscored_and_counted(tmp_path: Path) -> None:
    with serving(ANY) as server:
        done(asked(server, tmp_path / "clean"))
    with serving(Settings(models="", malformed=0.4)) as server:
        metrics, means = done(asked(server, tmp_path / "spoilt"), EndpointFlags(free_form=True))
    (counted,) = metrics["verdicts"].values()
    assert sum(counted.values()) == ITEMS
    assert counted["unscored"] > 3
    clean, spoilt = by_item(tmp_path / "clean"), by_item(tmp_path / "spoilt")
    for item, (status, letters, score, _) in spoilt.items():
        assert (status == "unscored") == (score is None)
        assert status == "unscored" or (letters, score) == clean[item][1:3]
    (summaries,) = means.values()
    assert sum(summary.counts.blamed_judge for summary in summaries[:-1]) == counted["unscored"]
    assert summaries[-1].bounds[0] < summaries[-1].bounds[1]


def test_many_verdicts_on_one_reply_are_asked_for_at_once(tmp_path: Path) -> None:
    with serving(Settings(models="", latency=0.02)) as server:
        request = asked(server, tmp_path / "run", limit=1, dimension=("encourage_learning",), judge_repeats=12)
        done(request, EndpointFlags(concurrency=4))
        assert (requests(server), server.most_at_once) == (13, 4)


def test_another_judge_later_needs_no_new_reply(tmp_path: Path) -> None:
    with serving(ANY) as server:
        done(asked(server, tmp_path / "run", "scripted"))
        assert requests(server) == ITEMS
        metrics, means = done(asked(server, tmp_path / "run", "scripted", f"decisions:openai:judge@{server.url}"))
        assert (requests(server), requests(server, DECISIONS)) == (ITEMS, ITEMS)
    assert set(means) == {"scripted", f"judge@{server.url}", "panel"}
    assert metrics["verdicts"]["panel"] == {"ok": ITEMS}
    assert set(read_json(tmp_path / "run" / "config.json")["judges"]) == {"scripted", f"judge@{server.url}"}


def test_the_folder_keeps_to_its_configuration(tmp_path: Path) -> None:
    with serving(ANY) as server:
        done(asked(server, tmp_path / "run", "scripted"))
        for change in ({"repeats": 2}, {"seed": 1}, {"conditions": ("none",)}, {"limit": 4}):
            with pytest.raises(RunError, match="another configuration"):
                done(asked(server, tmp_path / "run", "scripted", **change))
        assert requests(server) == ITEMS


def test_repeats_of_replies_and_verdicts_are_units_of_their_own(tmp_path: Path) -> None:
    with serving(ANY) as server:
        request = asked(
            server, tmp_path / "run", limit=1, repeats=2, judge_repeats=3, dimension=("encourage_learning",)
        )
        done(request)
        assert requests(server) == 2 + 6
    assert len({verdict.id for verdict in read_run(tmp_path / "run").verdicts}) == 6


def test_follow_up_turns_are_the_dimensions_whatever_the_subject_says(tmp_path: Path) -> None:
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run", limit=1, conditions=("none+followups",))
        material = prepare(request).material
        done(request)
    for reply in read_run(tmp_path / "run").replies:
        item = next(item for item in material.items if item.id == reply.item)
        users = tuple(turn.content for turn in reply.conversation if turn.role == "user")
        assert users == (item.prompt, *material.dimensions[item.dimension].followups)
        assert [turn.role for turn in reply.conversation] == ["user", "assistant"] * 3
        assert reply.system_prompt is None
        assert reply.tokens["requests"] == 3


def test_an_empty_reply_is_kept_and_never_judged(tmp_path: Path) -> None:
    with serving(Settings(models="", empty=1.0)) as server:
        metrics, means = done(asked(server, tmp_path / "run", limit=1, conditions=("none+followups",)))
        assert requests(server) == 6  # no second turn, no judge
    assert metrics["finishes"] == {"length": 6}
    stored = read_run(tmp_path / "run")
    assert {(v.status, v.blame) for v in stored.verdicts} == {("unscored", "response")}
    (summaries,) = means.values()
    assert summaries[-1].counts.blamed_reply == 6


def test_a_refused_key_stops_the_run_at_once_with_what_is_finished_kept(tmp_path: Path) -> None:
    with serving(Settings(models="subject")) as server, pytest.raises(RunError, match=r"404.*'judge' does not exist"):
        done(asked(server, tmp_path / "run"), EndpointFlags(concurrency=4))
    assert requests(server) <= 4 + 4
    assert 0 < len(read_run(tmp_path / "run").replies) < ITEMS
    assert read_json(tmp_path / "run" / "costs.json")["accounts"][0]["delivered"] > 0


def test_settings_that_a_server_refused_may_be_changed_and_the_replies_are_kept(tmp_path: Path) -> None:
    request_of = partial(asked, run=tmp_path / "run")
    with serving(Settings(models="subject")) as server:
        with pytest.raises(RunError, match=r"the model's name\. \S+ holds \d+ of 30 replies and 0 of 30 verdicts\.$"):
            done(request_of(server), EndpointFlags(concurrency=4))
        kept = read_run(tmp_path / "run").replies
        server.settings = replace(server.settings, models="")
        done(request_of(server), EndpointFlags(free_form=True))
        stored = read_run(tmp_path / "run")
        assert 0 < len(kept) < len(stored.replies) == len(stored.verdicts) == ITEMS
        assert stored.replies[: len(kept)] == kept
        (judge,) = read_json(tmp_path / "run" / "config.json")["judges"].values()
        assert judge["settings"]["json_schema"] is False
        # Verdicts hold their judge to what made them.
        with pytest.raises(RunError, match=r"verdicts-\S+ was made .*json_schema is false there.*remove the folder"):
            done(request_of(server))
        asked_for = requests(server)
        shutil.rmtree(tmp_path / "run" / verdicts_folder(f"judge@{server.url}"))
        done(request_of(server))
        assert requests(server) - asked_for == ITEMS
        # What the removed verdicts cost was spent all the same.
        judge_row = read_json(tmp_path / "run" / "costs.json")["accounts"][1]
        assert judge_row["delivered"] == 2 * ITEMS


def test_a_budget_stops_before_it_is_passed_and_counts_the_whole_run(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["subject"]\ninput = 1000\noutput = 1000\n["judge"]\ninput = 1000\noutput = 1000\n')
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run")
        with pytest.raises(RunError, match="budget of 30 has no room"):
            done(request, EndpointFlags(concurrency=2, prices=prices, budget=30))
        first = read_json(tmp_path / "run" / "costs.json")
        assert 0 < first["cost"] <= 30
        with pytest.raises(RunError, match="budget of 30 has no room"):
            done(request, EndpointFlags(concurrency=2, prices=prices, budget=30))
        assert read_json(tmp_path / "run" / "costs.json")["cost"] <= 30
        done(request, EndpointFlags(prices=prices, budget=3000))
        seen = server.paths[CHAT]
        spent = read_json(tmp_path / "run" / "costs.json")["cost"]
        assert spent == pytest.approx((seen.prompt_tokens + seen.completion_tokens) / 1000)


def test_calls_at_once_do_not_use_a_budget_up_that_their_costs_leave_room_in(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["subject"]\ninput = 1\noutput = 4\n["judge"]\ninput = 1\noutput = 4\n')
    with serving(ANY) as server:
        done(asked(server, tmp_path / "free", limit=2), EndpointFlags(prices=prices))
        cost = read_json(tmp_path / "free" / "costs.json")["cost"]
        # A verdict reserves 8192 tokens at 4 and its prompt, so the budget has room for two of them at once.
        done(asked(server, tmp_path / "run", limit=2), EndpointFlags(prices=prices, budget=cost + 0.045))
    assert read_json(tmp_path / "run" / "costs.json")["cost"] == pytest.approx(cost)


def test_a_budget_without_room_for_the_first_call_says_so(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["subject"]\ninput = 1000\noutput = 1000\n')
    with serving(ANY) as server, pytest.raises(RunError, match="no room for another call: 0 is spent"):
        done(asked(server, tmp_path / "run", "scripted"), EndpointFlags(prices=prices, budget=0.01))
    assert requests(server) == 0
    assert read_json(tmp_path / "run" / "metrics.json")["replies"] == 0


def test_a_verdict_whose_reply_was_lost_is_refused(tmp_path: Path) -> None:
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run", "scripted", limit=1)
        done(request)
        replies = tmp_path / "run" / "replies" / "records" / "main.jsonl"
        replies.write_bytes(b"".join(replies.read_bytes().splitlines(keepends=True)[:-1]))
        with pytest.raises(RunError, match="remove the verdict's line"):
            done(request)
        shutil.rmtree(tmp_path / "run" / "replies")
        before = (tmp_path / "run" / "config.json").read_text()
        other = asked(server, tmp_path / "run", f"chat:judge@{server.url}", limit=1)
        with pytest.raises(RunError, match="or its folder if all replies are gone"):
            done(other)  # which asks another judge; the old one's verdicts are still there
        assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_judge_that_is_the_subject_is_refused_unless_asked_for(tmp_path: Path) -> None:
    with serving(ANY) as server:
        own = f"chat:subject@{server.url}"
        with pytest.raises(InputError, match=r"would judge itself.*--allow-self-judging"):
            done(asked(server, tmp_path / "run", own))
        assert requests(server) == 0
        done(asked(server, tmp_path / "run", own, limit=1, allow_self_judging=True))
        with pytest.raises(InputError, match="the subject is the endpoint"):
            done(asked(server, tmp_path / "other", "self"))


def test_a_scripted_file_is_a_judge(tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    with serving(ANY) as server:
        request = asked(server, tmp_path / "run", f"scripted:{file}", limit=1)
        file.write_text("[]\n")
        with pytest.raises(InputError, match=r"letters.jsonl:1: not a verdict"):
            done(request)
        items = prepare(asked(server, tmp_path / "run", "scripted", limit=1)).material.items
        file.write_text("".join(json.dumps({"item": item.id, "letters": ["A"]}) + "\n" for item in items))
        done(request)
    found: list[Verdict] = read_run(tmp_path / "run").verdicts
    assert {verdict.letters for verdict in found} == {("A",)}


def test_folders_of_judges_are_told_apart() -> None:
    first, second = verdicts_folder("m@http://a/v1"), verdicts_folder("m@http-a/v1")
    assert first != second
    assert first.startswith("verdicts-m-http-a-v1-")
    assert all(character.isalnum() or character in "-." for character in first)
