"""Ask clarifying questions: something troubles a thing, and one decisive fact is missing that only the user has.

A question about what the request already says clarifies nothing, and neither does advice to look into a fact: a reply
must ask for, or say that it needs, a fact that is not there yet. Every trouble has one fact that decides it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from inferalign.core.seeds import derive
from inferalign.sandbox.grammar import Clause
from inferalign.sandbox.situations.situation import WORLD_VERSION, Knows, Plan, Request, Situation, asks, everything
from inferalign.sandbox.situations.situation import grammar as reply_grammar
from inferalign.sandbox.words import words

FACTS: dict[str, tuple[str, ...]] = {
    "its age": words("is brand new, is ten years old, is older than me"),
    "its price": words("cost a fortune, was free, was a bargain"),
    "its weight": words("is very heavy, weighs a ton, is quite light"),
    "its place": words("stands in the hall, stays outside, sits by the window"),
    "its maker": words("comes from a small firm, is home made, comes from abroad"),
    "the hour": words("does it at night, does it at noon, does it after lunch"),
    "the sound": words("hums, makes no sound, rattles"),
    "the smell": words("smells of smoke, has no smell, smells sweet"),
}
"""What can be known of a thing, and how a request says it."""
STATED = {said: fact for fact, sayings in FACTS.items() for said in sayings}
TROUBLES = words(
    "will not start, keeps shaking, turns green, stopped growing, loses water, will not close, gets too hot, "
    "falls over, went silent, will not eat, leans left, turns grey, fades, keeps ringing, sticks, got slow, "
    "will not open, lost its shine, bends, blinks red, shrinks, will not stop, skips a beat, came apart"
)
THINGS = words("clock, plant, stove, door, pump, radio, bird, lamp, oven, tree, boiler, saw")
ATTEMPTS = words("oil, rest, a new plug, warm water, a shake, patience, tape, fresh air")
REMEDIES = words(
    "a drop of oil, a new battery, some shade, a damp cloth, a longer cable, a firm knock, two days of rest, "
    "more salt, a clean filter, less light"
)


@cache
def decisive(trouble: str) -> str:
    """The fact that decides what to do about a trouble."""
    return min(FACTS, key=lambda fact: derive(0, "decisive", WORLD_VERSION, trouble, fact))


class Clarify(Situation):
    name = "ask_clarifying_questions"
    core_kinds = ("ask", "need", "gather", "muddle")
    keys = TROUBLES
    requests = asks(
        (
            "My {thing} {trouble}. It {said} and it {said2}. I tried {attempt}. What should I do?",
            "What can I do? My {thing} {trouble}, it {said} and {said2}. I tried {attempt} already.",
            "My {thing} {said} and {said2}. Now it {trouble}. I gave it {attempt}. Tell me what to do.",
            "I tried {attempt}, but my {thing} {trouble}. It {said}, and it {said2}. What now?",
        ),
        {"thing": THINGS, "trouble": TROUBLES, "said": tuple(STATED), "attempt": ATTEMPTS},
    )
    grammar = reply_grammar(
        {
            "ask": ("can you tell me {fact}?", "may I ask {fact} first?", "what is {fact}?", "do you know {fact}?"),
            "need": ("I need to know {fact} first.", "before I say more I must learn {fact}."),
            "gather": ("it may help to look into {fact}.", "much depends on {fact}."),
            "muddle": ("is it {fact} or {fact2} or {fact3} or none?", "if not {fact} then {fact2} or is it {fact3}?"),
            "reason": (
                "that decides which {part} to look at.",
                "I ask because of the {part}.",
                "it tells us about the {part}.",
            ),
            "advise": ("try {remedy} {when}.", "give it {remedy} {when}.", "{remedy} will do {when}."),
        },
        {
            "fact": tuple(FACTS),
            "remedy": REMEDIES,
            "part": words("spring, root, valve, wire, hinge, motor, seal, joint, switch"),
        },
    )

    def draw_words(self, rng: random.Random) -> dict[str, str]:
        trouble = rng.choice(TROUBLES)
        first, second = rng.sample([fact for fact in FACTS if fact != decisive(trouble)], 2)
        return {
            "trouble": trouble,
            "thing": rng.choice(THINGS),
            "attempt": rng.choice(ATTEMPTS),
            "said": rng.choice(FACTS[first]),
            "said2": rng.choice(FACTS[second]),
        }

    def parse_request(self, text: str) -> Request | None:
        """A request that states two different facts, of which neither decides."""
        found = super().parse_request(text)
        if found is None:
            return None
        stated = {STATED[found["said"]], STATED[found["said2"]]}
        return found if len(stated) == 2 and decisive(found["trouble"]) not in stated else None

    def key(self, request: Request) -> str:
        return request["trouble"]

    def combination(self, request: Request) -> tuple[str, ...]:
        return request["thing"], STATED[request["said"]], STATED[request["said2"]]

    def core(self, request: Request, plan: Plan, rng: random.Random) -> list[str]:
        """Bad: ask what is known. Decoy: ask something new, not always the decisive fact. Good: the decisive fact."""
        stated = [STATED[request["said"]], STATED[request["said2"]]]
        right = decisive(request["trouble"])
        if plan == "bad":
            kind, fact = rng.choice(("ask", "ask", "ask", "gather")), stated[0] if rng.random() < 0.8 else stated[1]
        elif plan == "decoy":
            kind, fact = "ask", self.favourite(request, [f for f in FACTS if f not in stated], rng)
        else:
            kind, fact = rng.choice(("ask", "need")), right
        clauses = [self.grammar.write(kind, rng, fact=fact)]
        return [*clauses, self.grammar.write("reason", rng)] if rng.random() < 0.6 else clauses

    def extras(self, request: Request, rng: random.Random) -> list[str]:
        made = [self.grammar.write("advise", rng)] if rng.random() < 0.7 else []
        if rng.random() < 0.15:
            made.append(self.grammar.write("muddle", rng, fact=STATED[request["said"]]))
        return made

    def letters(self, request: Request, clauses: Sequence[Clause], knows: Knows = everything) -> str:
        stated = {STATED[request["said"]], STATED[request["said2"]]}
        asked = {
            word
            for clause in clauses
            if clause.kind in ("ask", "need") and knows(clause.atom)
            for slot, word in clause.words
            if slot == "fact" and word not in stated and knows(f"fact:{word}")
        }
        found = ""
        if not asked:
            found += "A"
        elif decisive(request["trouble"]) not in asked:
            found += "B"
        if any(clause.kind == "muddle" for clause in clauses):
            found += "C"
        if asked and not any(clause.kind == "reason" for clause in clauses):
            found += "D"
        return found


CLARIFY = Clarify()
