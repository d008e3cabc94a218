"""What calls cost: by hand, by brute force, and never 0 for what is not known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from inferalign.core.errors import InputError, RunError, TransientError
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_ledger import Account, Ledger, Price, read_prices

TOKENS = ChatTokens(prompt=1000, completion=200, cached=400)
PRICE = Price(input=2.0, output=8.0, cached=0.5)


def test_a_price_by_hand() -> None:
    # 600 at 2, 400 at .5, 200 at 8, for a million each
    assert PRICE.of(TOKENS) == pytest.approx(0.0012 + 0.0002 + 0.0016)
    assert Price(input=2.0, output=8.0).of(TOKENS) == pytest.approx(0.002 + 0.0016)


def book(ledger: Ledger, what: str, role: str = "judge", model: str = "m@https://a.example/v1") -> None:
    with ledger.call(ledger.account(role, model), ChatTokens(prompt=2000, completion=1000)) as call:
        if what == "unsent":
            return
        call.sent()
        if what == "refused":
            call.outcome = "refused"
        elif what == "raised":
            raise TransientError("cut short")
        elif what == "untold":
            call.arrived(None)
        elif what == "delivered":
            call.arrived(TOKENS)


def test_what_becomes_of_a_call_is_counted_apart() -> None:
    ledger = Ledger(prices={"m": PRICE})
    for what in ("delivered", "delivered", "refused", "unsent", "undelivered"):
        book(ledger, what)
    with pytest.raises(TransientError):
        book(ledger, "raised")
    book(ledger, "delivered", role="subject")
    assert ledger.summary() == {
        "accounts": [
            {
                "role": "judge",
                "model": "m@https://a.example/v1",
                "delivered": 2,
                "prompt_tokens": 2000,
                "completion_tokens": 400,
                "cached_tokens": 800,
                "untold": 0,
                "refused": 1,
                "undelivered": 2,
                "held": pytest.approx(2 * 0.012),
                "cost": pytest.approx(0.006),
            },
            {
                "role": "subject",
                "model": "m@https://a.example/v1",
                "delivered": 1,
                "prompt_tokens": 1000,
                "completion_tokens": 200,
                "cached_tokens": 400,
                "untold": 0,
                "refused": 0,
                "undelivered": 0,
                "held": 0.0,
                "cost": pytest.approx(0.003),
            },
        ],
        "cost": pytest.approx(0.009),
        # two undelivered calls may have cost 2000 at 2 and 1000 at 8 each
        "cost_at_most": pytest.approx(0.009 + 2 * 0.012),
        "budget": None,
    }


def test_an_unknown_cost_is_none() -> None:
    unpriced = Ledger()
    book(unpriced, "delivered")
    assert (unpriced.cost, unpriced.at_most) == (None, None)
    untold = Ledger(prices={"m": PRICE})
    book(untold, "delivered")
    book(untold, "untold")
    assert untold.cost is None
    assert untold.at_most == pytest.approx(0.003 + 0.012)
    mixed = Ledger(prices={"m": PRICE})
    book(mixed, "delivered")
    book(mixed, "delivered", model="other@https://a.example/v1")
    assert mixed.cost is None
    assert Ledger().cost == 0  # nothing was called


def test_a_price_is_found_with_and_without_the_endpoint() -> None:
    dear, name = Price(input=1e6, output=1e6), "org/m@2026@http://127.0.0.1:1/v1"
    assert Ledger(prices={"org/m@2026": PRICE}).account("judge", name).price == PRICE
    assert Ledger(prices={"org/m@2026": PRICE, name: dear}).account("judge", name).price == dear
    assert Ledger(prices={"org/m": PRICE}).account("judge", name).price is None


def test_the_budget_counts_what_is_reserved_undelivered_and_recalled() -> None:
    # a reservation is .012, a delivered call .003
    ledger = Ledger(prices={"m": PRICE}, budget=0.03)
    book(ledger, "undelivered")
    book(ledger, "refused")
    book(ledger, "delivered")
    account = ledger.account("judge", "m@https://a.example/v1")
    with (
        ledger.call(account, ChatTokens(prompt=2000, completion=1000)),
        pytest.raises(RunError, match=r"budget of 0\.03 has no room .* 0\.027 is spent .* may cost 0\.012"),
    ):
        book(ledger, "delivered")
    book(ledger, "delivered")  # the one that was never sent gave its reservation back
    resumed = Ledger(prices={"m": PRICE}, budget=0.03)
    past = Account(role="judge", model="m@https://a.example/v1", price=None, undelivered=1, held=0.012)
    for _ in range(5):
        past.add(TOKENS)
    resumed.recall(past)
    assert (resumed.cost, resumed.at_most) == (pytest.approx(0.015), pytest.approx(0.027))
    with pytest.raises(RunError, match="raise the budget and repeat the same command"):
        book(resumed, "delivered")


def test_a_budget_waits_for_calls_in_flight_and_not_for_nothing() -> None:
    # A reservation is .012, a delivered call .003: of 40 calls at once, 2 fit, and one after another 9.
    ledger = Ledger(prices={"m": PRICE}, budget=0.0365)
    account, reserve = ledger.account("judge", "m@https://a.example/v1"), ChatTokens(prompt=2000, completion=1000)
    most = 0.0

    async def call() -> None:
        nonlocal most
        await ledger.room(account, reserve)
        with ledger.call(account, reserve) as one:
            most = max(most, ledger.at_most or 0.0)
            one.sent()
            await asyncio.sleep(0)
            one.arrived(TOKENS)

    async def all_at_once() -> list[BaseException | None]:
        return await asyncio.wait_for(asyncio.gather(*(call() for _ in range(40)), return_exceptions=True), 5)

    ended = asyncio.run(all_at_once())
    assert [error for error in ended if error is not None and not isinstance(error, RunError)] == []
    assert ended.count(None) == account.delivered == 9
    assert ledger.cost == pytest.approx(0.027)
    assert most <= 0.0365
    assert "0.027 is spent" in str(next(error for error in ended if error is not None))


@pytest.mark.parametrize("budget", [0, -1, float("nan")])
def test_a_budget_must_pay_for_something(budget: float) -> None:
    with pytest.raises(InputError, match="pays for no call"):
        Ledger(budget=budget)


def test_a_budget_needs_prices() -> None:
    with pytest.raises(InputError, match=r"a budget needs a price for 'm': add a table \['m'\] to the price file"):
        Ledger(budget=1.0).account("judge", "m@https://a.example/v1")


def test_prices_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('["gpt-x"]\ninput = 2\noutput = 8.0\ncached = 0.5\n\n[local]\ninput = 0\noutput = 0\n')
    assert read_prices(path) == {"gpt-x": PRICE, "local": Price(input=0, output=0)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[m]\ninput = 1\n", "give input and output"),
        ("m = 1\n", "give input and output"),
        ("[m]\ninput = 1\noutput = 1\nother = 1\n", "give input and output"),
        ("[m]\ninput = -1\noutput = 1\n", "input = -1 is no price"),
        ("[m]\ninput = nan\noutput = 1\n", "input = nan is no price"),
        ("[m]\ninput = true\noutput = 1\n", "input = True is no price"),
    ],
)
def test_a_file_that_holds_no_prices(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"prices\.toml: \['m'\].*{words}"):
        read_prices(path)
