"""Rows while they grow: each draws its next token with its own numbers, and stops where it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferalign.core.seeds import uniforms
from inferalign.core.types import StopReason
from inferalign.engines.base import Continuation, Row

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat


class Draft:
    """One row of a request. `room` is how many tokens the model's context leaves it."""

    def __init__(self, row: Row, chat: ChatFormat, room: int) -> None:
        self.row = row
        self.drawn: list[int] = []
        """Every token taken so far; a marker of the next turn is cut from the answer only at the end."""
        self.stop: StopReason | None = StopReason.LENGTH if row.max_new_tokens == 0 else None
        self._chat, self._room = chat, room
        self._kept = 0
        self._logprobs: list[float] = []
        self._uniforms = () if row.greedy else uniforms(row.seed, min(row.max_new_tokens, room))

    def number(self) -> float:
        """The number in [0, 1) that its next token is drawn with."""
        return 0.0 if self.row.greedy else float(self._uniforms[len(self.drawn)])

    def add(self, token: int, logprob: float) -> None:
        """Take a drawn token, and stop where the row says."""
        row = self.row
        if token in row.stop_ids:
            self.stop = StopReason.END
            return
        self.drawn.append(token)
        self._logprobs.append(logprob)
        self._kept = len(self.drawn)
        if row.stop_strings and self._cut_at_marker():
            self.stop = StopReason.END
        elif token in row.pause_ids:
            self.stop = StopReason.PARTIAL
        elif len(self.drawn) >= row.max_new_tokens:
            self.stop = StopReason.LENGTH
        elif len(self.drawn) >= self._room:
            self.stop = StopReason.CONTEXT

    def continuation(self) -> Continuation:
        assert self.stop is not None
        return Continuation(
            token_ids=tuple(self.drawn[: self._kept]), stop=self.stop, logprobs=tuple(self._logprobs[: self._kept])
        )

    def _cut_at_marker(self) -> bool:
        text = self._chat.decode(self.drawn)
        starts = [text.index(marker) for marker in self.row.stop_strings if marker in text]
        while starts and len(self._chat.decode(self.drawn[: self._kept])) > min(starts):
            self._kept -= 1
        return bool(starts)
