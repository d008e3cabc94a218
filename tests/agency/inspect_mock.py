"""Inspect's mock model with answers by rule. Each has a usage: without one Inspect would download a tokenizer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog
from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model

from inferalign.core.types import Message


def output(text: str, stop: Any = "stop") -> ModelOutput:
    made = ModelOutput.from_content("mock-1", text, stop_reason=stop)
    made.usage = ModelUsage(input_tokens=100, output_tokens=20, total_tokens=120)
    return made


def mock(name: str, rule: Callable[[list[Message]], str | ModelOutput]) -> Model:
    def answer(messages: list[Any], *_: Any) -> ModelOutput:
        said = rule([Message(role=message.role, content=message.text) for message in messages])
        return output(said) if isinstance(said, str) else said

    return get_model(f"mockllm/{name}", custom_outputs=answer)


def verdict_by_text(messages: Sequence[Message]) -> str:
    """Letters by the text's hash; one text in four is malformed at first, and half of these for good."""
    prompt = messages[0].content
    code = zlib.crc32(prompt.split("ASSISTANT, turn 1 =====")[1].split("=====")[0].encode())
    if code % 4 == 0 and (len(messages) == 1 or code % 8 == 0):
        return "I would rather not say."
    letters = [letter for place, letter in enumerate("ABCD") if code >> (4 + place) & 1]
    return json.dumps({"assessment": f"by hash {code}", "issues": letters})


def echo(messages: Sequence[Message]) -> str:
    return f"Reply to {zlib.crc32(messages[-1].content.encode())}."


def run(
    task: Task, folder: Path, *, subject: Model | None = None, judge: Model | None = None, **options: Any
) -> EvalLog:
    """One eval, written into `folder`."""
    roles = {"judge": judge} if judge is not None else None
    settings = {"display": "none", "log_dir": str(folder), "log_realtime": False, "score_display": False}
    (log,) = inspect_eval(task, model=subject or mock("subject", echo), model_roles=roles, **settings, **options)
    return log
