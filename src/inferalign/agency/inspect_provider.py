"""Our procedures as a model inside Inspect: `inferalign/PROCEDURE/MODEL`.

    inspect eval inferalign/human_agency --model inferalign/rain/sandbox --temperature 1 --top-p 1 ...
    inspect eval inspect_evals/strong_reject --model inferalign/best-of-n:4/PATH -M seed=7

Calls that Inspect has in flight are answered together, in the engine's batches. Usage counts all that a procedure
computed, discarded candidates and judgements among it: that is what the answer cost.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.solver._task_state import sample_state
from inspect_ai.tool import ToolChoice, ToolInfo

from inferalign.agency.inspect_transport import own_messages
from inferalign.core.errors import InputError, TransientError
from inferalign.core.files import dump_json
from inferalign.core.types import ROLES, Prompt, Result, StopReason
from inferalign.engines.table import LoadedModel, ModelOptions, is_sandbox, load
from inferalign.procedures.base import Procedure, Sampling
from inferalign.procedures.rain_settings import SETTINGS, RainSettings
from inferalign.procedures.table import PROCEDURES, build, parse
from inferalign.scorers.base import Scorer
from inferalign.scorers.table import build_scorer

CONCURRENCY = 16
"""Answers in flight at most, unless Inspect is told otherwise (--max-connections)."""
_STOPS: Mapping[StopReason, str] = {
    StopReason.END: "stop",
    StopReason.LENGTH: "max_tokens",
    StopReason.CONTEXT: "model_length",
}
_UNUSABLE = (
    *("stop_seqs", "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "num_choices", "logprobs"),
    *("top_logprobs", "prompt_logprobs", "response_schema", "modalities"),
)
"""Settings of Inspect's that no procedure has. What only concerns other providers' services is ignored, as they do."""


class InferalignAPI(ModelAPI):  # type: ignore[misc]  # inspect_ai is untyped here
    """One model under one procedure."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        seed: int = 0,
        scorer: str = "self",
        **options: Any,
    ) -> None:
        """
        Args:
            model_name: `PROCEDURE/MODEL`, such as `rain/sandbox` or `best-of-n:4/meta-llama/Llama-3.2-1B-Instruct`.
            seed: every draw is derived from it (`-M seed=7`), unless a call has a seed of its own (`--seed`).
            scorer: the guide of a guided procedure (`-M scorer=reward:DIR`).
            options: fields of `ModelOptions` (`-M dtype=bfloat16 -M device=cuda`).

        Raises `UnknownName` and `InputError` for a name or option that is none, `ModelError` for an unusable model.
        """
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self._text, slash, self._path = model_name.partition("/")
        if not slash or not self._path:
            raise InputError(
                f"'inferalign/{model_name}' names no model: type inferalign/PROCEDURE/MODEL, such as "
                "inferalign/rain/sandbox"
            )
        name, setting = parse(self._text)
        self._rain = SETTINGS[str(setting)] if name == "rain" else None
        if unknown := sorted(options.keys() - set(ModelOptions.__dataclass_fields__)):
            known = ", ".join(["seed", "scorer", *ModelOptions.__dataclass_fields__])
            raise InputError(f"-M {unknown[0]}: no such option. Known: {known}.")
        self._seed = seed
        self._loaded = load(self._path, ModelOptions(**options))
        self._guide = _guide(self._loaded, scorer, self._rain) if PROCEDURES[name].guided else None
        self._procedures: dict[tuple[int, Sampling], Procedure] = {}
        self._asked: Counter[tuple[int, str]] = Counter()

    def max_connections(self) -> int:
        return CONCURRENCY

    def connection_key(self) -> str:
        return str(self.model_name)

    def should_retry(self, ex: Exception) -> bool:
        return isinstance(ex, TransientError)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Raises `InputError` for tools, for turns that are not text and for a setting that a procedure has not."""
        if tools:
            raise InputError(f"{self._text} calls no tools: use a task without them")
        seed = self._seed if config.seed is None else config.seed
        procedure = self._procedure(seed, self._sampling(config))
        result = await procedure(self._prompt(seed, input))
        return self._output(result, seed, procedure)

    def _sampling(self, config: GenerateConfig) -> Sampling:
        for name in _UNUSABLE:
            if getattr(config, name):
                raise InputError(f"{name} = {getattr(config, name)!r}: {self._text} has no such setting. Leave it out.")
        temperature = 1.0 if config.temperature is None else config.temperature
        if temperature == 0 and self._text != "sample":
            raise InputError(
                f"{self._text} chooses among random draws and was given temperature 0 (perhaps by the task): "
                "add --temperature 1 --top-p 1"
            )
        if temperature > 0 and config.top_p is not None and config.top_p < 1:
            raise InputError(f"top_p = {config.top_p}: {self._text} cuts no probability mass off. Add --top-p 1")
        tokens = {} if config.max_tokens is None else {"max_new_tokens": config.max_tokens}
        return Sampling(temperature=temperature, top_k=config.top_k, **tokens)

    def _procedure(self, seed: int, sampling: Sampling) -> Procedure:
        key = (seed, sampling)
        if key not in self._procedures:
            self._procedures[key] = build(
                self._text,
                engine=self._loaded.engine,
                chat=self._loaded.chat,
                scorer=self._guide,
                seed=seed,
                sampling=sampling,
                rain=self._rain,
            )
        return self._procedures[key]

    def _prompt(self, seed: int, input: list[ChatMessage]) -> Prompt:
        """Draws are keyed by the conversation, the sample and its epoch, and by how often it was asked there.

        So epochs differ, and the same command draws the same again, also for the samples alone that `inspect
        eval-retry` has left to do. What is asked outside of a sample is counted as one.
        """
        messages = own_messages(input)
        digest = hashlib.sha256(dump_json([asdict(message) for message in messages])).hexdigest()[:16]
        sample = sample_state()
        asked = digest if sample is None else f"{sample.sample_id}-{sample.epoch}-{digest}"
        place = self._asked[seed, asked]
        self._asked[seed, asked] += 1
        return Prompt(id=f"{asked}-{place}", messages=messages)

    def _output(self, result: Result, seed: int, procedure: Procedure) -> ModelOutput:
        usage = [getattr(result.usage, role) for role in ROLES]
        written, reused = sum(one.new_tokens for one in usage), sum(one.tokens_reused for one in usage)
        read = max(sum(one.tokens_fed for one in usage) - written, 0)
        response = result.response
        return ModelOutput(
            model=f"{self._text}/{self._path}",
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=response.text, source="generate", model=self._path),
                    stop_reason=_STOPS[response.stop],
                )
            ],
            usage=ModelUsage(
                input_tokens=read,
                output_tokens=written,
                total_tokens=read + written + reused,
                input_tokens_cache_read=reused,
            ),
            time=result.seconds,
            metadata={
                "procedure": dict(procedure.describe()),
                "prompt_id": result.prompt.id,
                "seed": seed,
                "determinism": str(self._loaded.engine.determinism),
                "usage": asdict(result.usage),
                "answer_tokens": len(response.token_ids),
            },
        )


def _guide(loaded: LoadedModel, scorer: str, rain: RainSettings | None) -> Scorer:
    sandbox = is_sandbox(loaded.engine.name)
    return build_scorer(
        scorer, engine=loaded.engine, chat=loaded.chat, sandbox=sandbox, form=rain.form if rain else "margin"
    )
