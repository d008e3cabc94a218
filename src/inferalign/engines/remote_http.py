"""One HTTP endpoint: its URL, its key, its connections, its limits. What is said over it is not known here.

Nothing is retried: a call that failed raises, and whoever runs the job decides. Redirects are not followed and
proxies of the environment are not used, so that a key goes to the named host and to no other.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from inferalign.core.errors import InputError, TransientError
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote_errors import one_line, status_error
from inferalign.engines.remote_ledger import Account, Call, Ledger
from inferalign.engines.remote_limits import Limiter
from inferalign.engines.remote_names import DEFAULT_KEY, is_loopback

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 30.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How an endpoint is used."""

    key_variable: str = DEFAULT_KEY
    """The environment variable that holds the key; without one in the default, none is sent."""
    key_over_http: bool = False
    """Send the key over http:// to other machines too, where anybody on the way can read it."""
    concurrency: int = 16
    """Calls in flight at most. A limit of R calls a minute at L seconds each needs R * L / 60 of them."""
    timeout: float = 600.0
    """Seconds from sending a call to the end of its answer."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the limit of a chat reply; OpenAI's reasoning models take the second alone."""


class Answer(NamedTuple):
    """A response that came in full."""

    body: Mapping[str, Any]
    request_id: str | None
    seconds: float
    """From sending to the end of the response."""


class _Exchange(NamedTuple):
    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    seconds: float


class Unreadable(ValueError):
    """Raised by a reader of answers: the JSON is not of the expected shape."""


