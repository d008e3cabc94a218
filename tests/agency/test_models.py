"""Models of a run: roles at one URL share its connections and its pace, and each books its own calls."""

from __future__ import annotations

import asyncio

import pytest

from inferalign.agency.models import Models
from inferalign.core.errors import InputError
from inferalign.engines.remote_http import Endpoint, RemoteOptions
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.remote_names import DEFAULT_KEY
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


def test_one_key_goes_to_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreached(endpoint: Endpoint) -> list[str]:
        return []

    monkeypatch.setattr(Endpoint, "models", unreached)
    monkeypatch.setenv(DEFAULT_KEY, "secret")
    monkeypatch.setenv("JUDGE_KEY", "other secret")

    async def main() -> None:
        async with Models(RemoteOptions(), ModelOptions(), Ledger()) as models:
            await models.endpoint("one@https://a.example/v1", "subject")
            await models.endpoint("two@https://a.example/v2", "judge")
            await models.endpoint("three@http://localhost:8000/v1", "judge")
            await models.endpoint("four@https://b.example/v1", "judge", key_variable="JUDGE_KEY")
            with pytest.raises(InputError, match=r"would go to two hosts, a\.example and b\.example: name a") as caught:
                await models.endpoint("four@https://b.example/v1", "judge")
            assert "secret" not in str(caught.value)
            monkeypatch.delenv(DEFAULT_KEY)
            await models.endpoint("four@https://b.example/v1", "judge")

    asyncio.run(main())
