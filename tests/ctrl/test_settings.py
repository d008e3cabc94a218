"""Settings of a training: keys, types, ranges, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from inferalign.core.errors import InputError, UnknownName
from inferalign.ctrl.settings import CtrlSettings, parse_settings


def test_the_defaults_can_be_used() -> None:
    settings = CtrlSettings()
    assert settings.prompts_a_step == 8
    assert settings.at_once == settings.share == 256
    assert parse_settings({}) == settings


def test_keys_of_a_recipe_with_either_dash() -> None:
    found = parse_settings({"batch-size": 64, "micro_batch": 16, "processes": 2, "kl": 1, "beta": None})
    assert (found.share, found.at_once, found.prompts_a_step, found.kl) == (32, 16, 2, 1)


def test_an_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown key 'learning-rat'\. Did you mean 'learning_rate'"):
        parse_settings({"learning-rat": 1e-3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 2.5}, "expected a whole number"),
        ({"steps": True}, "expected a whole number"),
        ({"kl": "half"}, "expected a number"),
        ({"kl": None}, "expected a number"),
        ({"gradient_checkpointing": 1}, "expected true or false"),
        ({"transform": 10}, "expected a text"),
        ({"kl": 0}, "a positive number"),
        ({"kl": float("nan")}, "a positive number"),
        ({"beta": -0.1}, "a positive number"),
        ({"generations": 4}, "at least 8"),
        ({"batch_size": 100}, "no multiple of generations"),
        ({"processes": 3}, "no multiple of processes"),
        ({"micro_batch": 100}, "give a divisor"),
        ({"micro_batch": 0}, "at least 1"),
        ({"warmup": 300}, "below steps"),
        ({"precision": "float16"}, "float32 or bfloat16"),
        ({"kl_gain": 2.0}, "from 0"),
    ],
)
def test_what_cannot_be_used_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_settings(values)
