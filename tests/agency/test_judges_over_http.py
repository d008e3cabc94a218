"""Judges against the mock server on loopback: the same verdict under any order of the letters, in each dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from inferalign.agency.decision_dialects import DIALECTS
from inferalign.agency.judge import Judge
from inferalign.agency.judge_chat import ChatJudge, ChatJudgeSettings
from inferalign.agency.judge_decisions import DecisionsJudge, RemoteDecider
from inferalign.agency.records import Verdict
from inferalign.core.types import RoleUsage
from inferalign.engines.remote import RemoteChat
from inferalign.engines.remote_http import Endpoint, RemoteOptions
from inferalign.engines.remote_ledger import Ledger
from tests.agency.judging import answered, bank, shipped
from tests.mock_server import MockServer, Settings

Body = Callable[[MockServer, RemoteChat], Awaitable[Any]]
CASES = [(name, bank(name)[place]) for name in sorted(shipped()) for place in (0, 1)]


def serve(settings: Settings, body: Body) -> Any:
    async def run() -> Any:
        async with MockServer(settings) as server, Endpoint(server.url, RemoteOptions()) as endpoint:
            return await body(server, RemoteChat(endpoint, "mock-1", role="judge", ledger=Ledger()))

    return asyncio.run(run())


async def verdicts(judge: Judge, usage: RoleUsage) -> list[Verdict]:
    """One a case, asked at the same time."""
    return await asyncio.gather(
        *(judge.judge(item, answered(item, f"Answer to {item.id}."), repeat=0, usage=usage) for _, item in CASES)
    )


def test_verdicts_by_text_do_not_depend_on_the_order_of_the_letters() -> None:
    async def body(server: MockServer, client: RemoteChat) -> list[list[Verdict]]:
        orders = [ChatJudgeSettings(shuffle=False), *(ChatJudgeSettings(seed=seed) for seed in range(4))]
        return [await verdicts(ChatJudge(client, shipped(), order), RoleUsage()) for order in orders]

    first, *others = serve(Settings(), body)
    assert {verdict.status for verdict in first} == {"ok"}
    assert len({verdict.letters for verdict in first}) > 3
    for found in others:
        assert [(v.letters, v.score) for v in found] == [(v.letters, v.score) for v in first]
        assert sum(v.letter_order != w.letter_order for v, w in zip(found, first, strict=True)) >= len(CASES) - 2


def test_the_ledger_of_a_judge_is_the_servers() -> None:
    async def body(server: MockServer, client: RemoteChat) -> tuple[RoleUsage, list[Verdict], int]:
        usage = RoleUsage()
        found = await verdicts(ChatJudge(client, shipped()), usage)
        return usage, found, server.counters()["paths"]["/v1/chat/completions"]["prompt_tokens"]

    usage, found, served = serve(Settings(), body)
    assert usage.tokens_fed == sum(verdict.tokens["prompt"] for verdict in found) == served


@pytest.mark.parametrize("malformed", [0.5, 1.0])
def test_malformed_verdicts_of_a_server_are_never_scored(malformed: float) -> None:
    """Without a schema the mock has only words for a second request, which holds no rubric, so it mends nothing."""
    settings = ChatJudgeSettings(shuffle=False, json_schema=False)

    async def body(server: MockServer, client: RemoteChat) -> list[Verdict]:
        return await verdicts(ChatJudge(client, shipped(), settings), RoleUsage())

    clean, spoilt = serve(Settings(), body), serve(Settings(malformed=malformed), body)
    unscored = [verdict for verdict in spoilt if verdict.status == "unscored"]
    assert len(unscored) == len(CASES) if malformed == 1.0 else 0 < len(unscored) < len(CASES)
    for before, after in zip(clean, spoilt, strict=True):
        assert (after.score is None) == (after.status == "unscored")
        assert after.score in (None, before.score)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_each_dialect_over_http(dialect: str) -> None:
    served: Literal["openai", "sglang"] = "sglang" if dialect == "sglang" else "openai"

    async def body(server: MockServer, client: RemoteChat) -> list[Verdict]:
        return await verdicts(DecisionsJudge(RemoteDecider(client, DIALECTS[dialect]), shipped()), RoleUsage())

    found = serve(Settings(decisions=served), body)
    assert {verdict.status for verdict in found} == {"ok"}
    for (name, _), verdict in zip(CASES, found, strict=True):
        rubric = shipped()[name].rubric
        assert list(verdict.probabilities) == list(rubric.issues)
        assert verdict.letters == tuple(x for x, p in verdict.probabilities.items() if p > 0.5)
        assert verdict.expected == pytest.approx(rubric.expected_score(verdict.probabilities))
        assert verdict.tokens["prompt"] > 300


def test_a_refusal_of_a_server_leaves_a_reply_unscored() -> None:
    async def body(server: MockServer, client: RemoteChat) -> list[Verdict]:
        return await verdicts(DecisionsJudge(RemoteDecider(client, DIALECTS["openai"]), shipped()), RoleUsage())

    found = serve(Settings(refusals=1.0), body)
    assert {(verdict.status, verdict.score) for verdict in found} == {("unscored", None)}
    assert all("refused to answer for issue A" in verdict.reason for verdict in found)
