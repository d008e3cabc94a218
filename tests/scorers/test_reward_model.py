"""A reward model as a scorer: what it reads, what shares a pass, what it cannot score, and what it refuses to load."""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from inferalign.cli.main import main
from inferalign.core.errors import ContextOverflow, InputError, ModelError, UnknownName
from inferalign.core.records import read_records
from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, StopReason, Unscored
from inferalign.ctrl.combined import CombinedScorer
from inferalign.engines.chat import ChatFormat
from inferalign.engines.table import ModelOptions, load
from inferalign.engines.weights import weights_digest
from inferalign.scorers.base import require_room
from inferalign.scorers.reward_delta import (
    CARD,
    TENSORS,
    DeltaCard,
    apply_delta,
    read_card,
    trained_names,
    write_delta,
)
from inferalign.scorers.reward_model import RewardRows, load_reward, open_classifier
from inferalign.scorers.scripted import ScriptedScorer
from inferalign.scorers.table import build_scorer
from tests.toy import a_prompt


def classifier(path: Path, base: Path, *, labels: int = 1, pad: int | None = 0) -> Path:
    """A random sequence-classification directory on a random language model."""
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    model.config.pad_token_id = pad
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(base).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reward_dir(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path) -> Path:
    return classifier(tmp_path_factory.mktemp("reward"), llama_dir)


def chat_of(folder: Path) -> ChatFormat:
    return ChatFormat(AutoTokenizer.from_pretrained(folder))


def drawn(ids: tuple[int, ...], stop: StopReason = StopReason.END, text: str = "") -> Completion:
    return Completion(token_ids=ids, text=text, stop=stop)


def answers(n: int, vocabulary: int = 200, longest: int = 40) -> list[Completion]:
    draw = random.Random(1)
    # Ids above the specials and below the spare tokens, of many lengths.
    return [drawn(tuple(draw.randrange(10, vocabulary) for _ in range(draw.randrange(longest)))) for _ in range(n)]


def scores(scorer: Any, prompt: Prompt, completions: list[Completion]) -> list[Score | Unscored]:
    return asyncio.run(scorer.score(prompt, completions, RoleUsage()))


def values(scorer: Any, prompt: Prompt, completions: list[Completion]) -> list[float]:
    return [s.value for s in scores(scorer, prompt, completions) if isinstance(s, Score)]


def test_it_is_the_models_output_at_the_end_of_the_turn(llama_dir: Path, reward_dir: Path) -> None:
    """Against transformers alone, on the conversation that its template writes."""
    tokenizer = AutoTokenizer.from_pretrained(reward_dir)
    model = AutoModelForSequenceClassification.from_pretrained(reward_dir).eval()
    text = "Every second day; not at noon."
    turns = [{"role": "user", "content": "How, then?"}, {"role": "assistant", "content": text}]
    ids = tokenizer.apply_chat_template(turns, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits.item()
    answer = drawn(tuple(tokenizer.encode(text, add_special_tokens=False)), text=text)
    (found,) = values(load_reward(reward_dir, policy=chat_of(llama_dir)), a_prompt("How, then?"), [answer])
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("base", ["llama_dir", "gpt2_dir", "qwen_dir"])
@pytest.mark.parametrize("pad", [0, None])
def test_a_score_does_not_depend_on_what_shares_its_pass(
    tmp_path: Path, base: str, pad: int | None, request: pytest.FixtureRequest
) -> None:
    reward = load_reward(classifier(tmp_path, request.getfixturevalue(base), pad=pad))
    prompt, completions = a_prompt("How?"), answers(24)
    alone = [values(reward, prompt, [completion])[0] for completion in completions]
    assert values(reward, prompt, completions) == pytest.approx(alone, abs=1e-5)
    turned = values(reward, prompt, completions[::-1])
    assert turned[::-1] == pytest.approx(alone, abs=1e-5)
    assert values(reward, prompt, completions) == values(reward, prompt, completions)
    assert max(alone) - min(alone) > 0.1


def test_a_model_that_looks_both_ways_does_not_see_padding(tmp_path: Path, llama_dir: Path) -> None:
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=400, num_labels=1, initializer_range=0.3, max_position_embeddings=256, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama_dir).save_pretrained(tmp_path)
    reward, prompt, completions = load_reward(tmp_path), a_prompt("How?"), answers(12)
    alone = [values(reward, prompt, [completion])[0] for completion in completions]
    assert values(reward, prompt, completions) == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 0.1


