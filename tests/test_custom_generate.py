"""`model.generate(..., custom_generate=inferalign.rain(tokenizer))` on plain transformers models."""

from __future__ import annotations

import ast
import asyncio
import copy
import re
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, TextStreamer
from transformers.generation import GenerateDecoderOnlyOutput

import inferalign
from inferalign.core.errors import ContextOverflow, InputError, UnknownName
from inferalign.core.types import Completion, Message, Prompt, StopReason, TokenIds
from inferalign.custom_generate import as_prompt, end_of, prompt_id
from inferalign.engines.chat import ChatFormat
from inferalign.engines.live import state_digest
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling
from tests.plain import QUICK, SHORT, TEXTS, Plain


@pytest.fixture(scope="module")
def sandbox(small_model: str) -> Plain:
    return Plain(Path(str(files("inferalign.sandbox"))) / "model" if small_model == "sandbox" else Path(small_model))


@pytest.fixture(scope="module")
def llama(llama_dir: Path, short_template: str) -> Plain:
    return Plain(llama_dir, short_template)


@pytest.fixture(scope="module", params=("llama", "gpt2", "qwen"))
def plain(request: pytest.FixtureRequest, short_template: str) -> Plain:
    return Plain(request.getfixturevalue(f"{request.param}_dir"), short_template)


def ours(plain: Plain, rows: list[TokenIds], texts: tuple[str, ...], **options: Any) -> list[Completion]:
    """What `inferalign.generate` answers to the conversations that the rows were rendered from."""
    prompts = [
        Prompt(id=prompt_id(row), messages=(Message(role="user", content=text),))
        for row, text in zip(rows, texts, strict=True)
    ]
    results = inferalign.generate(
        load(str(plain.folder), ModelOptions(device="cpu")),
        "rain",
        prompts,
        rain=QUICK,
        scorer=plain.scorer,
        sampling=Sampling(max_new_tokens=SHORT),
        **options,
    )
    return [result.response for result in results]


def test_the_tokens_are_those_of_generate(plain: Plain) -> None:
    """Prompt ids, judge and draws alike: the messages are found again in the rendered ids."""
    rows = plain.rows()
    expected = ours(plain, rows, TEXTS, seed=5)
    got = plain.answers(rows, callable_=plain.rain(seed=5))
    ends = plain.chat.end_ids
    for answer, response in zip(got, expected, strict=True):
        assert [token for token in answer if token not in ends] == list(response.token_ids)


def test_an_answer_that_ended_has_its_end_token(sandbox: Plain) -> None:
    rows = sandbox.rows()
    out = sandbox.call(rows, max_new_tokens=64)
    (end,) = sandbox.chat.end_ids
    new = out[:, max(map(len, rows)) :].tolist()
    for row in new:
        at = row.index(end)
        assert set(row[at + 1 :]) <= {sandbox.tokenizer.pad_token_id}
    assert len(new[0]) <= 64
    assert any(row[-1] == end for row in new), "as wide as the longest answer, and no wider"


def test_batch_and_one_by_one_agree(plain: Plain) -> None:
    rows = plain.rows()
    together = plain.answers(rows)
    assert together == [plain.answers([row])[0] for row in rows]
    assert together[::-1] == plain.answers(rows[::-1], callable_=plain.rain(concurrency=1))


def test_the_prompt_part_is_as_given(llama: Plain) -> None:
    rows = llama.rows()
    inputs = llama.batch(rows)
    out = llama.call(rows)
    width = inputs["input_ids"].shape[1]
    assert inputs["attention_mask"].min() == 0
    assert (out.dtype, out.device) == (torch.int64, inputs["input_ids"].device)
    assert torch.equal(out[:, :width], inputs["input_ids"])
    assert width < out.shape[1] <= width + SHORT


def test_equal_rows_are_equal_and_seeds_differ(llama: Plain) -> None:
    rows = llama.rows()[:1] * 3
    first = llama.call(rows)
    assert torch.equal(first, first[:1].expand(3, -1))
    others = [llama.answers(rows[:1], callable_=llama.rain(seed=seed))[0] for seed in range(1, 4)]
    assert any(other != llama.answers(rows[:1])[0] for other in others)


def test_lengths_are_honoured(llama: Plain) -> None:
    row = llama.rows()[:1]
    assert llama.call(row, max_new_tokens=5).shape[1] <= len(row[0]) + 5
    by_length = llama.call(row, max_new_tokens=None, max_length=len(row[0]) + 5)
    assert torch.equal(by_length, llama.call(row, max_new_tokens=5))
    by_config = llama.call(row, generation_config=GenerationConfig(max_new_tokens=5))
    assert torch.equal(by_config, by_length)


def test_end_tokens_of_the_call_end_an_answer(llama: Plain) -> None:
    row = llama.rows()[:1]
    whole = llama.answers(row)[0]
    marks = sorted(set(whole[3:6]))
    for ends in (marks, marks[0]):
        answer = llama.answers(row, eos_token_id=ends)[0]
        stops = {*marks} if isinstance(ends, list) else {ends}
        assert not stops & set(answer[:-1]), "nothing follows an end token"


def test_the_end_token_is_the_most_probable_of_several(llama: Plain) -> None:
    row = llama.rows()[0]
    loaded = load(str(llama.folder), ModelOptions(device="cpu"))
    with torch.inference_mode():
        logits = llama.model(torch.tensor([[*row, 20, 21]])).logits[0, -1]
    ends = [40, 50, 60, 70]
    several = LoadedModel(loaded.engine, ChatFormat(llama.tokenizer, end_ids=ends))
    best = max([*ends, llama.tokenizer.eos_token_id], key=lambda token: float(logits[token]))
    ended = Completion(token_ids=(20, 21), text="", stop=StopReason.END)
    assert asyncio.run(end_of(ended, row, several, 8)) == (best,)
    assert asyncio.run(end_of(ended, row, loaded, 8)) == (llama.tokenizer.eos_token_id,)
    assert asyncio.run(end_of(ended, row, several, 2)) == (), "no room for one"
    cut = Completion(token_ids=(20, 21), text="", stop=StopReason.LENGTH)
    assert asyncio.run(end_of(cut, row, several, 8)) == ()


