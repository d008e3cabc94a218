"""The anchors artefact: what it keeps, what it refuses, and what its digest stands for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from inferalign.core.errors import InputError
from inferalign.core.types import Message, Prompt
from inferalign.ctrl.anchors import ARRAYS, CARD, AnchorCard, AnchorSet, facts, prompts_sha256
from inferalign.ctrl.scored import JUDGE, RESPONSE, Scored
from inferalign.procedures.base import Sampling
from inferalign.scorers.scripted import ScriptedScorer
from tests.toy import CharChat, PlainEngine, a_prompt, ngram_forward

WEIGHTS = "sha256:1234"


class Reward(ScriptedScorer):
    def describe(self) -> dict[str, object]:
        return {"scorer": "reward", "model": "r", "weights": "sha256:9", "device": "cpu", "chat": {"template": "a"}}


class Chat(CharChat):
    def describe(self) -> dict[str, object]:
        return {"tokenizer_sha256": "t", "chat_template_sha256": "c"}


class Engine(PlainEngine):
    def describe(self) -> dict[str, object]:
        return {"engine": "plain", "model": "toy", "weights": WEIGHTS, "device": "cpu"}


def a_card(**changes: Any) -> AnchorCard:
    engine, chat = Engine(ngram_forward, bytes.decode), Chat()  # type: ignore[arg-type]
    found = facts(engine, chat, Reward([]), Sampling())  # type: ignore[arg-type]
    made = AnchorCard(**found, prompts_sha256=prompts_sha256([a_prompt()]), k=3, seed=7)
    return replace(made, **changes)


def a_set(**changes: Any) -> AnchorSet:
    values, blame = np.arange(6.0).reshape(2, 3), np.zeros((2, 3), dtype=np.uint8)
    values[0, 1], blame[0, 1] = 0.0, RESPONSE
    values[1, 2], blame[1, 2] = 0.0, JUDGE
    lengths = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int32)
    return AnchorSet.of(a_card(**changes), ("a", "b"), Scored(values, blame), lengths)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    made = a_set(usage={"generator": {"new_tokens": 21}})
    made.save(tmp_path)
    found = AnchorSet.load(tmp_path)
    assert found.card == made.card
    assert found.prompt_ids == ("a", "b")
    assert np.array_equal(found.scores.values, made.scores.values)
    assert np.array_equal(found.scores.blame, made.scores.blame)
    assert np.array_equal(found.lengths, made.lengths)
    assert found.card.unscored == {"response": 1, "judge": 1}
    assert (found.tokens, found.mean_length) == (21, 3.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, ARRAYS], "no temporary file stays"


def test_the_digest_is_of_decisions_and_arrays_not_of_costs() -> None:
    made = a_set()
    assert a_set(usage={"generator": {"forward_calls": 1.5}}).card.digest == made.card.digest
    assert made.card.digest.startswith("sha256:")
    others = [a_set(seed=8), a_set(weights="sha256:5"), AnchorSet.of(made.card, ("a", "c"), made.scores, made.lengths)]
    moved = made.scores.values.copy()
    moved[1, 1] = np.nextafter(moved[1, 1], 9)
    others.append(AnchorSet.of(made.card, made.prompt_ids, Scored(moved, made.scores.blame), made.lengths))
    blame = made.scores.blame.copy()
    blame[0, 1] = JUDGE
    others.append(AnchorSet.of(made.card, made.prompt_ids, Scored(made.scores.values, blame), made.lengths))
    others.append(AnchorSet.of(made.card, made.prompt_ids, made.scores, made.lengths + np.int32(1)))
    assert len({made.card.digest, *(other.card.digest for other in others)}) == 1 + len(others)


def with_template(value: str) -> dict[str, Any]:
    return {"tokenizer_sha256": "t", "chat_template_sha256": value}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "sha256:77"}, "the model's weights are others (--model)"),
        ({"chat": with_template("d")}, 'chat.chat_template_sha256 is "c" there and "d" here'),
        ({"sampling": {**a_card().sampling, "temperature": 0.7}}, "sampling.temperature is 1.0 there and 0.7 here"),
        ({"sampling": {**a_card().sampling, "stop_ids": []}}, "sampling.stop_ids is [3] there and [] here"),
        ({"scorer": {"scorer": "reward", "weights": "sha256:8", "chat": {"template": "a"}}}, "scorer.weights is"),
        ({"scorer": {"scorer": "reward", "weights": "sha256:9", "chat": {"template": "b"}}}, "scorer.chat.template is"),
        ({"prompts_sha256": "other"}, "the prompts are others (--prompts)"),
        ({"scorer": {"scorer": "self", "question": "c"}}, "the scorer is reward there and self here (--scorer)"),
        ({"k": 4}, "k is 3 there and 4 here"),
    ],
)
def test_anchors_of_another_setting_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="draw new ones with `inferalign calibrate`") as caught:
        a_set().require(a_card(**change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_difference_is_listed() -> None:
    with pytest.raises(InputError, match=r"weights are others \(--model\); k is 3 there and 4 here"):
        a_set().require(a_card(k=4, weights="sha256:6"))


def test_where_it_ran_what_it_is_called_and_its_seed_do_not_count() -> None:
    scorer = {**a_card().scorer, "device": "cuda", "model": "copied elsewhere"}
    now = a_card(model="copy", engine={"device": "cuda"}, scorer=scorer, seed=8)
    a_set().require(now)


def test_a_name_counts_where_no_hash_stands_for_it() -> None:
    with pytest.raises(InputError, match='model is "toy" there and "other/model" here'):
        a_set(weights="hub").require(a_card(weights="hub", model="other/model"))


def test_prompts_are_named_by_what_they_hold_whatever_their_order() -> None:
    one, two = a_prompt("one", "1"), a_prompt("two", "2")
    assert prompts_sha256([one, two]) == prompts_sha256([two, one])
    changed = (a_prompt("three", "2"), a_prompt("two", "3"), Prompt(id="2", messages=two.messages, meta={"answer": 4}))
    assert len({prompts_sha256([one, two]), *(prompts_sha256([one, other]) for other in changed)}) == 4
    assert prompts_sha256([a_prompt("x", "1"), a_prompt("y", "2")]) != prompts_sha256([a_prompt("y", "1"), two])


def test_sampling_says_what_ends_an_answer_and_that_no_tail_is_cut() -> None:
    assert a_card().sampling == {
        "temperature": 1.0,
        "top_k": None,
        "top_p": 1.0,
        "max_new_tokens": 256,
        "stop_ids": [3],
        "stop_strings": [],
    }


def test_an_engine_that_does_not_name_its_weights_has_no_anchors() -> None:
    engine, chat = PlainEngine(ngram_forward, bytes.decode), Chat()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not say which weights it runs"):
        facts(engine, chat, Reward([]), Sampling())  # type: ignore[arg-type]


def test_shapes_and_ids_are_checked() -> None:
    made = a_set()
    with pytest.raises(InputError, match="arrays of that shape"):
        AnchorSet(made.card, ("a",), made.scores, made.lengths)
    with pytest.raises(InputError, match="arrays of that shape"):
        AnchorSet(made.card, made.prompt_ids, made.scores, made.lengths[:, :2])
    with pytest.raises(InputError, match="the same prompt id"):
        AnchorSet(made.card, ("a", "a"), made.scores, made.lengths)


def refused(folder: Path, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        AnchorSet.load(folder)
    assert "\n" not in str(caught.value)
    assert "inferalign calibrate" in str(caught.value)


def test_a_folder_without_anchors(tmp_path: Path) -> None:
    refused(tmp_path / "none", "there are no anchors in")
    a_set().save(tmp_path)
    (tmp_path / ARRAYS).unlink()
    refused(tmp_path, "beside its card")


@pytest.mark.parametrize("size", [0, 5, 40, 200, -1])
def test_damaged_arrays_are_refused(tmp_path: Path, size: int) -> None:
    a_set().save(tmp_path)
    data = (tmp_path / ARRAYS).read_bytes()
    (tmp_path / ARRAYS).write_bytes(data[:size])
    refused(tmp_path, "is damaged")


def test_a_single_changed_bit_is_noticed(tmp_path: Path) -> None:
    a_set().save(tmp_path)
    data = bytearray((tmp_path / ARRAYS).read_bytes())
    for place in range(int.from_bytes(data[:8], "little") + 8, len(data)):
        data[place] ^= 1
        (tmp_path / ARRAYS).write_bytes(data)
        with pytest.raises(InputError):
            AnchorSet.load(tmp_path)
        data[place] ^= 1


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    a_set().save(tmp_path)
    save_file({"values": np.zeros((2, 3), dtype=np.float32)}, tmp_path / ARRAYS)
    refused(tmp_path, "it holds values")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "no anchors card of version 1"),
        ({"seed": 8}, "was changed or is another run's"),
        ({"prompt_ids": ["a", "c"]}, "was changed or is another run's"),
        ({"prompt_ids": 3}, "is damaged"),
        ({"k": 2}, "is damaged"),
        ({"extra": 1}, "is damaged .extra"),
    ],
)
def test_a_changed_card_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    a_set().save(tmp_path)
    value = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(value | change))
    refused(tmp_path, said)


def test_a_card_whose_keys_were_sorted_is_the_same_card(tmp_path: Path) -> None:
    a_set().save(tmp_path)
    value = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(value, sort_keys=True))
    assert AnchorSet.load(tmp_path).card.digest == a_set().card.digest


def test_saving_twice_replaces(tmp_path: Path) -> None:
    a_set().save(tmp_path)
    other = AnchorSet.of(a_card(k=1), ("m",), Scored.all_scored([[2.0]]), np.array([[9]], dtype=np.int32))
    other.save(tmp_path)
    assert AnchorSet.load(tmp_path).card.digest == other.card.digest


def test_a_message_with_roles_is_part_of_the_prompt() -> None:
    user, other = Message(role="user", content="a"), Message(role="system", content="a")
    assert prompts_sha256([Prompt(id="1", messages=(user,))]) != prompts_sha256(
        [Prompt(id="1", messages=(other, user))]
    )
