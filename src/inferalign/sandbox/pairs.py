"""Preference pairs from graded replies: what a reward model is trained on.

    {"id": "p1", "messages": [...], "meta": {}, "margin": 0.5,
     "chosen": {"text": "...", "token_ids": [...], "stop": "end"}, "rejected": {...}}       (on one line)

A pair keeps the token ids that were drawn, so that a reward model with the policy's tokenizer is trained on what it
will score.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors, dump_json, parse_json, write_bytes_atomic
from inferalign.core.lookup import did_you_mean
from inferalign.core.prompts import encodable, read_message
from inferalign.core.seeds import derive
from inferalign.core.types import Candidate, Completion, Prompt, Score, StopReason

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
    """Write pairs, whole or not at all, so that `read_pairs` gives them back but for the replies' log-probabilities."""
    write_bytes_atomic(path, b"".join(dump_json(_to_line(pair)) + b"\n" for pair in pairs))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSONL file, in its order.

    Raises `InputError` for a missing or empty file and, with its number, for a line that is no pair: a key that is
    missing or unknown, a value of the wrong type, a margin that is not a number above 0.
    """
    if not path.is_file():
        raise InputError(f"no file {path}: make one with `inferalign sandbox pairs RUN --out {path}`")
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
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}): expected one object with {', '.join(_KEYS)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected one JSON object with {', '.join(_KEYS)}")
    if unknown := sorted(value.keys() - set(_KEYS)):
        near = did_you_mean(unknown[0], _KEYS)
        raise InputError(f"{where}: unknown key {unknown[0]!r}.{near} Expected {', '.join(_KEYS)}")
    if missing := [key for key in _KEYS if key not in value]:
        raise InputError(f"{where}: no {missing[0]!r}: expected {', '.join(_KEYS)}")
    match value:
        case {
            "id": str() | int() as name,
            "messages": [_, *_] as turns,
            "margin": int() | float() as margin,
            "meta": dict(meta),
        } if 0 < margin <= sys.float_info.max and not isinstance(margin, bool) and not isinstance(name, bool):
            messages = tuple(read_message(turn, f'{where}: turn {i} of "messages"') for i, turn in enumerate(turns))
            return Pair(
                prompt=Prompt(id=encodable(str(name), f'{where}: "id"'), messages=messages, meta=meta),
                chosen=_reply(value["chosen"], f'{where}: "chosen"'),
                rejected=_reply(value["rejected"], f'{where}: "rejected"'),
                margin=float(margin),
            )
    raise InputError(
        f'{where}: expected a text as "id", one turn or more in "messages", an object as "meta", and a "margin" above 0'
    )


def _reply(value: Any, where: str) -> Completion:
    match value:
        case {"token_ids": [*ids], "text": str(text), "stop": str(stop)} if all(type(i) is int for i in ids):
            if stop in list(StopReason):
                return Completion(token_ids=tuple(ids), text=text, stop=StopReason(stop))
    raise InputError(
        f'{where} must have a "text", its "token_ids" (whole numbers) and a "stop" ({", ".join(StopReason)})'
    )
