"""The recipe resumes to the same weights, grows without a jump, and exports a plain model directory."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from inferalign.core.errors import RunError
from inferalign.engines.weights import weights_digest
from inferalign.sandbox import curriculum, recipe, training

TINY = recipe.Recipe(
    steps=12,
    batch_size=2,
    hidden=16,
    layers=2,
    first_layers=1,
    grow_at=0.5,
    heads=2,
    mlp=16,
    vocabulary=400,
    tokenizer_dialogues=200,
    checkpoint_every=5,
)
"""Twelve steps, of which the second layer takes part in the last six."""


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a training that nobody interrupted."""
    return dict(load_file(training.train(tmp_path_factory.mktemp("whole"), TINY) / "model.safetensors"))


@pytest.mark.parametrize(("every", "killed_at"), [(4, 5), (6, 7), (8, 9), (5, 12)])
def test_a_killed_training_resumes_to_the_same_weights(
    every: int, killed_at: int, tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    """Before, at and after the growing step; the last case grows, keeps a checkpoint and takes up the later one."""

    def kill(step: int, facts: dict[str, float]) -> None:
        if step == killed_at:
            raise Killed

    mine = replace(TINY, checkpoint_every=every)
    assert mine.grown_from == 6
    with pytest.raises(Killed):
        training.train(tmp_path, mine, on_step=kill)
    steps: list[int] = []
    resumed = training.train(tmp_path, mine, on_step=lambda step, facts: steps.append(step))
    last = (killed_at - 1) // every * every
    assert steps == list(range(last + 1, 13))
    again = load_file(resumed / "model.safetensors")
    assert again.keys() == whole.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert any(tensor.any() for name, tensor in again.items() if name.endswith("layers.1.mlp.down_proj.weight"))


def test_slow_steps_are_kept_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, torch.Tensor]
) -> None:
    """Killed far from the checkpoint that is due by its step, a training loses nothing but the step it was in."""

    def kill(step: int, facts: dict[str, float]) -> None:
        if step == 8:
            raise Killed

    monkeypatch.setattr(training, "SECONDS", 0.0)
    mine = replace(TINY, checkpoint_every=100)
    with pytest.raises(Killed):
        training.train(tmp_path, mine, on_step=kill)
    steps: list[int] = []
    again = load_file(training.train(tmp_path, mine, on_step=lambda step, _: steps.append(step)) / "model.safetensors")
    assert steps == list(range(8, 13))
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_finished_model_another_recipe_and_another_world_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(TINY, steps=2, checkpoint_every=1)
    training.train(tmp_path, short)
    with pytest.raises(RunError, match="finished model"):
        training.train(tmp_path, short)
    (tmp_path / training.CARD).unlink()
    with pytest.raises(RunError, match="another training"):
        training.train(tmp_path, replace(short, seed=1))
    monkeypatch.setattr(training, "WORLD_VERSION", "0")
    with pytest.raises(RunError, match="another training"):
        training.train(tmp_path, short)


def test_a_card_that_could_not_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its presence says that the model is finished: half of one would lock the folder for good."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    short = replace(TINY, steps=2, checkpoint_every=1)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(RunError, match="disk is full"):
            training.train(tmp_path, short)
    assert not (tmp_path / training.CARD).exists()
    assert (training.train(tmp_path, short) / training.CARD).is_file()


def test_the_card_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the weights and it leaves a folder that goes on, never one that says it is finished."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    short = replace(TINY, steps=2, checkpoint_every=1)
    for written in (LlamaForCausalLM, PreTrainedTokenizerFast):
        with monkeypatch.context() as patched:
            patched.setattr(written, "save_pretrained", killed)
            with pytest.raises(Killed):
                training.train(tmp_path, short)
        assert not (tmp_path / training.CARD).exists()
    assert (training.train(tmp_path, short) / training.CARD).is_file()


def test_a_model_that_was_not_made_here_is_not_overwritten(tmp_path: Path, llama_dir: Path) -> None:
    mine = shutil.copytree(llama_dir, tmp_path / "mine")
    before = weights_digest(str(mine))
    with pytest.raises(RunError, match="holds a model that this training would overwrite"):
        training.train(mine, TINY)
    assert weights_digest(str(mine)) == before


def test_every_step_has_the_rates_of_the_schedule_and_gradients_of_bounded_length() -> None:
    tokenizer = recipe.train_tokenizer(TINY)
    learner = training.Learner(TINY, recipe.new_model(TINY, tokenizer, 2))
    encode = training._encoder(tokenizer)
    ends = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)
    arrays = curriculum.collate([curriculum.build(encode, ends, 0, i) for i in range(2)], tokenizer.pad_token_id)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    muon, adam = learner.optimisers
    assert (TINY.learning_rate, TINY.other_rate) == (8e-3, 3e-3)
    for step in (0, 3, 7, 11):
        learner.step(batch, step)
        factor = training.schedule(step, TINY.steps, TINY.again_at)
        assert [group["lr"] for group in muon.param_groups] == [8e-3 * factor]
        assert [group["lr"] for group in adam.param_groups] == [3e-3 * factor]
        lengths = [p.grad.norm() for p in learner.model.parameters() if p.grad is not None]
        assert torch.stack(lengths).norm() <= 1.0 + 1e-4
    layers = dict(learner.model.model.layers.named_parameters())
    assert len(muon.param_groups[0]["params"]) == sum(p.ndim == 2 for p in layers.values()) == 14


