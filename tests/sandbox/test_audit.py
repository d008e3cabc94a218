"""The audit finds what is planted: two readings, a reply that no one can read, a copied reply, a word that tells."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inferalign.core.errors import InputError
from inferalign.core.jobs import Quiet
from inferalign.core.stats import Estimate
from inferalign.engines.weights import weights_digest
from inferalign.sandbox import audit, curriculum, recipe, training
from inferalign.sandbox.grading import grade_reply
from inferalign.sandbox.grammar import Grammar, render
from inferalign.sandbox.readers import VIEWS, Reader, cases
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import WORLD_VERSION
from inferalign.sandbox.situations.values import VALUES, Values

HERE = Quiet()


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, audit.WorldAudit], dict[str, dict[str, Reader]]]:
    return audit.audit_world(400, 3, HERE)


def test_the_world_passes_its_audit(world: tuple[dict[str, audit.WorldAudit], object]) -> None:
    audits, _ = world
    assert list(audits) == list(SITUATIONS)
    for found in audits.values():
        r = found.reading
        assert (r.replies, r.ambiguous, r.unread, r.odd_requests) == (800, 0, 0, 0)
        assert r.cuts > 2 * r.replies
        assert found.oracle.mean == 1.0
        assert list(found.readers) == [*VIEWS, "base"]
        assert 0.9 < found.distinct <= 1


def test_no_bag_of_words_comes_near_the_oracle_on_harm_and_no_prompt_tells_more_than_base_rates(
    world: tuple[dict[str, audit.WorldAudit], object],
) -> None:
    for name, found in world[0].items():
        mean = {reader: estimate.mean or 0.0 for reader, estimate in found.readers.items()}
        assert mean["prompt"] <= mean["base"] + 0.05, name
        assert mean["base"] > 0.6, "prompts differ in difficulty"
        if name == "harmful":
            assert max(mean["reply"], mean["prompt"], mean["both"]) <= 0.9


class Muddled(Values):
    """Values with a second reading of one clause."""

    grammar = Grammar(VALUES.grammar.kinds | {"echo": VALUES.grammar.kinds["respect"][:1]}, VALUES.grammar.slots)


def test_a_second_reading_is_counted_in_every_cut_that_holds_it() -> None:
    seen = cases(VALUES, "test", 1, seed=0)
    twice = "You know best what you live by."
    planted = [
        replace(seen[0], reply=f"Well, {twice[0].lower()}{twice[1:]} Good luck soon."),
        replace(seen[0], reply=f"Let go of what is blue. {twice}"),
        replace(seen[0], reply="Let go of what is blue. Nonsense. Good luck soon."),
    ]
    found = audit.reading(Muddled(), planted)
    assert (found.replies, found.cuts) == (3, 3 + 2 + 3)
    assert found.ambiguous == 2 + 1
    assert found.unread == 2
    assert audit.reading(VALUES, planted).ambiguous == 0


def test_a_request_of_another_situation_is_odd() -> None:
    (foreign,) = cases(SITUATIONS["harmful"], "test", 1, seed=0)
    (own,) = cases(VALUES, "test", 1, seed=0)
    assert audit.reading(VALUES, [own]).odd_requests == 0
    assert audit.reading(VALUES, [replace(own, request=foreign.request)]).odd_requests == 1


def test_a_reply_that_only_a_part_of_can_be_read_is_unread() -> None:
    planted = [replace(case, reply="Let go of what is blue. Good lu") for case in cases(VALUES, "test", 1, seed=0)]
    found = audit.reading(VALUES, planted)
    assert (found.cuts, found.unread) == (1, 1)


class Doubled(Values):
    """Values with a second reading of every request."""

    requests = Grammar({"ask": VALUES.requests.kinds["ask"] * 2}, VALUES.requests.slots)


def test_a_request_with_two_readings_is_odd() -> None:
    assert audit.reading(Doubled(), cases(VALUES, "test", 5, seed=0)).odd_requests == 5


def test_too_few_replies_are_refused() -> None:
    with pytest.raises(InputError, match="at least 50"):
        audit.audit_world(49, 0, HERE)


def run_of(folder: Path, card: dict[str, object] | None) -> Path:
    model = folder / "model"
    model.mkdir()
    if card is not None:
        (model / "sandbox.json").write_text(json.dumps(card))
    save_file({"w": torch.zeros(1)}, model / "model.safetensors")
    (folder / "env.json").write_text(json.dumps({"model": str(model)}))
    (folder / "config.json").write_text(json.dumps({"model": {"weights": weights_digest(str(model))}}))
    return folder


def test_what_a_model_was_trained_on_is_on_its_card(tmp_path: Path) -> None:
    card = {"world": WORLD_VERSION, "recipe": {"seed": 4, "steps": 30, "batch_size": 8}}
    assert audit.training_of(run_of(tmp_path, card)) == audit.Training(seed=4, conversations=256), "4 pools of 8 steps"


@pytest.mark.parametrize(
    ("card", "why"),
    [
        (None, "says what it was trained on"),
        ({"world": WORLD_VERSION, "recipe": {}, "start": "abc"}, "was trained on from another model"),
    ],
)
def test_a_model_whose_training_is_not_known(card: dict[str, object] | None, why: str, tmp_path: Path) -> None:
    found = audit.training_of(run_of(tmp_path, card))
    assert isinstance(found, audit.Unknown)
    assert found.reason.endswith(why)


def test_a_model_that_was_trained_anew_after_the_run_is_another(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"world": WORLD_VERSION, "recipe": {"seed": 4, "steps": 30, "batch_size": 8}})
    save_file({"w": torch.ones(1)}, run / "model" / "model.safetensors")
    why = f"{run / 'model'} holds other weights now than when the run was made"
    assert audit.training_of(run) == audit.Unknown(why)


@pytest.mark.parametrize("damage", ["[]", "{}", '{"model": null}', '{"model": [1]}', "[1]"])
def test_a_run_that_does_not_say_what_made_it(damage: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, {"world": WORLD_VERSION, "recipe": {"seed": 4, "steps": 30, "batch_size": 8}})
    (run / "config.json").write_text(damage)
    assert isinstance(audit.training_of(run), audit.Unknown)
    (run / "env.json").write_text(damage)
    assert isinstance(audit.training_of(run), audit.Unknown)


def test_a_run_that_names_no_model_and_a_card_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{}")
    assert audit.training_of(tmp_path) == audit.Unknown("the run names no model")
    with pytest.raises(InputError, match="copy the model's folder again"):
        audit.training_of(run_of(tmp_path, {"world": WORLD_VERSION, "recipe": {"seed": 1}}))


def test_every_conversation_that_a_training_met_is_looked_at(tmp_path: Path) -> None:
    """Against the recipe's own batches: the ninth step takes one of the second pool, whichever its lengths allow."""
    short = recipe.Recipe(steps=9, batch_size=2, tokenizer_dialogues=200, vocabulary=400)
    encode = training._encoder(recipe.train_tokenizer(short))
    ends = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)
    ninth = training._pool(encode, ends, short, 1)[0]
    made = audit.training_of(run_of(tmp_path, {"world": WORLD_VERSION, "recipe": asdict(short)}))
    assert isinstance(made, audit.Training)
    drawn = [curriculum.dialogue(made.seed, i) for i in range(made.conversations)]
    texts = [
        f"{curriculum.USER}{d.request.text}{curriculum.ASSISTANT}{render(d.clauses)}{curriculum.END}" for d in drawn
    ]
    places = [texts.index(_conversation(packed, encode, texts)) for packed in ninth]
    assert max(places) >= short.steps * short.batch_size, "the first steps * batch_size would miss it"


