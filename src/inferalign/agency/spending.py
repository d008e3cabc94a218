"""What earlier starts of a run spent, booked from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_ledger import Account, Ledger


def recall(account: Account, ledger: Ledger, spent: Sequence[Mapping[str, int]]) -> None:
    """Books one record after another: `requests`, and `prompt`, `completion`, `cached` where the server told them."""
    for tokens in spent:
        requests = tokens.get("requests", 0)
        if not requests:
            continue  # such as an empty reply, which no judge was asked about
        told = None
        if "prompt" in tokens:
            told = ChatTokens(**{name: tokens.get(name, 0) for name in ("prompt", "completion", "cached")})
        ledger.recall(account, told)
        # A record may stand for several calls: turns, or a repair.
        account.delivered += requests - 1
        account.untold += 0 if told else requests - 1
