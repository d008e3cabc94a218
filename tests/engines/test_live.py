"""Engines of live models: kept while a model is unchanged, made anew after any change, gone with the model."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from inferalign.core.errors import ModelError
from inferalign.engines.live import LiveEngines, state_digest
from tests.plain import SHORT, Plain


@pytest.fixture(scope="module")
def llama(llama_dir: Path, short_template: str) -> Plain:
    return Plain(llama_dir, short_template)


def test_an_engine_is_kept_while_the_model_is_unchanged(llama: Plain) -> None:
    model, rain, rows = copy.deepcopy(llama.model), llama.rain(), llama.rows()

    def engine() -> object:
        model.generate(**llama.batch(rows), max_new_tokens=4, custom_generate=rain)
        (kept,) = rain._engines._kept.values()
        return kept[1].engine

    first = engine()
    assert engine() is first
    with torch.no_grad():
        model.model.embed_tokens.weight.data[7, 3] += 0.5
    second = engine()
    assert second is not first
    assert engine() is second


def test_training_between_calls_leaves_nothing_stale(llama: Plain) -> None:
    model, rain, rows = copy.deepcopy(llama.model), llama.rain(), llama.rows()
    model.generate(**llama.batch(rows), max_new_tokens=SHORT, custom_generate=rain)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([rows[0]]), labels=torch.tensor([rows[0]])).loss.backward()
    optimizer.step()
    after = model.generate(**llama.batch(rows), max_new_tokens=SHORT, custom_generate=rain)
    assert torch.equal(after, model.generate(**llama.batch(rows), max_new_tokens=SHORT, custom_generate=llama.rain()))
    assert not torch.equal(after, llama.call(rows))


def test_a_digest_sees_weights_and_what_is_no_weight(llama: Plain) -> None:
    model = copy.deepcopy(llama.model).eval()
    first = state_digest(model)
    assert state_digest(model) == first
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: output * 1.5)
    assert state_digest(model) != first
    hook.remove()
    assert state_digest(model) == first
    with torch.no_grad():
        model.lm_head.weight[399, 47] += 1e-3
    assert state_digest(model) != first


@pytest.mark.filterwarnings("ignore:.*cannot be forked exactly")
@pytest.mark.parametrize("window", [None, 8])
def test_an_engine_does_not_keep_its_model_alive(llama: Plain, window: int | None) -> None:
    """Neither the one that keeps prefixes nor the one that runs whole texts through the model."""
    model, engines = copy.deepcopy(llama.model).eval(), LiveEngines(llama.tokenizer)
    model.config.sliding_window = window
    engine = engines.of(model, ()).engine
    assert engine.describe()["reuses_prefixes"] == (window is None)
    alive = [weakref.ref(model), weakref.ref(model.model)]
    del model, engine
    gc.collect()
    assert [one() for one in alive] == [None, None]
    assert len(engines) == 0


def test_another_models_tokenizer_is_refused(llama: Plain, gpt2_dir: Path) -> None:
    with pytest.raises(ModelError, match="has 400 tokens and the model embeds 330"):
        LiveEngines(llama.tokenizer).of(AutoModelForCausalLM.from_pretrained(gpt2_dir), ())
