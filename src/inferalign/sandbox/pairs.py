"""Preference pairs from graded replies: what a reward model is trained on.

    {"id": "p1", "messages": [...], "meta": {}, "margin": 0.5,
     "chosen": {"text": "...", "token_ids": [...], "stop": "end"}, "rejected": {...}}       (on one line)

A pair keeps the token ids that were drawn, so that a reward model
with the policy's tokenizer is trained on what it will score.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors, dump_json, parse_json, write_bytes_atomic
from inferalign.core.seeds import derive
from inferalign.core.types import Candidate, Completion, Message, Prompt, Score, StopReason

GradedReplies = tuple[Prompt, Sequence[Candidate]]
"""A prompt and its replies; a candidate's `score` is its grade."""
_KEYS = ("id", "messages", "chosen", "rejected", "margin", "meta")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two replies to one prompt, of which one is better."""

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    margin: float
    """How much better, in the units of the grade: positive."""


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """The pairs of a set of graded replies, and what gave none."""

    pairs: tuple[Pair, ...]
    ties: int
    """Pairs of replies with the same grade: they say nothing about which is better."""
    ungraded: int
    """Replies without a grade."""


def make_pairs(graded: Iterable[GradedReplies], *, per_prompt: int, seed: int) -> PairSet:
    """Pairs of replies with different grades, at most `per_prompt` a prompt, drawn without replacement.

    Which are drawn depends on the seed and the prompt's id alone. A reply that was drawn twice is in pairs twice, as
    it is in a random pair of the model's samples.
    """
    if per_prompt < 1:
        raise InputError(f"per_prompt is {per_prompt}: expected at least 1 pair a prompt")
    pairs: list[Pair] = []
    ties = ungraded = 0
    for prompt, candidates in graded:
        grades = [(c.completion, c.score.value) for c in candidates if isinstance(c.score, Score)]
        ungraded += len(candidates) - len(grades)
        ordered = [_ordered(prompt, *two) for two in combinations(grades, 2) if two[0][1] != two[1][1]]
        ties += len(grades) * (len(grades) - 1) // 2 - len(ordered)
        draw = random.Random(derive(seed, "pairs", prompt.id))
        pairs += draw.sample(ordered, min(per_prompt, len(ordered)))
    return PairSet(pairs=tuple(pairs), ties=ties, ungraded=ungraded)


def _ordered(prompt: Prompt, a: tuple[Completion, float], b: tuple[Completion, float]) -> Pair:
    (better, high), (worse, low) = (a, b) if a[1] > b[1] else (b, a)
    return Pair(prompt=prompt, chosen=better, rejected=worse, margin=high - low)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs so that `read_pairs` gives them back, but for the log-probabilities of the replies."""
    write_bytes_atomic(path, b"".join(dump_json(_to_line(pair)) + b"\n" for pair in pairs))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSONL file, in its order. Raises `InputError` naming file and line."""
    with disk_errors(path, "read"):
        lines = path.read_bytes().split(b"\n")
    pairs = [_from_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise InputError(f"{path} holds no pairs: expected lines with {', '.join(_KEYS)}")
    return pairs


def _to_line(pair: Pair) -> dict[str, Any]:
    def reply(completion: Completion) -> dict[str, Any]:
        return {"text": completion.text, "token_ids": list(completion.token_ids), "stop": str(completion.stop)}

    return {
        "id": pair.prompt.id,
        "messages": [asdict(message) for message in pair.prompt.messages],
        "chosen": reply(pair.chosen),
        "rejected": reply(pair.rejected),
        "margin": pair.margin,
        "meta": dict(pair.prompt.meta),
    }


def _from_line(line: bytes, where: str) -> Pair:
    try:
        value = parse_json(line)
        return Pair(
            prompt=Prompt(
                id=str(value["id"]),
                messages=tuple(Message(**turn) for turn in value["messages"]),
                meta=value["meta"],
            ),
            chosen=_reply(value["chosen"]),
            rejected=_reply(value["rejected"]),
            margin=float(value["margin"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}: not a pair ({error}): expected one JSON object with {', '.join(_KEYS)}, as write_pairs has it"
        ) from error


def _reply(value: dict[str, Any]) -> Completion:
    return Completion(token_ids=tuple(value["token_ids"]), text=value["text"], stop=StopReason(value["stop"]))
