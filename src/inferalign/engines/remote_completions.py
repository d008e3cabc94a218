"""Completions of token ids by an OpenAI-compatible endpoint.

They take token ids and give token ids back where the server can (vLLM's `return_token_ids`). They are not an `Engine`:
no such server embeds a prefix or gives the probability of any label that is asked for, and none promises equal draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from inferalign.core.types import TokenIds
from inferalign.engines.chat_api import ChatTokens
from inferalign.engines.remote import Finish, RemoteModel, finish_of, first_choice
from inferalign.engines.remote_http import Unreadable, usage_of


@dataclass(frozen=True, kw_only=True)
class CompletionReply:
    """What follows a prefix of token ids."""

    text: str
    token_ids: TokenIds | None
    """None when the server does not give them; never encoded from the text."""
    logprobs: tuple[float, ...] | None
    """Per token, natural log, as the server says them; None when they were not asked for or not given."""
    finish: Finish
    tokens: ChatTokens | None
    model: str
    seconds: float


class RemoteCompletions(RemoteModel):
    """`POST {url}/completions`, token ids in and, from servers with `return_token_ids` (vLLM), token ids out."""

    async def complete(
        self,
        prefix: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        seed: int | None = None,
        return_ids: bool = True,
        return_logprobs: bool = False,
    ) -> CompletionReply:
        """One continuation. `return_ids=False` is for servers that refuse the parameter.

        Raises as `ChatClient.chat` does.
        """
        sent = list(prefix)
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": sent,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if seed is not None:
            body["seed"] = seed
        if return_ids:
            body["return_token_ids"] = True
        if return_logprobs:
            body["logprobs"] = 1
        choice, answer = await self.endpoint.post(
            "/completions",
            body,
            lambda got: _read_completion(got, sent, return_logprobs),
            ledger=self._ledger,
            account=self._account,
            reserve=ChatTokens(prompt=len(sent), completion=max_tokens),
        )
        return CompletionReply(
            text=choice.text,
            token_ids=choice.token_ids,
            logprobs=choice.logprobs,
            finish=choice.finish,
            tokens=usage_of(answer.body),
            model=str(answer.body.get("model") or self.model),
            seconds=answer.seconds,
        )


class _Continuation(NamedTuple):
    text: str
    token_ids: TokenIds | None
    logprobs: tuple[float, ...] | None
    finish: Finish


def _read_completion(body: Mapping[str, Any], sent: list[int], with_logprobs: bool) -> _Continuation:
    choice = first_choice(body)
    text = choice.get("text")
    if not isinstance(text, str):
        raise Unreadable("its choice has no text")
    prompt, ids = choice.get("prompt_token_ids"), choice.get("token_ids")
    if prompt is not None and prompt != sent:
        raise Unreadable("the server answered another prompt than the ids that it was sent")
    details = choice.get("logprobs")
    logprobs = details.get("token_logprobs") if with_logprobs and isinstance(details, dict) else None
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
        raise Unreadable("its token ids are no integers")
    if logprobs is not None and not (isinstance(logprobs, list) and all(map(_is_finite, logprobs))):
        raise Unreadable("its log-probabilities are no numbers")
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise Unreadable(f"it has {len(ids)} token ids and {len(logprobs)} log-probabilities")
    return _Continuation(
        text,
        None if ids is None else tuple(ids),
        None if logprobs is None else tuple(map(float, logprobs)),
        finish_of(choice.get("finish_reason")),
    )


def _is_finite(x: object) -> bool:
    return isinstance(x, int | float) and math.isfinite(x)