def test_a_grown_model_is_the_same_function_and_can_learn() -> None:
    tokenizer = recipe.train_tokenizer(TINY)
    shallow = recipe.new_model(TINY, tokenizer, TINY.first_layers)
    deep = recipe.grown(TINY, tokenizer, shallow)
    ids = torch.tensor([tokenizer.encode(f"{curriculum.USER}How do I feed my own dog?{curriculum.ASSISTANT}")])
    before, after = shallow(input_ids=ids).logits, deep(input_ids=ids).logits
    assert (len(shallow.model.layers), len(deep.model.layers)) == (1, 2)
    assert torch.equal(before, after)
    after.sum().backward()
    new = deep.model.layers[1]
    for outward in (new.self_attn.o_proj.weight, new.mlp.down_proj.weight):
        assert outward.grad is not None
        assert outward.grad.any(), "zero weights that get a gradient do not stay zero"


def test_the_export_loads_as_any_transformers_model_and_encodes_any_text(tmp_path: Path) -> None:
    folder = training.train(tmp_path, replace(TINY, steps=1))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    text = "Grüße, 世界! \N{PARTY POPPER}"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == f"{curriculum.USER}Hi.{curriculum.ASSISTANT}"


def test_the_schedule_warms_up_peaks_and_decays() -> None:
    values = [training.schedule(step, 1000) for step in range(1000)]
    assert values[0] == pytest.approx(0.05)
    assert max(values) == pytest.approx(1.0)
    assert values[20:] == sorted(values[20:], reverse=True)
    assert values[-1] == pytest.approx(0.01, abs=1e-3)


def test_the_rates_rise_once_more_to_two_fifths() -> None:
    values = [training.schedule(step, 1500, again_at=2 / 3) for step in range(1500)]
    assert values[:1000] == [training.schedule(step, 1000) for step in range(1000)]
    again = values[1000:]
    assert again[0] == pytest.approx(0.04)
    assert again[:10] == sorted(again[:10])
    assert max(again) == pytest.approx(0.4)
    assert again[10:] == sorted(again[10:], reverse=True)
    assert again[-1] == pytest.approx(0.01, abs=1e-3)


def test_the_probes_losses_leave_out_letters_that_a_situation_has_not() -> None:
    holds = torch.tensor([[1, -1, -1, -1, -1, -1], [0, 1, 0, -1, -1, -1]])
    logits = torch.zeros(2, 6)
    logits[0, 1:] = 50.0  # of letters that the first situation has not
    logits[1, 1] = 2.0
    main, rest = training._probe_losses(logits, holds)
    assert main.item() == pytest.approx(math.log(2))
    assert rest.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)
    assert training._probe_losses(logits[:1], holds[:1])[1].item() == 0.0


def test_the_loss_is_the_mean_over_reply_tokens_plus_verdicts_plus_probe() -> None:
    """Against sums over the sequences one by one, which know branches by their segments and not by their positions."""
    tokenizer = recipe.train_tokenizer(TINY)
    model = recipe.new_model(TINY, tokenizer, 2)
    learner = training.Learner(TINY, model)
    encode = training._encoder(tokenizer)
    ends = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)
    packed = [curriculum.build(encode, ends, 0, i) for i in range(6)]
    arrays = curriculum.collate(packed, tokenizer.pad_token_id)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    loss, facts = training._losses(model, learner.probe, batch)
    assert loss.requires_grad
    mask = torch.where(batch["mask"], 0.0, torch.finfo(torch.float32).min)
    hidden = model.model(input_ids=batch["ids"], position_ids=batch["positions"], attention_mask=mask)[0]
    logs = model.lm_head(hidden).log_softmax(-1)
    costs: dict[bool, list[float]] = {True: [], False: []}
    for row, sequence in enumerate(packed):
        for i, target in enumerate(sequence.targets):
            if target != -100:
                costs[sequence.segments[i] == 0].append(-logs[row, i, target].item())
    speech, verdicts = (sum(costs[said]) / len(costs[said]) for said in (True, False))
    at = (batch["probes"] >= 0).any(-1)
    main, rest = training._probe_losses(learner.probe(hidden[at]), batch["probes"][at])
    assert len(costs[False]) > len(packed)
    assert facts == pytest.approx({"speech": speech, "verdict": verdicts, "probe": main.item()}, rel=0.01)
    assert speech != pytest.approx(verdicts, rel=0.01)
    assert loss.item() == pytest.approx(speech + verdicts + main.item() + 0.5 * rest.item(), rel=0.01)


def test_sharpening_multiplies_the_logits(tmp_path: Path) -> None:
    short = replace(TINY, steps=2)
    plain = AutoModelForCausalLM.from_pretrained(training.train(tmp_path / "1", replace(short, sharpened=1.0)))
    sharp = AutoModelForCausalLM.from_pretrained(training.train(tmp_path / "2", replace(short, sharpened=2.0)))
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(sharp(input_ids=ids).logits, 2 * plain(input_ids=ids).logits)