def test_an_output_object_if_asked_for(llama: Plain) -> None:
    rows = llama.rows()
    out = llama.call(rows, return_dict_in_generate=True)
    assert isinstance(out, GenerateDecoderOnlyOutput)
    assert torch.equal(out.sequences, llama.call(rows))


def test_a_running_event_loop_is_no_obstacle(llama: Plain) -> None:
    async def notebook() -> torch.Tensor:
        return llama.call(llama.rows())

    assert torch.equal(asyncio.run(notebook()), llama.call(llama.rows()))


def test_an_error_comes_out_of_a_running_event_loop(llama: Plain) -> None:
    async def notebook() -> None:
        llama.call([llama.rows()[0], (5,) * 255])

    with pytest.raises(ContextOverflow):
        asyncio.run(notebook())


def test_the_model_is_left_as_it_was(llama: Plain) -> None:
    model = copy.deepcopy(llama.model).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before = snapshot(model)
    for rows in (llama.rows(), [(5,) * 255]):
        try:
            model.generate(**llama.batch(rows), max_new_tokens=4, custom_generate=llama.rain())
        except ContextOverflow:
            assert len(rows) == 1
        assert modes == [module.training for module in model.modules()]
        assert snapshot(model) == before
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_model_in_training_answers_without_dropout(gpt2_dir: Path, short_template: str) -> None:
    gpt2 = Plain(gpt2_dir, short_template)
    still = gpt2.call(gpt2.rows())
    gpt2.model.train()
    assert gpt2.model.config.resid_pdrop > 0
    assert torch.equal(gpt2.call(gpt2.rows()), still)


def snapshot(model: Any) -> tuple[object, ...]:
    return (
        model.config.to_dict(),
        model.config._attn_implementation,
        model.generation_config.to_dict(),
        set(vars(model)),
        {name: dict(module._forward_hooks) for name, module in model.named_modules()},
        state_digest(copy.deepcopy(model).eval()),
    )


def test_a_judge_that_quotes_the_user_gets_the_last_turn(plain: Plain) -> None:
    turns = (
        Message(role="user", content="Hello"),
        Message(role="assistant", content="Yes."),
        Message(role="user", content="Why, then?"),
    )
    prompt = as_prompt(plain.chat.render(turns), plain.chat)
    assert prompt.text.strip() == "Why, then?"
    raw = plain.chat.encode("once upon a time")
    assert as_prompt(raw, plain.chat).text == plain.chat.decode(raw)


def test_the_id_is_the_hash_of_the_ids(llama: Plain) -> None:
    """SHA-256 of the bytes 01000000 2c010000."""
    assert prompt_id((1, 300)) == "3d39c1cd1d33bc4e88dde69aae6ba839c75c2483a9003b9877e2182f951c258e"
    assert prompt_id((1, 300)) != prompt_id((300, 1))


def test_a_prompt_that_does_not_fit_is_named_by_its_row(llama: Plain) -> None:
    rain = llama.rain()
    with pytest.raises(ContextOverflow) as caught:
        llama.call([llama.rows()[0], (5,) * 255], rain)
    assert caught.value.__notes__ == ["in row 1 of the batch"]
    assert torch.equal(llama.call(llama.rows(), rain), llama.call(llama.rows())), "the next call is not harmed"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokenizer": "sandbox"}, InputError, r"given a str: .*rain\(AutoTokenizer"),
        ({"setting": "papr"}, UnknownName, "Did you mean 'paper'"),
        ({"concurrency": 0}, InputError, "concurrency is 0"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(
    llama: Plain, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        inferalign.rain(**({"tokenizer": llama.tokenizer} | arguments))


class Heard(TextStreamer):
    """Keeps what it is given, and how many forwards there had been by then."""

    def __init__(self, plain: Plain) -> None:
        super().__init__(plain.tokenizer)
        self.values: list[list[int]] = []
        self.forwards: list[int] = []
        self.count = self.ended = 0
        self.hook = plain.model.get_input_embeddings().register_forward_hook(self.forward)

    def forward(self, *_: object) -> None:
        self.count += 1

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.tolist())
        self.forwards.append(self.count)

    def end(self) -> None:
        self.ended += 1
        self.hook.remove()


def test_a_streamer_hears_the_prompt_and_each_token_as_it_is_committed(llama: Plain) -> None:
    rows, heard = llama.rows()[:1], Heard(llama)
    out = llama.call(rows, llama.rain(streamer=heard))
    assert heard.values[0] == list(rows[0])
    assert list(chain(*heard.values)) == out[0].tolist()
    assert {len(value) for value in heard.values[1:]} == {1}
    assert len(set(heard.forwards)) > 3, "not all at the end"
    assert heard.ended == 1
    assert torch.equal(out, llama.call(rows))


def test_the_page_runs(sandbox: Plain, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "transformers.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(snippet, "docs/transformers.md", "exec"), {"name": str(sandbox.folder)})
    assert len(ast.literal_eval(capsys.readouterr().out)) == 2


def test_a_streamer_takes_one_row(llama: Plain) -> None:
    with pytest.raises(InputError, match="batch of one prompt, and 3"):
        llama.call(llama.rows(), llama.rain(streamer=TextStreamer(llama.tokenizer)))
