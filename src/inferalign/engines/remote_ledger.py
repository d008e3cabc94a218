"""What calls to endpoints cost, by role and model, and the budget that they must not pass.

Four things can become of a call that was sent, and they are never added up:

    delivered     its answer came in full: its tokens are what the server said, and sum to the server's own counters
    untold        ... in full, but the server did not say what it cost
    refused       the server answered with an error status, such as 429
    undelivered   the answer never came, came cut short, or could not be read; the server may have billed it

A price that is not known is None, and so is every sum that it belongs to: never 0.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from inferalign.core.config import read_toml
from inferalign.core.errors import InputError, RunError
from inferalign.engines.chat_api import ChatRequest, ChatTokens

MILLION = 1_000_000
COUNTS = ("delivered", "prompt_tokens", "completion_tokens", "cached_tokens", "untold", "refused", "undelivered")
"""Of an account: whole numbers."""
ASSUMED_TOKENS = 4096
"""Reserved for a reply without a `max_tokens`."""
BYTES_A_TOKEN = 3
"""For reservations. Texts mostly have 3.5 to 5, so that a reservation is rarely less than the cost."""
TOKENS_A_MESSAGE = 8
"""For the marks around it."""


def most_tokens(text: str) -> int:
    """What a message of this text may have, for a reservation."""
    # A lone surrogate, which a server's JSON may hold, has no UTF-8 form; in ours it travels as its JSON escape.
    return len(text.encode("utf-8", "surrogatepass")) // BYTES_A_TOKEN + TOKENS_A_MESSAGE


def reservation(request: ChatRequest) -> ChatTokens:
    """What a call may cost at most."""
    return ChatTokens(
        prompt=sum(most_tokens(message.content) for message in request.messages),
        completion=ASSUMED_TOKENS if request.max_tokens is None else request.max_tokens,
    )


@dataclass(frozen=True, kw_only=True)
class Price:
    """For a million tokens each, in a currency of the user's choice."""

    input: float
    output: float
    cached: float | None = None
    """None: input tokens that the server had cached cost what the others do."""

    def of(self, tokens: ChatTokens) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh = tokens.prompt - tokens.cached
        return (fresh * self.input + tokens.cached * cached + tokens.completion * self.output) / MILLION


def read_prices(path: Path | str) -> dict[str, Price]:
    """Prices by model from a TOML file: a table `["MODEL"]` each, with `input`, `output` and perhaps `cached`.

    Raises `InputError` that names the file and the model.
    """
    prices = {}
    for model, table in read_toml(path).items():
        where = f"{path}: [{model!r}]"
        if not isinstance(table, dict) or not {"input", "output"} <= table.keys() <= {"input", "output", "cached"}:
            raise InputError(f"{where} is no price: give input and output, for a million tokens, and perhaps cached")
        for name, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"{where}: {name} = {value!r} is no price: give a number of 0 or more")
        prices[model] = Price(**table)
    return prices


