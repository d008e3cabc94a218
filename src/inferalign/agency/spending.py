"""What earlier starts of a run spent: as their records say, or as the last of them said when it ended.

A record knows what made it. Calls that came to no record (a verdict whose repair failed, a conversation that was not
finished, what was refused or never arrived) stand in `costs.json` alone, which a killed start has not written. So of
each account the better informed of the two counts, which is the one with more delivered calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inferalign.core.files import read_json
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_ledger import COUNTS, Account, Ledger

Spent = Mapping[tuple[str, str], Sequence[Mapping[str, int]]]
"""(role, model) -> of each record `requests`, and `prompt`, `completion`, `cached` where the server told them."""


def recall(ledger: Ledger, costs: Path, spent: Spent) -> None:
    """Books what earlier starts spent, before this one asks anything.

    Args:
        costs: the run's `costs.json`, if there is one.
        spent: the records of endpoints and of others, which have no `requests`.

    Raises `InputError` where there is a budget and no price for a model that was asked, `RunError` for a damaged file.
    """
    rows = read_json(costs)["accounts"] if costs.exists() else []
    told = {(row["role"], row["model"]): _told(row) for row in rows}
    for who in {**told, **spent}:
        recorded = _recorded(who, spent.get(who, ()))
        past = told.get(who, recorded)
        if past.delivered < recorded.delivered:
            recorded.refused, recorded.undelivered, recorded.held = past.refused, past.undelivered, past.held
            past = recorded
        if any(getattr(past, name) for name in COUNTS):
            ledger.recall(past)


def _told(row: Mapping[str, Any]) -> Account:
    counts = {name: row[name] for name in COUNTS}
    return Account(role=row["role"], model=row["model"], price=None, held=row["held"], **counts)


def _recorded(who: tuple[str, str], spent: Sequence[Mapping[str, int]]) -> Account:
    account = Account(role=who[0], model=who[1], price=None)
    for tokens in spent:
        requests = tokens.get("requests", 0)
        if not requests:
            continue  # a local model's, or an empty reply, which no judge was asked about
        told = "prompt" in tokens
        account.add(ChatTokens(**{name: tokens.get(name, 0) for name in _TOLD}) if told else None)
        # A record may stand for several calls: turns, or a repair.
        account.delivered += requests - 1
        account.untold += 0 if told else requests - 1
    return account


_TOLD = ("prompt", "completion", "cached")
