"""Searches on the made-up language of tests/toy.py, with guides written down: what several test files share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inferalign.core.types import Completion, Prompt, Result, Score
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_settings import DEFAULT, RainSettings
from inferalign.scorers.scripted import ScriptedScorer, Verdict
from tests.toy import CharChat, PlainEngine, a_prompt, ngram_forward

SMALL: dict[str, Any] = {"max_iterations": 16, "extra_iterations": 6}
Judge = Callable[[Prompt, Completion], Verdict]


def dislikes_a(prompt: Prompt, response: Completion) -> Verdict:
    return Score(-1.0 if "a" in response.text else 1.0)


def zero(prompt: Prompt, response: Completion) -> Verdict:
    return Score(0.0)


def rain(
    judge: Judge,
    settings: RainSettings = DEFAULT,
    *,
    seed: int = 0,
    end: float = 0.0,
    max_new_tokens: int = 24,
    context: int = 4096,
    chat: CharChat | None = None,
    trees: Path | None = None,
) -> Rain:
    chat = chat or CharChat()
    engine = PlainEngine(partial(ngram_forward, end=end), chat.decode, context)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    settings = replace(settings, **SMALL)
    return Rain(engine, chat, ScriptedScorer(judge), seed=seed, sampling=sampling, settings=settings, trees=trees)


def run(procedure: Rain, prompt: Prompt | None = None) -> Result:
    return asyncio.run(procedure(prompt or a_prompt()))
