"""Models of a run: roles at one URL share its connections and its pace, and each books its own calls."""

from __future__ import annotations

import asyncio

import pytest

from inferalign.agency.models import Models
from inferalign.engines.remote_http import DEFAULT_KEY, RemoteOptions
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.table import ModelOptions
from tests.mock_server import MockServer, Settings


def test_roles_at_one_url_share_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_KEY, raising=False)
    monkeypatch.setenv("OTHER_KEY", "k")

    async def main() -> None:
        ledger = Ledger()
        async with (
            MockServer(Settings(models="one")) as server,
            Models(RemoteOptions(), ModelOptions(), ledger) as models,
        ):
            subject = await models.endpoint(f"one@{server.url}", "subject")
            judge = await models.endpoint(f"two@{server.url}/", "judge")
            named_by_url = await models.endpoint(server.url, "generator")
            elsewhere = await models.endpoint(f"one@{server.url}", "judge", key_variable="OTHER_KEY")
            assert subject.endpoint is judge.endpoint is named_by_url.endpoint
            assert named_by_url.model == "one"
            # Another key is another account of the server's, with limits of its own.
            assert elsewhere.endpoint is not subject.endpoint
            assert {role for role, _ in ledger.accounts} == {"subject", "judge", "generator"}

    asyncio.run(main())
