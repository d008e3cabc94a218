"""The models of a run, each opened once whatever its roles: endpoints by their URL, local models by their name.

A model that is served is named `MODEL@URL`, or `inspect:PROVIDER/MODEL` for the providers that only Inspect reaches.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from inferalign.agency.inspect_transport import PREFIX, InspectChat, open_inspect
from inferalign.core.errors import ContextOverflow, InputError, RunError
from inferalign.engines.chat_api import ChatClient
from inferalign.engines.remote import RemoteChat, open_chat
from inferalign.engines.remote_http import Endpoint, RemoteOptions
from inferalign.engines.remote_ledger import Ledger
from inferalign.engines.remote_limits import Limiter
from inferalign.engines.remote_names import is_loopback, is_remote, parse_name
from inferalign.engines.table import LoadedModel, ModelOptions, load

Job = TypeVar("Job")
Made = TypeVar("Made")


class Models:
    """Use it in an `async with`, which ends all connections."""

    def __init__(self, remote: RemoteOptions, local: ModelOptions, ledger: Ledger) -> None:
        self.ledger = ledger
        self._remote = remote
        self._local = local
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._inspect: dict[str, Limiter] = {}
        self._open: list[InspectChat] = []
        self._loaded: dict[str, LoadedModel] = {}

    async def chat(self, name: str, role: str, *, key_variable: str | None = None) -> ChatClient:
        """A model that is served, in a role. Raises as `open_chat` and `open_inspect` do."""
        if not name.startswith(PREFIX):
            return await self.endpoint(name, role, key_variable=key_variable)
        pace = self._inspect.setdefault(name, Limiter(self._remote.requests_per_minute, self._remote.tokens_per_minute))
        client = open_inspect(name, role=role, ledger=self.ledger, limiter=pace, concurrency=self._remote.concurrency)
        self._open.append(client)
        return client

    async def endpoint(self, name: str, role: str, *, key_variable: str | None = None) -> RemoteChat:
        """The model `MODEL@URL` in a role. Roles at one URL and key share its connections, calls in flight and pace.

        Raises as `engines.remote.open_chat` does, and `InputError` for one key that would go to two hosts.
        """
        model, url = parse_name(name)
        options = replace(self._remote, key_variable=key_variable or self._remote.key_variable)
        self._check_key(url, options.key_variable)
        shared = self._endpoints.get((url, options.key_variable))
        if shared is not None and model is not None:
            return RemoteChat(shared, model, role=role, ledger=self.ledger)
        client = await open_chat(name, options, role=role, ledger=self.ledger)
        if shared is None:
            self._endpoints[url, options.key_variable] = client.endpoint
            return client
        # Only its name was wanted: a pace of its own would break the limit.
        await client.aclose()
        return RemoteChat(shared, client.model, role=role, ledger=self.ledger)

    def _check_key(self, url: str, variable: str) -> None:
        """One provider's key is none of another's business; a server on this machine may see any."""
        if is_loopback(url) or not os.environ.get(variable, "").strip():
            return
        host = urlsplit(url).hostname
        for other, of_other in self._endpoints:
            if of_other == variable and not is_loopback(other) and urlsplit(other).hostname != host:
                raise InputError(
                    f"the key in {variable} would go to two hosts, {urlsplit(other).hostname} and {host}: name a "
                    "variable for each role's key, such as --judge-key-variable JUDGE_KEY (it may hold the same key)"
                )

    def local(self, name: str) -> LoadedModel:
        """Raises `ModelError`."""
        key = same_model(name)
        if key not in self._loaded:
            self._loaded[key] = load(name, self._local)
        return self._loaded[key]

    async def __aenter__(self) -> Models:
        return self

    async def __aexit__(self, *_: object) -> None:
        for endpoint in self._endpoints.values():
            await endpoint.aclose()
        for client in self._open:
            await client.aclose()


def is_served(name: str) -> bool:
    """Whether a model's name means one that is asked over a network."""
    return name.startswith(PREFIX) or is_remote(name)


def check_served(name: str) -> None:
    """Raises `InputError` for a name that cannot be one of a served model."""
    if not name.startswith(PREFIX):
        parse_name(name)


def about_the_run(error: InputError) -> InputError | RunError:
    """A refused key, a missing model or an impossible limit meets every item: it stops the run. A long text does not.

    The caller raises it.
    """
    return error if isinstance(error, ContextOverflow) else RunError(str(error))


def run_wide(work: Callable[[Job], Awaitable[Made]]) -> Callable[[Job], Awaitable[Made]]:
    """`work` for `run_jobs`, which takes an `InputError` for a fault of one item."""

    async def careful(job: Job) -> Made:
        try:
            return await work(job)
        except InputError as error:
            raise about_the_run(error) from error

    return careful


def same_model(name: str) -> str:
    """Equal for two names of one local model: the place of a directory, or the name itself."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
