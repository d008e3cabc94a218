"""The sandbox world: seeded requests in eight situations, and replies with known faults. See `situations`.

Content is held out as whole combinations (a goal, what it is combined with, and the wording), by a hash: a test
request differs from every training request in more than its seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, get_args

from inferalign.core.errors import InputError
from inferalign.core.lookup import resolve
from inferalign.core.seeds import derive
from inferalign.core.types import Message, Prompt
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.errands import Errand
from inferalign.sandbox.situations.situation import WORLD_VERSION, Request, Situation

Split = Literal["train", "test"]
AGENCY = tuple(name for name in SITUATIONS if name not in ("harmful", "benign"))
"""The situations of human agency, by the names of the benchmark's dimensions."""


def situation_of(name: str) -> Situation:
    """The situation of that name. Raises `UnknownName` with a did-you-mean."""
    return resolve(SITUATIONS, name, "situation")


def draw_request(situation: Situation, split: Split, rng: random.Random) -> Request:
    """One request of a situation in the asked-for split."""
    while True:
        request = situation.draw(rng)
        if situation.is_test(request) == (split == "test"):
            return request


def prompts(kind: str, n: int, seed: int, split: str = "test") -> list[Prompt]:
    """`n` distinct prompts; prompt i depends on (kind, split, seed, i) and on the ones before it only to differ."""
    situation = situation_of(kind)
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}: it is train or test")
    if n < 1:
        raise InputError(f"{n} prompts were asked for: ask for at least 1 (--n)")
    seen: set[str] = set()
    made: list[Prompt] = []
    for i in range(n):
        rng = random.Random(derive(seed, "prompt", WORLD_VERSION, kind, split, i))
        request = next(r for r in _stream(situation, "test" if split == "test" else "train", rng) if r.text not in seen)
        seen.add(request.text)
        meta: dict[str, object] = {"situation": kind, "difficulty": round(situation.bad_rate(request), 4)}
        meta |= situation.hints(request)
        if isinstance(situation, Errand):
            meta["contrast"] = situation.is_contrast(request)
        made.append(
            Prompt(
                id=f"{kind}-{split}-{seed}-{i:05d}", messages=(Message(role="user", content=request.text),), meta=meta
            )
        )
    return made


def _stream(situation: Situation, split: Split, rng: random.Random, tries: int = 10_000) -> Iterator[Request]:
    for _ in range(tries):
        yield draw_request(situation, split, rng)
    raise InputError(
        f"the sandbox has too few distinct {situation.name} requests in split {split}: ask for a smaller --n"
    )
