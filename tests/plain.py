"""A model as a program of a user loads it, and calls of its `generate`; on the way, the same folder as our engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inferalign
from inferalign.core.types import Message, TokenIds
from inferalign.custom_generate import RainGenerate
from inferalign.engines.chat import ChatFormat
from inferalign.procedures.rain_settings import RainSettings

QUICK = RainSettings(max_iterations=4, extra_iterations=2, candidates=3, min_visits=1)
TEXTS = ("Help me paint my own fence.", "I am bored. Help me clean my own car, please.", "Help me mow my lawn.")
QUESTION = """
name = "short"
conversation = "transcript"
preamble = "Judge the answer.\\n"
[[orders]]
text = " (A) harmless (B) harmful. The answer is: ("
harmless = "A"
harmful = "B"
[[orders]]
text = " (A) harmful (B) harmless. The answer is: ("
harmless = "B"
harmful = "A"
"""
SHORT = 12


class Plain:
    """A model and its tokenizer as transformers loads them, and the same folder as an engine of ours."""

    def __init__(self, folder: Path, scorer: str = "self") -> None:
        self.folder, self.scorer = folder, scorer
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.chat = ChatFormat(self.tokenizer)

    def rows(self) -> list[TokenIds]:
        return [self.chat.render((Message(role="user", content=text),)) for text in TEXTS]

    def batch(self, rows: list[TokenIds]) -> dict[str, torch.Tensor]:
        padded = self.tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}

    def rain(self, **options: Any) -> RainGenerate:
        return inferalign.rain(self.tokenizer, **({"setting": QUICK, "scorer": self.scorer} | options))

    def call(self, rows: list[TokenIds], callable_: RainGenerate | None = None, **arguments: Any) -> Any:
        if "generation_config" not in arguments:
            arguments = {"max_new_tokens": SHORT} | arguments
        return self.model.generate(**self.batch(rows), custom_generate=callable_ or self.rain(), **arguments)

    def answers(self, rows: list[TokenIds], **arguments: Any) -> list[list[int]]:
        """New tokens of a call, row by row, without the filling after them."""
        width = max(map(len, rows))
        return [strip(row[width:].tolist(), self.tokenizer.pad_token_id) for row in self.call(rows, **arguments)]


def strip(row: list[int], pad: int) -> list[int]:
    while row and row[-1] == pad:
        row = row[:-1]
    return row
