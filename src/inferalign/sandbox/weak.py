"""Weaker judges: the sandbox model trained on for a little, with a teacher that knows less (`knowledge`).

RAIN's gain hangs on how well its judge judges (arXiv 2309.07124). A judge that is weakened by coin flips errs anew on
every text, and a search that asks often averages that out; one that lacks knowledge errs on the same things again and
again. Here the second kind is made: same weights to start with, same tokenizer, same conversations, other verdicts (and
other questions about some of them, since what the teacher suspects takes a draw). Dialogue stays in the loss, so that
the weights stay a reader of this world. This teacher calls all bad that it suspects, and gives points as to a bad
reply: were it ever to let one pass, as the shipped judge's teacher does, its pupil's margin would go on telling
suspected replies from bad ones, however little it was to know, and a search goes by the margin.

The result serves as a judge only (`--scorer self:DIR`): the policy is to stay the model that was started from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from inferalign.engines.weights import check_folder
from inferalign.sandbox.recipe import Recipe
from inferalign.sandbox.situations.situation import WORLD_VERSION
from inferalign.sandbox.training import CARD

STEPS = 400
RATE_SHARE = 0.25
"""Of the peak learning rates of the training from scratch."""


def weaker(start: Path, *, specificity: float, steps: int = STEPS, seed: int = 0) -> Recipe:
    """The recipe that goes on from `start` with a teacher of that specificity; for `training.train(..., start=start)`.

    Raises `InputError` for a folder that the recipe did not make, a model of another world, one that was made weaker
    itself and a specificity outside [0, 1], `ModelError` for a folder without weights or tokenizer.
    """
    if not 0.0 <= specificity <= 1.0:
        raise InputError(f"specificity is {specificity}: give a share from 0 to 1, such as --specificity 0.3")
    if not (start / CARD).is_file():
        raise InputError(
            f"{start} has no {CARD}, so it is no model of the sandbox: give --from a directory that "
            "`inferalign sandbox train` wrote"
        )
    check_folder(str(start))
    recipe = _recipe_of(start)
    return replace(
        recipe,
        seed=seed,
        steps=steps,
        specificity=specificity,
        suspicion=1.0,
        grow_at=0.0,
        again_at=1.0,
        sharpened=1.0,
        learning_rate=RATE_SHARE * recipe.learning_rate,
        other_rate=RATE_SHARE * recipe.other_rate,
    )


def _recipe_of(start: Path) -> Recipe:
    """The recipe on a model's card. Raises `InputError` for a card of another world, and for one that has none."""
    card = read_json(start / CARD)
    if isinstance(card, dict) and card.get("world") != WORLD_VERSION:
        raise InputError(
            f"{start} was trained on world {card.get('world')!r}, and this is {WORLD_VERSION!r}: train one with "
            "`inferalign sandbox train --out DIR` and give that"
        )
    if isinstance(card, dict) and "start" in card:  # its rates and its teacher are not those of a first training
        raise InputError(f"{start} was made weaker itself: give --from the model that it was made from")
    try:
        return Recipe(**card["recipe"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{start / CARD} is not what `inferalign sandbox train` writes ({error}): copy the folder again"
        ) from error