def _conversation(packed: curriculum.Packed, encode: curriculum.Encoder, texts: list[str]) -> str:
    ids = [x for x, s in zip(packed.ids, packed.segments, strict=True) if s == 0]
    return next(text for text in texts if encode(text) == ids)


def test_a_model_of_another_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of world 1, this is world"):
        audit.training_of(run_of(tmp_path, {"world": "1", "recipe": {}}))


def test_copies_are_found_word_for_word() -> None:
    training = audit.Training(seed=5, conversations=40)
    old = [render(curriculum.dialogue(5, i).clauses) for i in (0, 39, 40)]
    assert audit.copied([*old, "Good luck soon."], training, HERE) == set(old[:2])


def test_a_runs_replies_are_counted_by_situation(world: tuple[object, dict[str, dict[str, Reader]]]) -> None:
    training = audit.Training(seed=5, conversations=400)
    drawn = [curriculum.dialogue(5, i) for i in range(450)]
    values = [d for d in drawn if d.situation.name == VALUES.name]
    graded = [grade_reply(str(i), d.request.text, render(d.clauses) + " ") for i, d in enumerate(values)]
    graded.append(grade_reply("x", values[0].request.text, "Nonsense."))
    (name, found), = audit.audit_run(graded, world[1], training, HERE).items()  # fmt: skip
    texts = {render(d.clauses) for d in drawn[:400]}
    fresh = sum(render(d.clauses) not in texts for d in values)
    assert (name, found.parsed.n, found.new.n) == (VALUES.name, len(values) + 1, len(values))
    assert found.parsed.mean == pytest.approx(len(values) / (len(values) + 1))
    assert found.new.mean == pytest.approx(fresh / len(values))
    assert 0 < fresh < len(values)
    assert all(estimate.n == len(values) for estimate in found.readers.values())
    unknown = audit.audit_run(graded, world[1], audit.Unknown("no card"), HERE)
    assert unknown[VALUES.name].new == Estimate.empty()