def usage_of(body: Mapping[str, Any]) -> ChatTokens | None:
    """The `usage` of an answer in either of OpenAI's spellings; None when it is missing or unreadable."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens", 0))  # decisions and embeddings have none
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = (details.get("cached_tokens") if isinstance(details, dict) else 0) or 0
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in (prompt, completion, cached)):
        return None
    return ChatTokens(prompt=prompt, completion=completion, cached=min(cached, prompt))  # type: ignore[type-var, arg-type]


class _Key(NamedTuple):
    value: str | None
    advice: str
    """What to type when the server refuses it."""


def _key(options: RemoteOptions, url: str) -> _Key:
    """The key that may be sent to `url`. Raises `InputError` when a variable that was named holds none."""
    variable = options.key_variable
    value = os.environ.get(variable, "").strip()
    if not value:
        if variable != DEFAULT_KEY:
            raise InputError(f"the environment variable {variable} is not set: type export {variable}=...")
        return _Key(None, f"No key was sent: type export {variable}=...")
    if not (value.isascii() and value.isprintable()):
        raise InputError(f"the environment variable {variable} holds no key: it has characters that no header takes")
    if urlsplit(url).scheme == "http" and not is_loopback(url) and not options.key_over_http:
        advice = "use https://, or a tunnel to a port of this machine (in Python: key_over_http=True)"
        return _Key(None, f"The key in {variable} was not sent over http://: {advice}")
    return _Key(value, f"Check the key in {variable}")


class Endpoint:
    """Connections to one URL, opened on first use in the running event loop; close them with `async with`, `aclose`."""

    def __init__(self, url: str, options: RemoteOptions, *, limiter: Limiter | None = None) -> None:
        """`url` is one of `parse_name`. `limiter`: one that several endpoints share; None makes it from the options.

        Raises `InputError` for a key variable that is named and empty, and for options out of range.
        """
        if options.concurrency < 1 or not options.timeout > 0:
            raise InputError(
                f"concurrency {options.concurrency} and timeout {options.timeout}: expected at least 1, and above 0"
            )
        self.url = url
        self.options = options
        self._key = _key(options, url)
        self._limiter = limiter or Limiter(options.requests_per_minute, options.tokens_per_minute)
        self._slots = asyncio.Semaphore(options.concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._reached = False
        """Whether it has ever answered: before, a refused connection is a wrong URL, after it a server that is down."""

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends all connections; a later call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], T],
        *,
        ledger: Ledger,
        account: Account,
        reserve: ChatTokens,
    ) -> tuple[T, Answer]:
        """POSTs JSON and reads the JSON that comes back.

        Args:
            read: raises `Unreadable` for a shape it does not expect; then the answer counts as undelivered.
            reserve: what the call may cost at most, for the limits and the budget.

        Raises `RunError` for a budget without room, and the errors of `remote_errors`.
        """
        await ledger.room(account, reserve)
        with ledger.call(account, reserve) as call:
            # A slot before the turn: whoever has a turn leaves at once, as the limits' arithmetic supposes.
            async with self._slots:
                turn = await self._limiter.turn(reserve.prompt + reserve.completion)
                exchange = await self._exchange("POST", path, json.dumps(body).encode(), call)
            answer = Answer(self._body(exchange), exchange.headers.get("x-request-id"), exchange.seconds)
            try:
                value = read(answer.body)
            except Unreadable as error:
                why = one_line(str(error), self._key.value)  # it may quote the server
                raise TransientError(f"{self.url}{path} gave an answer that cannot be read: {why}") from error
            tokens = usage_of(answer.body)
            call.arrived(tokens)
            if tokens is not None:
                turn.settle(tokens.prompt + tokens.completion)
            return value, answer

    async def models(self) -> list[str] | None:
        """The models that it lists; None for a server without a list. Finds out whether URL and key are right."""
        exchange = await self._exchange("GET", "/models", None, Call())
        # 403: a key that may ask the models and not list them, as OpenAI's restricted ones. A wrong one gets a 401.
        if exchange.status in (403, 404, 405, 501):
            return None
        data = self._body(exchange).get("data")
        if not isinstance(data, list):
            return None
        return [entry["id"] for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    def _body(self, exchange: _Exchange) -> Mapping[str, Any]:
        """The JSON object of a 200. Raises what `remote_errors` says of any other status."""
        url, status, headers, content, _ = exchange
        if status != 200:
            raise status_error(status, headers, content, url=url, key=self._key.value, key_advice=self._key.advice)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TransientError(f"{url} gave an answer that is not JSON") from error
        if not isinstance(body, dict):
            raise TransientError(f"{url} gave an answer that is not a JSON object")
        return body

    async def _exchange(self, method: str, path: str, data: bytes | None, call: Call) -> _Exchange:
        """A request and all of its response, whatever the status. The one place where aiohttp's errors become ours.

        `call` is told how far it came.
        """
        session = self._open()
        import aiohttp

        url = f"{self.url}{path}"
        started = time.monotonic()
        call.sent()
        try:
            async with session.request(method, url, data=data, allow_redirects=False) as response:
                content = await response.read()
                status, headers = response.status, response.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            call.outcome = "unsent"
            raise self._unreachable(error) from error
        except aiohttp.InvalidURL as error:
            call.outcome = "unsent"
            raise InputError(f"{self.url!r} is no URL: type one such as https://api.example.com/v1") from error
        except TimeoutError as error:
            raise TransientError(f"{url} gave no answer within {self.options.timeout:g} s") from error
        except aiohttp.ClientError as error:
            self._reached = True
            raise TransientError(f"{url} broke the connection off ({type(error).__name__})") from error
        self._reached = True
        if status != 200:
            call.outcome = "refused"
        return _Exchange(url, status, headers, content, time.monotonic() - started)

    def _unreachable(self, error: Exception) -> InputError | TransientError:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        if self._reached:
            return TransientError(f"{self.url} cannot be reached any more ({why})")
        return InputError(f"{self.url} cannot be reached ({why}): start the server, or check the URL in MODEL@URL")

    def _open(self) -> aiohttp.ClientSession:
        """The session, made in the running loop. Raises `InputError` when aiohttp is not installed."""
        if self._session is None:
            try:
                import aiohttp
            except ModuleNotFoundError as error:
                raise InputError(
                    f"{self.url} needs aiohttp, which is not installed. Type: pip install 'inferalign[agency]'"
                ) from error
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if self._key.value is not None:
                headers["Authorization"] = f"Bearer {self._key.value}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.options.concurrency),
                timeout=aiohttp.ClientTimeout(total=self.options.timeout, sock_connect=CONNECT_SECONDS),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session
