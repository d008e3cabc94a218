"""Each tokenizer's own way of writing a chat, and what a judgement may ask of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from inferalign.core.errors import InputError, ModelError
from inferalign.core.types import Message
from inferalign.engines.chat import ChatFormat

TURNS = (
    Message(role="system", content="Be short."),
    Message(role="user", content="Hello"),
    Message(role="assistant", content="Yes."),
    Message(role="user", content="Why, then?"),
)


def chat(folder: Path, **options: object) -> ChatFormat:
    return ChatFormat(AutoTokenizer.from_pretrained(folder), **options)


def test_a_template_is_followed(llama_dir: Path, qwen_dir: Path) -> None:
    llama = chat(llama_dir)
    whole = llama._tokenizer.decode(llama.render(TURNS), skip_special_tokens=False)
    assert whole == "<|begin|><|system|>Be short.<|end|><|user|>Hello<|end|><|assistant|>Yes.<|end|>" + (
        "<|user|>Why, then?<|end|><|assistant|>"
    )
    assert llama.stop_strings == ()
    assert llama.end_ids == {llama._tokenizer.convert_tokens_to_ids("<|end|>")}
    qwen = chat(qwen_dir)
    assert qwen._tokenizer.decode(qwen.render(TURNS[1:2]), skip_special_tokens=False).endswith(
        "<|im_start|> assistant\n"
    )


def test_without_a_template_a_transcript(gpt2_dir: Path) -> None:
    gpt2 = chat(gpt2_dir)
    assert gpt2.decode(gpt2.render(TURNS)) == (
        "Be short.\n\nHuman: Hello\n\nAssistant: Yes.\n\nHuman: Why, then?\n\nAssistant:"
    )
    assert gpt2.stop_strings == ("\nHuman:",)


def test_a_template_given_replaces_it_and_is_recorded(llama_dir: Path) -> None:
    own, other = chat(llama_dir), chat(llama_dir, template="{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    assert other.decode(other.render(TURNS[1:2])) == "Hello!"
    assert own.describe() != other.describe()


def test_a_template_that_refuses_is_an_input_error(llama_dir: Path) -> None:
    picky = chat(llama_dir, template="{{ raise_exception('no system turn here') }}")
    with pytest.raises(InputError, match=r"system user assistant user.*no system turn here"):
        picky.render(TURNS)


def test_a_template_that_is_none_is_told_once_when_the_model_loads(llama_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"not valid Jinja, line 2: .*--chat-template FILE"):
        chat(llama_dir, template="{% for m in messages %}\n{{ m['content' }}{% endfor %}")


def test_a_text_longer_than_the_tokenizer_expects_is_encoded_without_a_warning(
    llama_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("transformers").addHandler(caplog.handler)  # it does not propagate to the root
    try:
        tokenizer = AutoTokenizer.from_pretrained(llama_dir, model_max_length=4)
        assert len(ChatFormat(tokenizer).encode("a b c d e f g h")) > 4
        assert caplog.text == ""
        tokenizer.encode("a b c d e f g h")
        assert "longer than the specified maximum" in caplog.text
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)


def test_special_tokens_in_text_are_parsed_and_none_is_added(llama_dir: Path) -> None:
    llama = chat(llama_dir)
    assert llama.encode("<|end|>") == tuple(llama.end_ids)
    assert llama.decode(llama.encode(" two  spaces , kept")) == " two  spaces , kept"


def test_end_ids_of_the_generation_config_are_added(llama_dir: Path) -> None:
    assert chat(llama_dir, end_ids=[7, 8]).end_ids >= {7, 8} | chat(llama_dir).end_ids


def test_clause_ends(llama_dir: Path) -> None:
    llama = chat(llama_dir)
    ends = {llama.decode([i]) for i in llama.clause_end_ids}
    assert {",", ".", "?", ":", ";", "\n"} <= ends
    assert all(text[-1] in ",.?:;\n" for text in ends)
    assert not llama.clause_end_ids & llama.end_ids
    assert llama.encode("a")[0] not in llama.clause_end_ids


@pytest.mark.parametrize("name", ["llama_dir", "gpt2_dir", "qwen_dir"])
def test_labels_are_single_tokens_in_place(name: str, request: pytest.FixtureRequest) -> None:
    form = chat(request.getfixturevalue(name))
    first, second = form.label_ids("The answer is: (", ("A", "B"))
    assert (form.decode([first]).strip(), form.decode([second]).strip()) == ("A", "B")


def test_labels_that_cannot_be_read_are_refused(llama_dir: Path) -> None:
    llama = chat(llama_dir)
    with pytest.raises(ModelError, match=r"'Zebra' is not one token"):
        llama.label_ids("The answer is: (", ("A", "Zebra"))
    with pytest.raises(ModelError, match="same token"):
        llama.label_ids("The answer is: (", ("A", "A"))
    with pytest.raises(ModelError, match="is not one token"):
        llama.label_ids("The answer is: (", ("",))
    # " h" merges over the cut: after a tail that ends in a space, "h" is no token of its own.
    with pytest.raises(ModelError, match="is not one token"):
        llama.label_ids("The answer", (" is:",))


@pytest.mark.parametrize("folder", ["llama_dir", "gpt2_dir", "qwen_dir"])
def test_the_last_user_turn_is_found_in_a_rendered_chat(folder: str, request: pytest.FixtureRequest) -> None:
    format_ = chat(request.getfixturevalue(folder))
    for turns in (TURNS, TURNS[:2], TURNS[1:2]):
        text = format_.user_text(format_.render(turns))
        assert text is not None
        assert text.strip() == turns[-1].content
    begun = format_.render(TURNS) + format_.encode("Because")
    assert format_.user_text(begun) == format_.user_text(format_.render(TURNS)), "the beginning of an answer is no turn"
    assert format_.user_text(format_.encode("Why, then?")) is None


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] }}!{% endfor %}",
        "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}User: {{ messages[0]['content'] }} Bot:",
    ],
    ids=["nothing before a turn", "one turn only"],
)
def test_without_marks_no_turn_is_found(llama_dir: Path, template: str) -> None:
    bare = chat(llama_dir, template=template)
    assert bare.user_text(bare.render(TURNS[1:2])) is None