@dataclass(kw_only=True)
class Account:
    """The calls of one role to one model."""

    role: str
    """What the calls were for: subject, judge, generator, ..."""
    model: str
    """As the user named it, endpoint included."""
    price: Price | None
    delivered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of `prompt_tokens`."""
    untold: int = 0
    """Of `delivered`."""
    refused: int = 0
    undelivered: int = 0
    held: float = 0.0
    """What the undelivered and the untold may have cost at most: what they reserved. 0 without a price."""

    @property
    def cost(self) -> float | None:
        """Of what was delivered; None when the price or a part of the tokens is not known."""
        if self.price is None or self.untold:
            return None
        return self.price.of(self.tokens)

    @property
    def tokens(self) -> ChatTokens:
        """Of what was delivered, as far as the server said."""
        return ChatTokens(prompt=self.prompt_tokens, completion=self.completion_tokens, cached=self.cached_tokens)

    def add(self, tokens: ChatTokens | None) -> None:
        """A call that was delivered; None: the server did not say what it cost."""
        self.delivered += 1
        if tokens is None:
            self.untold += 1
        else:
            self.prompt_tokens += tokens.prompt
            self.completion_tokens += tokens.completion
            self.cached_tokens += tokens.cached


@dataclass
class Call:
    """One call on its way. Whoever carries it says what became of it."""

    outcome: Literal["unsent", "delivered", "refused", "undelivered"] = "unsent"
    tokens: ChatTokens | None = None

    def sent(self) -> None:
        """From here on it may be billed, whatever happens."""
        self.outcome = "undelivered"

    def arrived(self, tokens: ChatTokens | None) -> None:
        self.outcome, self.tokens = "delivered", tokens


@dataclass(kw_only=True)
class Ledger:
    """The accounts of a run. One event loop."""

    prices: Mapping[str, Price] = field(default_factory=dict)
    """By the model's name, with its endpoint (`MODEL@URL`) or without."""
    budget: float | None = None
    """In the currency of the prices; None: no limit."""
    accounts: dict[tuple[str, str], Account] = field(default_factory=dict)
    _committed: float = 0.0
    """Spent, in flight at its reservation, or undelivered at its reservation."""
    _in_flight: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the next call comes to its end, and then another one."""

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise InputError(f"a budget of {self.budget:g} pays for no call: give one above 0, or leave it out")

    def account(self, role: str, model: str) -> Account:
        """The account of `role` with `model` (a name as the user gave it), opened if need be.

        Raises `InputError` when there is a budget and no price: an unknown cost cannot be kept under it.
        """
        if (role, model) not in self.accounts:
            bare = re.sub(r"@https?://.*", "", model)
            price = self.prices.get(model, self.prices.get(bare))
            if price is None and self.budget is not None:
                raise InputError(f"a budget needs a price for {bare!r}: add a table [{bare!r}] to the price file")
            self.accounts[role, model] = Account(role=role, model=model, price=price)
        return self.accounts[role, model]

    def recall(self, past: Account) -> None:
        """Adds what an earlier start of the run spent; it counts towards the budget.

        Raises `InputError` as `account` does.
        """
        account = self.account(past.role, past.model)
        for name in COUNTS:
            setattr(account, name, getattr(account, name) + getattr(past, name))
        account.held += past.held
        self._committed += past.held + (0.0 if account.price is None else account.price.of(past.tokens))

    async def room(self, account: Account, reserve: ChatTokens) -> None:
        """Waits while the budget has no room for a call only because of others that are in flight.

        They cost less than they reserve, often a tenth: without this a few calls at once would use a budget up.
        """
        while self._in_flight and not self._fits(account, reserve):
            await self._ended.wait()

    def _fits(self, account: Account, reserve: ChatTokens) -> bool:
        return self.budget is None or self._committed + _most(account, reserve) <= self.budget

    @contextmanager
    def call(self, account: Account, reserve: ChatTokens) -> Iterator[Call]:
        """Reserves what a call may cost at most; at the end, books what became of it.

        Raises `RunError` when the budget has no room for it; whoever can wait for that awaits `room` just before.
        """
        most = _most(account, reserve)
        if not self._fits(account, reserve):
            raise RunError(
                f"the budget of {self.budget:g} has no room for another call: {self._committed:.4g} is spent or "
                f"reserved, and a call to {account.model} ({account.role}) may cost {most:.4g}. What is finished is "
                "kept: raise the budget and repeat the same command."
            )
        self._committed += most
        self._in_flight += 1
        call = Call()
        try:
            yield call
        finally:
            if call.outcome == "delivered":
                account.add(call.tokens)
            elif call.outcome == "refused":
                account.refused += 1
            elif call.outcome == "undelivered":
                account.undelivered += 1
            # What may have been billed without our seeing it stays reserved: a budget is an upper limit.
            if call.outcome in ("unsent", "refused"):
                self._committed -= most
            elif account.price is not None and call.tokens is not None:
                self._committed += account.price.of(call.tokens) - most
            else:
                account.held += most
            self._in_flight -= 1
            self._ended.set()
            self._ended = asyncio.Event()

    @property
    def cost(self) -> float | None:
        """Of all that was delivered; None when one account's cost is not known, and for a run without calls 0."""
        costs = [account.cost for account in self.accounts.values() if account.delivered]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def at_most(self) -> float | None:
        """The cost if every undelivered or untold call was billed at its reservation; None without all prices."""
        if any(account.price is None for account in self.accounts.values()):
            return None
        return self._committed

    def summary(self) -> dict[str, Any]:
        """JSON values for a run's metrics: one row an account, and the sums. An unknown cost is null."""
        rows = [
            {
                "role": account.role,
                "model": account.model,
                **{name: getattr(account, name) for name in COUNTS},
                "held": account.held,
                "cost": account.cost,
            }
            for account in self.accounts.values()
        ]
        return {"accounts": rows, "cost": self.cost, "cost_at_most": self.at_most, "budget": self.budget}


def _most(account: Account, reserve: ChatTokens) -> float:
    """What a call may cost; 0 where no price is known, which a budget does not allow."""
    return 0.0 if account.price is None else account.price.of(reserve)
