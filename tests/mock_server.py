"""An OpenAI-compatible server that knows nothing, answers at once and breaks on demand: for tests and benchmarks.

    python -m tests.mock_server --port 8000 --latency 0.2 --errors 0.3     prints {"url": "http://127.0.0.1:8000/v1"}

    POST /v1/chat/completions   an answer, or a verdict where the prompt has rubric letters and `judge` is on
    POST /v1/completions        token ids in, token ids out (as vLLM's return_token_ids)
    POST /v1/embeddings         hashed bags of words
    POST /v1/systemone          System One: state, questions by name; noul, choice, score
    POST /v1/decisions          OpenAI's dialect (predicate, an ordered list, refusals) or SGLang's (yes_no, by id)
    GET  /v1/models, /counters  what is served; what was asked and what was delivered in full

An answer depends on the content of the request alone, so that no fault, order or repeat changes it. A fault depends on
the content and on how often it has come: with `errors` below 1, the tenth time always succeeds. Only answers that were
written to their end count as delivered; their tokens are those of the `usage` that they carry.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Self

from aiohttp import web

from tests.mock_answers import Answers, Body, Refused, Settings, unit

FAULTS = ("429", "500", "drop", "hang", "garbage")
"""A status, a body that ends half way, an answer that never comes, a body that is not JSON."""
LAST_FAULT = 9
"""From this attempt on (counted from 0) nothing fails."""


@dataclass
class Path:
    """What happened at one path."""

    requests: int = 0
    delivered: int = 0
    """Answers that were written to their end."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of what was delivered."""
    statuses: Counter[str] = field(default_factory=Counter)
    """By status, and by fault for those that have none: drop, hang, garbage."""


class MockServer:
    """The server, in the running event loop: `async with MockServer(Settings(latency=0.2)) as server: server.url`."""

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.settings = settings
        self.paths: dict[str, Path] = {}
        self.arrivals: deque[float] = deque(maxlen=1_000_000)
        """Times of the requests that were not refused for their rate, monotonic."""
        self.over_limit = 0
        self.most_at_once = 0
        self._at_once = 0
        self._attempts: Counter[bytes] = Counter()
        self._stopping = asyncio.Event()
        answers = Answers(settings)
        self._answers = {
            "/v1/chat/completions": answers.chat,
            "/v1/completions": answers.completion,
            "/v1/embeddings": answers.embeddings,
            "/v1/systemone": answers.system_one,
            "/v1/decisions": answers.decisions,
        }

    async def __aenter__(self) -> Self:
        # One handler, without routes and middleware: a request costs about a third of a millisecond.
        self._runner = web.ServerRunner(web.Server(self._handle), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.settings.port, reuse_address=True)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._runner.cleanup()

    def counters(self) -> Body:
        """JSON values: by path, and the most requests at once and in any 60 seconds."""
        paths = {
            path: {
                "requests": seen.requests,
                "delivered": seen.delivered,
                "prompt_tokens": seen.prompt_tokens,
                "completion_tokens": seen.completion_tokens,
                "statuses": dict(seen.statuses),
            }
            for path, seen in self.paths.items()
        }
        return {
            "paths": paths,
            "over_limit": self.over_limit,
            "most_at_once": self.most_at_once,
            "most_a_minute": most_in_window(self.arrivals, 60.0),
        }

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return self._get(request.path)
        arrived = time.monotonic()
        data = await request.read()
        seen = self.paths.setdefault(request.path, Path())
        seen.requests += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._admit(request, arrived)
            body = self._read(data)
            content = hashlib.sha256(request.path.encode() + data).digest()
            attempt = self._attempts[content]
            self._attempts[content] += 1
            if self.settings.latency:
                await asyncio.sleep(self.settings.latency)
            if (fault := self._fault(content, attempt)) is not None:
                return await self._fail(request, seen, fault)
            if request.path not in self._answers:
                raise Refused(404, f"no path {request.path}")
            return await self._deliver(request, seen, self._answers[request.path](body))
        except Refused as refused:
            seen.statuses[str(refused.status)] += 1
            error = {"message": str(refused), "type": "invalid_request_error", "code": refused.code or None}
            headers = {"Retry-After": f"{self.settings.retry_after:g}"} if refused.status == 429 else None
            return web.json_response({"error": error}, status=refused.status, headers=headers)
        finally:
            self._at_once -= 1

    def _get(self, path: str) -> web.Response:
        if path == "/counters":
            return web.json_response(self.counters())
        if path == "/v1/models":
            data = [{"id": model, "object": "model"} for model in self.settings.models.split(",") if model]
            return web.json_response({"object": "list", "data": data})
        return web.json_response({"error": {"message": f"no path {path}"}}, status=404)

    def _admit(self, request: web.BaseRequest, arrived: float) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.settings.key and token != self.settings.key:
            raise Refused(401, f"Incorrect API key provided: {token}", "invalid_api_key")
        limit = self.settings.requests_per_minute
        if limit and len(self.arrivals) >= limit and self.arrivals[-limit] > arrived - 60.0:
            self.over_limit += 1
            raise Refused(429, "Rate limit reached", "rate_limit_exceeded")
        self.arrivals.append(arrived)

    def _read(self, data: bytes) -> Body:
        try:
            body = json.loads(data)
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from error
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise Refused(400, "model is missing")
        if self.settings.models and body["model"] not in self.settings.models.split(","):
            raise Refused(404, f"The model {body['model']!r} does not exist", "model_not_found")
        return body

    def _fault(self, content: bytes, attempt: int) -> str | None:
        if attempt >= LAST_FAULT or unit("fault", content.hex(), attempt) >= self.settings.errors:
            return None
        kinds = self.settings.faults.split(",")
        return kinds[int(unit("kind", content.hex(), attempt) * len(kinds))]

    async def _fail(self, request: web.BaseRequest, seen: Path, fault: str) -> web.StreamResponse:
        if fault in ("429", "500"):
            raise Refused(int(fault), "Rate limit reached" if fault == "429" else "The server had an error")
        seen.statuses[fault] += 1
        if fault == "garbage":
            return web.Response(body=b'{"choices": [{"message": ', content_type="application/json")
        if fault == "hang":
            await self._stopping.wait()
        response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"id": "mock", "choices": [{"mess')
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _deliver(self, request: web.BaseRequest, seen: Path, answer: Body) -> web.StreamResponse:
        response = web.json_response(answer)
        await response.prepare(request)
        await response.write_eof()  # raises when the client has gone: then nothing was delivered
        usage = answer["usage"]
        seen.statuses["200"] += 1
        seen.delivered += 1
        seen.prompt_tokens += usage.get("prompt_tokens", usage.get("input_tokens"))
        seen.completion_tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))
        return response


def most_in_window(times: Sequence[float] | deque[float], seconds: float) -> int:
    """The most of the ascending times in any half-open window of that length."""
    most, window = 0, deque[float]()
    for at in times:
        window.append(at)
        while window[0] <= at - seconds:
            window.popleft()
        most = max(most, len(window))
    return most


async def serve(settings: Settings) -> None:
    async with MockServer(settings) as server:
        sys.stdout.write(json.dumps({"url": server.url}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for one in fields(Settings):
        flag = "--" + one.name.replace("_", "-")
        if isinstance(one.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=one.default)
        else:
            parser.add_argument(flag, type=type(one.default), default=one.default)
    settings = Settings(**vars(parser.parse_args()))
    if unknown := set(settings.faults.split(",")) - set(FAULTS):
        parser.error(f"--faults {sorted(unknown)[0]}: expected some of {','.join(FAULTS)}")
    try:
        asyncio.run(serve(settings))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
