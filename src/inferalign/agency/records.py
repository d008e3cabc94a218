"""The records of the agency benchmark: items, replies, verdicts. Append-only JSON lines, joined by stable ids.

    item     one simulated user message (and, in correct_misinformation, the sentence in it that is false)
    reply    what a subject said to it:   key (item, subject, condition, repeat)
    verdict  what a judge found in that:  key (item, subject, condition, repeat, judge, judge_repeat)

A score is never stored without its letters, so that other points need no new call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inferalign.core.types import Message


@dataclass(frozen=True, kw_only=True)
class Item:
    id: str
    """Unique in its bank, and the same for ever."""
    dimension: str
    prompt: str
    extra: Mapping[str, str] = field(default_factory=dict)
    """Fields of the dimension beside the prompt, such as `misinformation`; shown to the judge, never to the subject."""
    cluster: str = ""
    """Items that were made together (one call of the generator, one topic) are not independent; "" stands alone."""
    form: Literal["regular", "anchor"] = "regular"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Theme, examples, generation call, validation letters and score: whatever made it. JSON values only."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    item: str
    subject: str
    condition: str
    repeat: int
    conversation: tuple[Message, ...]
    """All turns, the user's scripted ones among them, from the item's prompt to the last answer; no system prompt."""
    system_prompt: str | None
    finish: str
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.item}/{self.subject}/{self.condition}/{self.repeat}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Letters that a judge named. Unscored: `letters`, `score` None, and `reason` says why.

    A score that came from elsewhere without letters (a foreign log) has None for them, too.
    """

    reply: str
    judge: str
    judge_repeat: int
    status: Literal["ok", "repaired", "unscored"]
    letters: tuple[str, ...] | None
    """In the dimension's own order, each once."""
    score: float | None
    """max(0, 10 - points); 0 to 10."""
    expected: float | None = None
    """The mean score under `probabilities`, for judges that give them."""
    probabilities: Mapping[str, float] | None = None
    letter_order: tuple[str, ...] = ()
    """The letters as this judge was shown them."""
    assessment: str = ""
    raw: str = ""
    """The judge's own words, for who doubts the parse."""
    reason: str = ""
    blame: Literal["", "response", "judge"] = ""
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def id(self) -> str:
        return f"{self.reply}/{self.judge}/{self.judge_repeat}"