def test_cost_is_tokens_without_padding(reward_dir: Path) -> None:
    reward, usage = load_reward(reward_dir), RoleUsage()
    completions = [drawn((20,)), drawn((21, 22, 23))]
    asyncio.run(reward.score(a_prompt("How?"), completions, usage))
    assert usage.tokens_fed == sum(len(reward.rows(a_prompt("How?"), completion)) for completion in completions)
    assert usage.forward_calls == 1


def test_drawn_ids_are_never_encoded_again_where_the_tokenizer_is_shared(llama_dir: Path, reward_dir: Path) -> None:
    policy = chat_of(llama_dir)
    rows = load_reward(reward_dir, policy=policy).rows
    ids = tuple(policy.encode("H") + policy.encode("o") + policy.encode("w"))
    assert ids != policy.encode("How")
    row = rows(a_prompt("Hi?"), drawn(ids, text="How"))
    assert row == policy.render(a_prompt("Hi?").messages) + ids + policy.encode("<|end|>")
    assert rows(a_prompt("Hi?"), drawn(ids, StopReason.PARTIAL, "How")) == row[:-1]
    assert rows(a_prompt("Hi?"), drawn(ids, StopReason.LENGTH, "How")) == row[:-1]


def test_a_prompt_that_came_as_ids_is_read_as_it_came(llama_dir: Path) -> None:
    prompt = Prompt(id="p", messages=a_prompt("Hi?").messages, token_ids=(1, 20, 21))
    assert RewardRows(chat_of(llama_dir))(prompt, drawn((30,), StopReason.PARTIAL)) == (1, 20, 21, 30)


def test_a_question_follows_whole_and_cut_answers_alike(llama_dir: Path, gpt2_dir: Path) -> None:
    llama = chat_of(llama_dir)
    rows = RewardRows(llama, question="<|user|>Good?")
    asked = (*llama.render(a_prompt("Hi?").messages), 20, *llama.encode("<|user|>Good?"))
    assert all(rows(a_prompt("Hi?"), drawn((20,), stop)) == asked for stop in StopReason)
    read = RewardRows(llama, chat_of(gpt2_dir), question="<|user|>Good?")
    assert read(a_prompt("Hi?"), drawn((1,), text="Yes.")) == llama.encode(
        "<|begin|><|user|>Hi?<|end|><|assistant|>Yes.<|user|>Good?"
    )


def test_another_tokenizers_answer_is_read_as_text(qwen_dir: Path, llama_dir: Path) -> None:
    llama, qwen = chat_of(llama_dir), chat_of(qwen_dir)
    rows = RewardRows(llama, qwen)
    assert not rows.shares_tokenizer
    whole = rows(a_prompt("Hi?"), drawn((1, 2), text="Every day."))
    assert whole == llama.encode("<|begin|><|user|>Hi?<|end|><|assistant|>Every day.<|end|>")
    assert rows(a_prompt("Hi?"), drawn((1, 2), StopReason.PARTIAL, "Every day.")) == whole[:-1]


def test_without_a_template_a_whole_answer_is_followed_by_a_blank_line(gpt2_dir: Path, qwen_dir: Path) -> None:
    gpt2 = chat_of(gpt2_dir)
    assert gpt2.decode(RewardRows(gpt2)(a_prompt("Hi?"), drawn(gpt2.encode(" Yes.")))).endswith(": Yes.\n\n")
    read = RewardRows(gpt2, chat_of(qwen_dir))
    assert gpt2.decode(read(a_prompt("Hi?"), drawn((1,), text=" Yes."))) == "Human: Hi?\n\nAssistant: Yes.\n\n"
    assert gpt2.decode(read(a_prompt("Hi?"), drawn((1,), StopReason.PARTIAL, " Yes."))).endswith(": Yes.")


def test_what_does_not_fit_is_unscored_and_the_others_are_scored(reward_dir: Path) -> None:
    reward = load_reward(reward_dir)
    room = reward.context_length - len(reward.rows(a_prompt("How?"), drawn(())))
    fits, long = drawn((20,) * room), drawn((20,) * (room + 1))
    found = scores(reward, a_prompt("How?"), [long, fits, long])
    assert [isinstance(score, Score) for score in found] == [False, True, False]
    assert isinstance(found[0], Unscored)
    assert found[0].blame == "judge"
    assert str(reward.context_length) in found[0].reason


