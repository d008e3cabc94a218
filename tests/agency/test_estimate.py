"""The forecast of a run: counted by hand, unknown where it is unknown, and near to what a server counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from inferalign.agency.benchmark import carry_out, prepare
from inferalign.agency.estimate import REPLY_TOKENS, VERDICT_TOKENS
from inferalign.agency.requests import EndpointFlags, RunRequest
from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from tests.agency.serving import serving
from tests.mock_server import Settings

SUBJECT, JUDGE = "one@http://127.0.0.1:9/v1", "chat:two@http://127.0.0.1:9/v1"


def prices(path: Path, *models: str) -> Path:
    path.write_text("".join(f'["{model}"]\ninput = 2\noutput = 8\n' for model in models))
    return path


def test_calls_and_tokens_by_hand(tmp_path: Path) -> None:
    request = RunRequest(
        model=SUBJECT,
        run=tmp_path,
        judge=(JUDGE, "scripted"),
        dimension=("encourage_learning",),
        limit=1,
        conditions=("none+followups",),
        repeats=2,
        judge_repeats=3,
    )
    prepared = prepare(request, EndpointFlags(prices=prices(tmp_path / "p.toml", "one")))
    subject, judge = prepared.forecast()
    (item,), dimension = prepared.material.items, prepared.material.dimensions["encourage_learning"]
    turns = [len(text) // 4 + 1 for text in (item.prompt, *dimension.followups)]
    # Each turn is sent with all before it, replies of the assumed length among them.
    fed = turns[0] + (sum(turns[:2]) + REPLY_TOKENS) + (sum(turns) + 2 * REPLY_TOKENS)
    assert (subject.calls, subject.prompt_tokens) == (2 * 3, 2 * fed)
    assert (subject.completion_tokens, subject.completion_most) == (6 * REPLY_TOKENS, 6 * 1000)
    assert subject.cost == pytest.approx((2 * 2 * fed + 8 * 6 * REPLY_TOKENS) / 1e6)
    assert (judge.calls, judge.completion_tokens) == (2 * 3, 6 * VERDICT_TOKENS)
    assert judge.cost is judge.cost_most is None


def test_local_models_and_scripted_judges_ask_no_endpoint(tmp_path: Path) -> None:
    assert prepare(RunRequest(model="sandbox", run=tmp_path, judge=("scripted",))).forecast() == []


def test_a_budget_needs_a_price_in_the_forecast_too(tmp_path: Path) -> None:
    request = RunRequest(model=SUBJECT, run=tmp_path, judge=(JUDGE,), limit=1)
    flags = EndpointFlags(prices=prices(tmp_path / "p.toml", "one"), budget=1)
    with pytest.raises(InputError, match="needs a price for 'two'"):
        prepare(request, flags).forecast()


def test_prompts_are_as_long_as_a_server_counts_them(tmp_path: Path) -> None:
    """The mock's token is four characters, too; its replies are shorter than the assumed ones."""
    with serving(Settings(models="")) as server:
        request = RunRequest(
            model=f"one@{server.url}", run=tmp_path / "run", judge=(f"chat:two@{server.url}",), limit=2
        )
        prepared = prepare(request)
        asyncio.run(carry_out(prepared))
    for row, account in zip(prepared.forecast(), read_json(tmp_path / "run" / "costs.json")["accounts"], strict=True):
        assert row.calls == account["delivered"]
        longer = REPLY_TOKENS * row.calls if row.role == "judge" else 0
        assert account["prompt_tokens"] * 0.97 <= row.prompt_tokens <= account["prompt_tokens"] * 1.03 + longer
