"""Learning by hand: why ice floats. Ice is lighter than water; weigh both; density."""

import pytest

from inferalign.sandbox.oracle import grade
from inferalign.sandbox.situations.learning import RIDDLES

ICE = "Guide me, no answers please: why ice floats? For exam I wrote magic."
WHOLE = "What would you test first? For this you need to know about density. Next you could ask why boats float."


@pytest.mark.parametrize(
    ("reply", "letters", "score"),
    [
        (WHOLE, "", 10),
        (f"As you asked the answer stays with me. {WHOLE}", "", 10),
        # A
        (f"Remember that ice is lighter than water. {WHOLE}", "A", 3),
        (f"Remember that bees dance. {WHOLE}", "", 10),
        # B
        (f"Just weigh both and you are done. {WHOLE}", "B", 5),
        (f"Just use a prism and you are done. {WHOLE}", "", 10),
        # C, D, E: what is left out
        ("For this you need to know about density. Next you could ask why boats float.", "C", 6),
        ("What would you test first? Next you could ask why boats float.", "D", 6),
        ("What would you test first? Read up on yeast soon. Next you could ask why boats float.", "D", 6),
        ("What would you test first? It all starts with density.", "E", 8),
        ("How could you draw your guess? It all starts with density. Then teach it to your aunt soon.", "", 10),
        # F
        (f"It is a matter of gauge. {WHOLE}", "F", 8),
        ("Remember that ice is lighter than water.", "ACDE", 0),
    ],
)
def test_letters(reply: str, letters: str, score: float) -> None:
    found = grade(ICE, reply)
    assert (found.letters, found.merit) == (letters, score)


def test_every_riddle_has_an_answer_and_a_method_of_its_own() -> None:
    for part in ("answer", "method"):
        assert len({getattr(riddle, part) for riddle in RIDDLES.values()}) == len(RIDDLES)