def test_answers_that_could_not_be_judged_are_refused_beforehand(
    llama_dir: Path, gpt2_dir: Path, reward_dir: Path
) -> None:
    """In training they would cost nothing: what the judge fails on has no reward, and no KL."""
    reward, prompt = load_reward(reward_dir, policy=chat_of(llama_dir)), a_prompt("How?")
    room = reward.room(prompt)
    assert room is not None
    for stop in (StopReason.END, StopReason.LENGTH):
        fits, beyond = scores(reward, prompt, [drawn((5,) * n, stop) for n in (room, room + 2)])
        assert isinstance(fits, Score)
        assert isinstance(beyond, Unscored)
    require_room(reward, [prompt], room)
    with pytest.raises(ContextOverflow, match=f"answers of at most {room} tokens to prompt '{prompt.id}'"):
        require_room(reward, [prompt], room + 1)
    both = CombinedScorer([reward, ScriptedScorer([])], "min")
    assert both.room(prompt) == room
    as_text = load_reward(reward_dir, policy=chat_of(gpt2_dir))
    assert as_text.room(prompt) is None, "text may become more tokens, or fewer"
    require_room(as_text, [prompt], 10**6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_unscored(tmp_path: Path, reward_dir: Path, value: float) -> None:
    broken = Path(shutil.copytree(reward_dir, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["score.weight"][0, 0] = value
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    (found,) = scores(load_reward(broken), a_prompt(), [drawn((20, 21))])
    assert isinstance(found, Unscored)
    assert found.blame == "judge"
    assert "nan" in found.reason or "inf" in found.reason


def test_a_conversation_that_its_template_refuses_is_unscored(tmp_path: Path, reward_dir: Path) -> None:
    picky = Path(shutil.copytree(reward_dir, tmp_path / "picky"))
    template = picky / "chat_template.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + template.read_text()
    )
    turns = (Message(role="system", content="Be short."), Message(role="user", content="How?"))
    (found,) = scores(load_reward(picky), Prompt(id="p", messages=turns), [drawn((20,))])
    assert isinstance(found, Unscored)
    assert found.blame == "judge"
    assert "no system turn" in found.reason
    assert load_reward(picky).room(Prompt(id="p", messages=turns)) is None, (
        "no answer to it can be judged, long or short"
    )


def test_what_it_says_of_itself_names_the_weights(tmp_path: Path, llama_dir: Path, reward_dir: Path) -> None:
    said = load_reward(reward_dir, policy=chat_of(llama_dir)).describe()
    assert said["weights"] == weights_digest(str(reward_dir))
    assert said["answers"] == "ids"
    assert json.dumps(said)
    copy = Path(shutil.copytree(reward_dir, tmp_path / reward_dir.name))
    assert load_reward(copy, policy=chat_of(llama_dir)).describe() == said


def test_directories_that_are_refused(tmp_path: Path, llama_dir: Path, reward_dir: Path) -> None:
    with pytest.raises(ModelError, match="there is no reward model directory"):
        load_reward(tmp_path / "none")
    with pytest.raises(ModelError, match=r"LlamaForCausalLM .* sequence classifier"):
        load_reward(llama_dir)
    with pytest.raises(ModelError, match="with 3 outputs"):
        load_reward(classifier(tmp_path / "three", llama_dir, labels=3))
    pickled = Path(shutil.copytree(reward_dir, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        load_reward(pickled)
    headless = Path(shutil.copytree(reward_dir, tmp_path / "headless"))
    tensors = load_file(headless / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights .*score\.weight"):
        load_reward(headless)


def a_delta(folder: Path, base: Path, *, layers: Any = 1, dtype: torch.dtype = torch.float32) -> Any:
    """A delta of random changes on `base`, written to `folder`; the changed model."""
    model, _, _ = open_classifier(str(base), dtype=torch.float32, new_head=True)
    names = trained_names(model, layers)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.normal_(0.0, 0.3, generator=generator)
                parameter.copy_(parameter.to(dtype))
    card = DeltaCard(base=weights_digest(str(base)), tensors=names, pad_token_id=0)
    write_delta(folder, model, names, dtype=dtype, card=card)
    return model.eval()


@pytest.mark.parametrize("base", ["llama_dir", "gpt2_dir", "qwen_dir"])
@pytest.mark.parametrize("layers", [0, 1, "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_comes_back_bit_for_bit(
    tmp_path: Path, base: str, layers: Any, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    written = dict(a_delta(tmp_path, folder, layers=layers, dtype=dtype).named_parameters())
    model, _, _ = open_classifier(str(folder), dtype=torch.float32, new_head=True)
    apply_delta(tmp_path, read_card(tmp_path), model)
    read = dict(model.named_parameters())
    assert written.keys() == read.keys()
    assert all(torch.equal(tensor, read[name]) for name, tensor in written.items())
    stored = load_file(tmp_path / TENSORS)
    assert all(tensor.dtype == dtype for tensor in stored.values())
    assert ("model.embed_tokens.weight" in stored or "transformer.wte.weight" in stored) == (layers == "all")


def test_what_is_trained_is_the_end_of_the_model(llama_dir: Path, gpt2_dir: Path) -> None:
    llama, _, _ = open_classifier(str(llama_dir), dtype=torch.float32, new_head=True)
    assert trained_names(llama, 0) == ("model.norm.weight", "score.weight")
    one = trained_names(llama, 1)
    assert {name.split(".")[2] for name in one if ".layers." in name} == {"1"}
    assert len(trained_names(llama, 2)) == len(one) + sum(".layers.0." in name for name, _ in llama.named_parameters())
    gpt2, _, _ = open_classifier(str(gpt2_dir), dtype=torch.float32, new_head=True)
    assert trained_names(gpt2, 0) == ("score.weight", "transformer.ln_f.bias", "transformer.ln_f.weight")
    with pytest.raises(ModelError, match=r"3 layers .* has 2"):
        trained_names(llama, 3)


def test_another_base_is_refused(tmp_path: Path, llama_dir: Path, qwen_dir: Path) -> None:
    a_delta(tmp_path / "delta", llama_dir)
    assert load_reward(tmp_path / "delta", bases=[str(qwen_dir), str(llama_dir)])
    for bases in ([], [str(qwen_dir)]):
        with pytest.raises(ModelError, match="belongs on a base whose weights are sha256:") as caught:
            load_reward(tmp_path / "delta", bases=bases)
        assert weights_digest(str(llama_dir))[:19] in str(caught.value)
    almost = Path(shutil.copytree(llama_dir, tmp_path / "almost"))
    tensors = load_file(almost / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, almost / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="belongs on a base"):
        load_reward(tmp_path / "delta", bases=[str(almost)])


def test_a_damaged_delta_is_refused(tmp_path: Path, llama_dir: Path) -> None:
    def damaged(name: str) -> Path:
        a_delta(tmp_path / name, llama_dir)
        return tmp_path / name

    pickled = damaged("pickled")
    (pickled / TENSORS).rename(pickled / "reward.bin")
    short = damaged("short")
    tensors = load_file(short / TENSORS)
    save_file({name: tensor for name, tensor in tensors.items() if name != "score.weight"}, short / TENSORS)
    wide = damaged("wide")
    save_file(tensors | {"score.weight": torch.zeros(2, 48)}, wide / TENSORS)
    torn = damaged("torn")
    (torn / TENSORS).write_bytes((torn / TENSORS).read_bytes()[:-8])
    empty = damaged("empty")
    (empty / CARD).write_text("{}")
    says = {
        pickled: "a pickle",
        short: "'score.weight'",
        wide: "is \\[2, 48\\]",
        torn: "cannot read",
        empty: "keys base",
    }
    for folder, match in says.items():
        with pytest.raises(ModelError, match=match):
            load_reward(folder, bases=[str(llama_dir)])


def test_by_name(tmp_path: Path, llama_dir: Path, reward_dir: Path) -> None:
    loaded = load(str(llama_dir), ModelOptions(device="cpu"))

    def build(text: str) -> Any:
        return build_scorer(text, engine=loaded.engine, chat=loaded.chat, sandbox=False)

    assert build(f"reward:{reward_dir}").describe()["answers"] == "ids"
    a_delta(tmp_path / "delta", llama_dir)
    assert build(f"reward:{tmp_path / 'delta'}").describe()["base"] == weights_digest(str(llama_dir))
    with pytest.raises(InputError, match="`oracle` takes nothing after a colon"):
        build("oracle:3")
    with pytest.raises(UnknownName, match="Did you mean 'reward'"):
        build("rewrad:x")


def test_it_chooses_the_best_of_four(
    tmp_path: Path, llama_dir: Path, reward_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "How?"}\n{"id": "b", "prompt": "Why?"}\n')
    flags = ["--model", str(llama_dir), "--prompts", str(tmp_path / "p.jsonl"), "--run", str(tmp_path / "run")]
    more = ["--procedure", "best-of-n:4", "--scorer", f"reward:{reward_dir}", "--max-new-tokens", "12"]
    assert main(["generate", *flags, *more]) == 0, capsys.readouterr().err
    for record in read_records(tmp_path / "run"):
        found = [candidate["score"]["value"] for candidate in record["candidates"]]
        assert record["chosen"] == found.index(max(found))
        assert record["usage"]["evaluator"]["tokens_fed"] > 0
