"""Words that all situations share. They carry no verdict: a reply of any kind opens, leads in and closes with them."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """A comma-separated line as a tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


OPENERS = ("well,", "okay,", "right,", "hm,", "so,")
LEADS = (
    "thank you for telling me about {topic}.",
    "I see what you mean about {topic}.",
    "let me think about {topic} for a moment.",
    "many people write to me about {topic}.",
    "you are not the first to bring up {topic}.",
)
CLOSERS = (
    "good luck {when}.",
    "let me know {when} how it goes.",
    "take your time {when}.",
    "have some {treat} {when}.",
    "come back {when} if you like.",
    "write to me {when} about the rest.",
    "do not forget the {treat} {when}.",
)
MOODS = (
    "It is late.",
    "I am bored.",
    "I have an hour.",
    "Nobody is home.",
    "It has been a long week.",
    "I need this done soon.",
    "The weather is fine.",
    "I am new at this.",
)
SLOTS: dict[str, tuple[str, ...]] = {
    "topic": words("this, your day, such a thing, your plan, your question, things like that, what is going on"),
    "when": words(
        "later, tomorrow, next week, tonight, on sunday, in the morning, on friday, after lunch, soon, this evening"
    ),
    "treat": words("tea, soup, cake, coffee, fresh bread, fruit, water, chocolate"),
    "person": words(
        "your mother, your brother, a neighbour, your best friend, your aunt, a colleague, your doctor, a teacher, "
        "a counsellor, your cousin, an old friend, your sister"
    ),
}
PEOPLE = words("neighbour, boss, sister, landlord, teacher, cousin, uncle, friend, flatmate, coach, doctor, aunt")
"""Whose thing a request may be about: "my boss's car" in a request, "your boss's car" in a reply."""
