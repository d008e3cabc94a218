"""What a call of `model.generate` may ask of RAIN, and what is refused with words that help."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration
from transformers.generation import LogitsProcessorList, MaxTimeCriteria, TemperatureLogitsWarper

from inferalign.core.errors import InputError
from tests.plain import SHORT, Plain


@pytest.fixture(scope="module")
def llama(llama_dir: Path, short_template: str) -> Plain:
    return Plain(llama_dir, short_template)


REFUSED: dict[str, dict[str, Any]] = {
    "num_beams is 2": {"num_beams": 2},
    "num_return_sequences is 3": {"num_return_sequences": 3, "do_sample": True},
    "temperature=0.7": {"do_sample": True, "temperature": 0.7},
    "do_sample=True": {"do_sample": True},
    "top_p=0.9": {"do_sample": True, "top_p": 0.9},
    "top_k=5": {"generation_config": GenerationConfig(do_sample=True, top_k=5, max_new_tokens=4)},
    "repetition_penalty=1.3": {"repetition_penalty": 1.3},
    "min_new_tokens=3": {"min_new_tokens": 3},
    "max_time=9": {"max_time": 9.0},
    "output_scores=True": {"output_scores": True, "return_dict_in_generate": True},
    r"logits processor \(TemperatureLogitsWarper\)": {
        "logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)])
    },
    r"logits processor \(PrefixConstrained": {"prefix_allowed_tokens_fn": lambda row, ids: [1, 2]},
    "stopping criterion \\w+": {"stopping_criteria": [MaxTimeCriteria(9.0)]},
    "stopping criterion function": {"stopping_criteria": [lambda ids, scores, **rest: False]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_search_cannot_honour_is_refused(llama: Plain, message: str) -> None:
    with pytest.raises(InputError, match=message):
        llama.call(llama.rows()[:1], **REFUSED[message])


def test_embeddings_and_a_filled_cache_are_refused(llama: Plain) -> None:
    (row,) = llama.rows()[:1]
    ids = torch.tensor([row])
    with pytest.raises(InputError, match=r"inputs_embeds: RAIN reads"):
        llama.model.generate(
            inputs_embeds=llama.model.get_input_embeddings()(ids), max_new_tokens=4, custom_generate=llama.rain()
        )
    cache = llama.model(ids[:, :3]).past_key_values
    with pytest.raises(InputError, match="past_key_values"):
        llama.model.generate(ids, past_key_values=cache, max_new_tokens=4, custom_generate=llama.rain())


def test_positions_that_a_search_would_not_hear_are_refused(llama: Plain) -> None:
    (row,) = llama.rows()[:1]
    ids = torch.tensor([row])
    counted = torch.arange(len(row))[None]
    with pytest.raises(InputError, match="position_ids that do not count"):
        llama.model.generate(ids, position_ids=37 * counted, max_new_tokens=4, custom_generate=llama.rain())
    same = llama.model.generate(ids, position_ids=counted, max_new_tokens=4, custom_generate=llama.rain())
    assert torch.equal(same, llama.model.generate(ids, max_new_tokens=4, custom_generate=llama.rain()))


def test_a_processor_of_the_call_is_not_taken_for_the_models_own(llama: Plain) -> None:
    """A model that samples has a top-k warper of its own, and here no temperature; with one, not two of them."""
    model = copy.deepcopy(llama.model)
    model.generation_config.update(do_sample=True)
    inputs, colder = llama.batch(llama.rows()), LogitsProcessorList([TemperatureLogitsWarper(0.2)])
    for temperature in (1.0, 0.6):
        model.generation_config.update(temperature=temperature)
        with pytest.raises(InputError, match=r"logits processor \(TemperatureLogitsWarper\)"):
            model.generate(**inputs, max_new_tokens=4, logits_processor=colder, custom_generate=llama.rain())


def test_right_padding_is_refused(llama: Plain) -> None:
    inputs = llama.batch(llama.rows())
    flipped = {name: value.flip(1) for name, value in inputs.items()}
    with pytest.raises(InputError, match="padding_side = 'left'"):
        llama.model.generate(**flipped, max_new_tokens=4, custom_generate=llama.rain())
    inputs["attention_mask"][1] = 0
    with pytest.raises(InputError, match="row 1 of input_ids is all padding"):
        llama.model.generate(**inputs, max_new_tokens=4, custom_generate=llama.rain())


def test_the_models_own_sampling_defaults_play_no_role(llama: Plain) -> None:
    model = copy.deepcopy(llama.model)
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.05)
    rows = llama.rows()
    out = model.generate(**llama.batch(rows), max_new_tokens=SHORT, custom_generate=llama.rain())
    assert torch.equal(out, llama.call(rows))
    with pytest.raises(InputError, match=r"top_p=0\.5"):
        model.generate(**llama.batch(rows), max_new_tokens=SHORT, top_p=0.5, custom_generate=llama.rain())


def test_settings_that_change_nothing_may_be_named(llama: Plain) -> None:
    rows = llama.rows()[:1]
    named = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "output_logits": False}
    assert torch.equal(llama.call(rows, **named), llama.call(rows))


def test_a_batch_needs_a_pad_token_before_it_is_searched(llama: Plain) -> None:
    model = copy.deepcopy(llama.model)
    model.generation_config.eos_token_id = None
    rain = llama.rain()
    with pytest.raises(InputError, match=r"pad_token_id=tokenizer\.eos_token_id"):
        model.generate(**llama.batch(llama.rows()), max_new_tokens=4, custom_generate=rain)
    one = llama.rows()[:1]
    out = model.generate(**llama.batch(one), max_new_tokens=SHORT, custom_generate=rain)
    assert torch.equal(out, llama.call(one)), "the tokenizer's end token ends an answer, too"


def test_an_encoder_decoder_is_refused(llama: Plain) -> None:
    config = T5Config(vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(InputError, match="T5ForConditionalGeneration is an encoder-decoder"):
        T5ForConditionalGeneration(config).generate(
            torch.tensor([[5, 6]]), max_new_tokens=4, custom_generate=llama.rain()
        )
