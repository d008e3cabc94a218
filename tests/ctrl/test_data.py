"""Prompts for training: rendered once, ordered beforehand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inferalign.core.errors import InputError
from inferalign.core.types import Message, Prompt
from inferalign.ctrl.data import Rendered, dataset, digest, order, render
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.chat import ChatFormat

SETTINGS = CtrlSettings(batch_size=32, generations=8, steps=7, warmup=0)


def test_each_epoch_is_a_permutation_and_no_prompt_is_dropped() -> None:
    places = order(5, SETTINGS)
    assert len(places) == 4 * 7
    assert [sorted(places[i : i + 5]) for i in range(0, 25, 5)] == [list(range(5))] * 5
    assert places[:5] != places[5:10]
    assert places == order(5, SETTINGS)
    assert places != order(5, replace(SETTINGS, seed=1))


@given(prompts=st.integers(4, 40), steps=st.integers(1, 20))
def test_prompts_are_seen_equally_often(prompts: int, steps: int) -> None:
    counts = Counter(order(prompts, replace(SETTINGS, steps=steps)))
    assert max(counts.values()) - min(counts[i] for i in range(prompts)) <= 1


def test_a_longer_training_begins_as_a_shorter_one() -> None:
    assert order(9, replace(SETTINGS, steps=20))[:28] == order(9, SETTINGS)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="3 prompts are fewer than the 4 that a step takes"):
        order(3, SETTINGS)


def test_rows_are_token_ids_with_their_prompts_id() -> None:
    rendered = [Rendered("a", (1, 2)), Rendered("b", (3,))]
    rows = dataset(rendered, [1, 0, 1])
    assert rows["prompt"][:] == [[3], [1, 2], [3]]
    assert rows["prompt_id"][:] == ["b", "a", "b"]
    assert digest(rendered) != digest(rendered[::-1])


def test_prompts_are_rendered_as_the_engines_do(llama_dir: Path) -> None:
    chat = ChatFormat(AutoTokenizer.from_pretrained(llama_dir))
    prompts = [
        Prompt(id="a", messages=(Message(role="user", content="How?"),)),
        Prompt(id="b", messages=(Message(role="user", content="Why?"),), token_ids=(7, 8)),
    ]
    found = render(prompts, chat, room=100)
    assert found == [Rendered("a", chat.render(prompts[0].messages)), Rendered("b", (7, 8))]
    assert found[0].token_ids.count(chat.encode("<|begin|>")[0]) == 1
