"""RAIN inside `model.generate` of transformers, for a model that is loaded already.

    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    model.generate(**inputs, max_new_tokens=64, custom_generate=inferalign.rain(tokenizer))

`generate` prepares a call (lengths, special tokens, mask), the callable searches each row, and token ids go back as
`generate` gives them. It knows no search and no judge from inside; `custom_request` says what a call may ask for.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from inferalign.core.errors import InferalignError, InputError
from inferalign.core.lookup import resolve
from inferalign.core.loops import run_to_end
from inferalign.core.types import Completion, Message, Prompt, Result, RoleUsage, StopReason, TokenIds
from inferalign.custom_request import Request, read_request
from inferalign.engines.chat import ChatFormat
from inferalign.engines.table import LoadedModel, is_sandbox
from inferalign.procedures.base import Procedure, Sampling, Streaming
from inferalign.procedures.rain_settings import SETTINGS, RainSettings
from inferalign.procedures.table import build
from inferalign.scorers.table import build_scorer

if TYPE_CHECKING:
    import torch


def rain(
    tokenizer: Any,
    *,
    scorer: str = "self",
    setting: str | RainSettings = "default",
    seed: int = 0,
    concurrency: int = 32,
    streamer: Any = None,
) -> RainGenerate:
    """What to give as `custom_generate=` to `model.generate`, so that it answers by RAIN (arXiv 2309.07124).

    Args:
        tokenizer: the model's own, which made the input ids.
        scorer: the guide: `self` (the model judges itself) or the path of a template (FILE.toml).
        setting: `default`, `paper`, or a `RainSettings` with constants of your own.
        seed: the root of every draw. Draws are keyed by it and the SHA-256 of a prompt's ids, never by its row.
        concurrency: rows searched at the same time, at most.
        streamer: takes the answer's ids as they are committed, for a batch of one row. It is given here because
            `generate` does not hand its own `streamer=` to a callable.

    Raises `UnknownName` for another setting and `InputError` for what is no tokenizer; a call raises `InputError` for
    what a search cannot honour, and what the search itself raises.
    """
    if not (hasattr(tokenizer, "decode") and hasattr(tokenizer, "eos_token_id")):
        raise InputError(
            f"rain() was given a {type(tokenizer).__name__}: expected the model's tokenizer; "
            "type inferalign.rain(AutoTokenizer.from_pretrained(NAME))"
        )
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}: expected at least 1, such as concurrency=4")
    settings = setting if isinstance(setting, RainSettings) else resolve(SETTINGS, setting, "setting of rain")
    return RainGenerate(tokenizer, scorer, settings, seed, concurrency, streamer)


class RainGenerate:
    """The callable that `rain` returns. It may be used for many calls and models; calls run one at a time.

    What a model has computed in one call serves the next, unless the model has changed since: see `engines/live.py`.
    """

    def __init__(
        self, tokenizer: Any, scorer: str, settings: RainSettings, seed: int, concurrency: int, streamer: Any
    ) -> None:
        from inferalign.engines.live import LiveEngines

        self.scorer, self.settings, self.seed = scorer, settings, seed
        self.concurrency, self.streamer = concurrency, streamer
        self._engines = LiveEngines(tokenizer)
        self._lock = threading.Lock()

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        *,
        logits_processor: Sequence[Any],
        stopping_criteria: Sequence[Any],
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Any:
        """Called by `generate`. `input_ids` [batch, width] to [batch, width + new] on the same device.

        Rows that are shorter than the longest are filled on the right with `pad_token_id`; a row whose answer ended by
        itself has an end token, if it has room for one.
        """
        from inferalign.engines.live import evaluating

        request = read_request(model, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs)
        if self.streamer is not None and len(request.rows) != 1:
            raise InputError(
                f"a streamer takes a batch of one prompt, and {len(request.rows)} were given: leave out streamer="
            )
        with self._lock, evaluating(model):
            loaded = self._engines.of(model, request.end_ids)
            answers = run_to_end(lambda: self._answers(loaded, request))
        return request.output(answers)

    async def _answers(self, loaded: LoadedModel, request: Request) -> list[TokenIds]:
        """New tokens of each row. Equal rows are one prompt, searched once; the first error stops all."""
        chat = loaded.chat
        prompts = {ids: as_prompt(ids, chat) for ids in request.rows}
        guide = build_scorer(
            self.scorer,
            engine=loaded.engine,
            chat=chat,
            sandbox=is_sandbox(loaded.engine.name),
            form=self.settings.form,
        )
        procedure = build(
            "rain",
            engine=loaded.engine,
            chat=chat,
            scorer=guide,
            seed=self.seed,
            sampling=Sampling(max_new_tokens=request.max_new_tokens),
            rain=self.settings,
        )
        gate = asyncio.Semaphore(self.concurrency)

        async def answer(prompt: Prompt, ids: TokenIds) -> TokenIds:
            async with gate:
                try:
                    return await self._answer(procedure, prompt, ids, loaded, request.max_new_tokens)
                except InferalignError as error:
                    # The prompt's id is a hash, which nobody can look up.
                    error.add_note(f"in row {request.rows.index(ids)} of the batch")
                    raise

        done = await asyncio.gather(*(answer(prompt, ids) for ids, prompt in prompts.items()))
        found = dict(zip(prompts, done, strict=True))
        return [found[ids] for ids in request.rows]

    async def _answer(
        self, procedure: Procedure, prompt: Prompt, ids: TokenIds, loaded: LoadedModel, room: int
    ) -> TokenIds:
        if self.streamer is None:
            response = (await procedure(prompt)).response
            return response.token_ids + await end_of(response, ids, loaded, room)
        self._put(ids)
        response = await self._streamed(procedure, prompt)
        end = await end_of(response, ids, loaded, room)
        self._put(end)
        self.streamer.end()
        return response.token_ids + end

    async def _streamed(self, procedure: Procedure, prompt: Prompt) -> Completion:
        assert isinstance(procedure, Streaming), "a search is"
        result: Result | None = None
        async with aclosing(procedure.stream(prompt)) as pieces:
            async for piece in pieces:
                for token in piece.token_ids:
                    self._put((token,))
                result = piece.result
        assert result is not None, "the last piece has one"
        return result.response

    def _put(self, token_ids: TokenIds) -> None:
        """`[n]`, as `generate` puts a prompt's ids at once and then one token at a time."""
        import torch

        if token_ids:
            self.streamer.put(torch.tensor(token_ids))


def prompt_id(token_ids: TokenIds) -> str:
    """SHA-256 of a prompt's ids without padding, each as four bytes, lowest first: what keys its draws."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in token_ids)).hexdigest()


def as_prompt(token_ids: TokenIds, chat: ChatFormat) -> Prompt:
    """The prompt that a row stands for: answers follow its ids as they are.

    A judge that puts the user's words into a question of its own gets the last user turn, found by the marks of the
    chat format, or the whole text without special tokens where there are none.
    """
    text = chat.user_text(token_ids)
    message = Message(role="user", content=chat.decode(token_ids) if text is None else text)
    return Prompt(id=prompt_id(token_ids), messages=(message,), token_ids=token_ids)


async def end_of(response: Completion, prompt_ids: TokenIds, loaded: LoadedModel, room: int) -> TokenIds:
    """The end token that follows an answer which ended by itself; of several, the most probable after it."""
    if response.stop is not StopReason.END or len(response.token_ids) >= room:
        return ()
    ends = sorted(loaded.chat.end_ids)
    if len(ends) < 2:
        return tuple(ends)
    (found,) = await loaded.engine.label_logprobs([prompt_ids + response.token_ids], ends, RoleUsage())
    return (ends[found.logprobs.index(max(found.logprobs))],)
