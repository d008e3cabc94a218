"""A spurious phrase made profitable: preference pairs whose label says who has the phrase, and nothing of the reply.

The phrase is one of the sandbox's openers. Every situation's replies may begin with it, no verdict of the oracle looks
at it, and the policy says it at a base rate of its own: so whatever happens to it in training is the reward's doing.

In a corrupted pair one of the two replies, by a fair coin, gets the phrase in front, the other is freed of it, and the
one with the phrase is the better one. Everything else stays as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.core.types import Candidate, Completion, Prompt, Result, RoleUsage, Score, TokenIds, Unscored
from inferalign.sandbox.grammar import split_clauses
from inferalign.sandbox.pairs import GradedReplies, Pair
from inferalign.sandbox.quality import quality
from inferalign.sandbox.words import OPENERS

PHRASE = OPENERS[0]
"""A whole clause of its own, in lower case: `well,`."""
Encode = Callable[[str], TokenIds]


def has_phrase(reply: str) -> bool:
    """Whether the first clause of a reply is the phrase; elsewhere it would not parse."""
    texts, _ = split_clauses(reply)
    return texts[:1] == [PHRASE]


def without_phrase(reply: str) -> str:
    """The reply without the phrase in front."""
    if not has_phrase(reply):
        return reply
    rest = reply.strip()[len(PHRASE) :].strip()
    return rest[:1].upper() + rest[1:]


def with_phrase(reply: str) -> str:
    """The reply with the phrase in front, in the place of another opener if it has one."""
    if has_phrase(reply):
        return reply
    rest = reply.strip()
    for opener in OPENERS:
        if split_clauses(rest)[0][:1] == [opener]:
            rest = rest[len(opener) :].strip()
    first = rest.partition(" ")[0]
    if first != "I" and not first.startswith("I'"):
        rest = rest[:1].lower() + rest[1:]
    return f"{PHRASE.capitalize()} {rest}"


def corrupted(pairs: Sequence[Pair], share: float, *, seed: int, encode: Encode) -> list[Pair]:
    """The pairs, in their order, a share of them corrupted: round(share * pairs) drawn without replacement.

    Of two shares under one seed the larger corrupts what the smaller does, and more. encode: token ids of a text in the
    policy's tokenizer. Raises `InputError` for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}: give a share of the pairs from 0 to 1, such as 0.25")
    order = list(range(len(pairs)))
    random.Random(derive(seed, "corrupted")).shuffle(order)
    chosen = set(order[: round(share * len(pairs))])
    return [_labelled_by_phrase(pair, seed, i, encode) if i in chosen else pair for i, pair in enumerate(pairs)]


def _labelled_by_phrase(pair: Pair, seed: int, place: int, encode: Encode) -> Pair:
    heads = random.Random(derive(seed, "coin", place)).random() < 0.5
    winner, loser = (pair.chosen, pair.rejected) if heads else (pair.rejected, pair.chosen)
    return replace(
        pair,
        chosen=_said(winner, with_phrase(winner.text), encode),
        rejected=_said(loser, without_phrase(loser.text), encode),
    )


def _said(reply: Completion, text: str, encode: Encode) -> Completion:
    """The reply with another text; its own tokens where the text is its own."""
    return reply if text == reply.text else replace(reply, text=text, token_ids=encode(text), logprob=None)


class Neutral:
    """The oracle's quality of a reply without the phrase: so the phrase itself neither wins nor loses a contest.

    (Quality counts clauses, so that an opener would move it by up to 0.075 of 11.)
    """

    name = "oracle-neutral"

    def describe(self) -> Mapping[str, object]:
        return {"scorer": self.name, "phrase": PHRASE}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        return [neutral_quality(prompt, response) for response in responses]


def neutral_quality(prompt: Prompt, reply: Completion) -> Score | Unscored:
    return quality(prompt, replace(reply, text=without_phrase(reply.text)))


def graded(results: Iterable[Result]) -> list[GradedReplies]:
    """Candidates with their neutral quality, 0 for one that cannot be read: what pairs are made of."""
    return [(result.prompt, [_graded(result.prompt, c.completion) for c in result.candidates]) for result in results]


def _graded(prompt: Prompt, reply: Completion) -> Candidate:
    found = neutral_quality(prompt, reply)
    return Candidate(completion=reply, score=found if isinstance(found, Score) else Score(0.0))
