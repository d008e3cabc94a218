"""Training of a reward model on a toy preference: what it learns, what it leaves alone, how it resumes."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inferalign.core.errors import InputError, ModelError, RunError
from inferalign.core.types import Message, Prompt, RoleUsage, Score
from inferalign.engines.weights import weights_digest
from inferalign.sandbox.reward import held_out, pair_accuracy, pair_margins, train_reward
from inferalign.sandbox.reward_fit import RewardSettings, _groups, batches
from inferalign.scorers.reward_delta import CARD, TENSORS
from inferalign.scorers.reward_model import load_reward, open_classifier
from tests.toy_pairs import toy_pairs

QUICK = RewardSettings(layers=1, epochs=1.0, batch_size=16, learning_rate=3e-3, held_out=0.25, checkpoint_every=4)


class Killed(Exception):
    pass


def as_prompt(text: str, *, name: str) -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content=text),))


def test_a_preference_that_a_head_can_read_is_learned(tmp_path: Path, llama_dir: Path) -> None:
    facts: list[dict[str, float]] = []
    settings = replace(QUICK, epochs=3.0)
    made = train_reward(
        llama_dir, toy_pairs(400), tmp_path, settings, on_step=lambda step, found: facts.append(dict(found))
    )
    assert made.accuracy.mean is not None
    assert made.accuracy.mean > 0.9
    assert made.accuracy.low is not None
    assert 0.8 < made.accuracy.low < made.accuracy.mean
    assert made.trained_on + len(made.held_out) == 800
    assert facts[-1]["loss"] < 0.4
    card = json.loads((tmp_path / CARD).read_text())["training"]
    assert (card["pairs"], card["held_out"]) == (made.trained_on, len(made.held_out))
    assert card["accuracy"] == asdict(made.accuracy)
    # On fresh pairs of fresh prompts, through the scorer.
    reward = load_reward(tmp_path, bases=[str(llama_dir)])
    right = []
    for pair in toy_pairs(50, seed=9):
        a, b = asyncio.run(reward.score(pair.prompt, [pair.chosen, pair.rejected], RoleUsage()))
        assert isinstance(a, Score)
        assert isinstance(b, Score)
        right.append(a.value > b.value)
    assert sum(right) / len(right) > 0.88


def test_only_the_end_of_the_model_is_trained_and_written(tmp_path: Path, llama_dir: Path) -> None:
    train_reward(llama_dir, toy_pairs(40), tmp_path, QUICK)
    written = load_file(tmp_path / TENSORS)
    assert {name.split(".")[2] for name in written if ".layers." in name} == {"1"}
    assert {"score.weight", "model.norm.weight"} < written.keys()
    base, _, _ = open_classifier(str(llama_dir), dtype=torch.float32, new_head=True)
    before = dict(base.named_parameters())
    assert not any(torch.equal(tensor, before[name]) for name, tensor in written.items())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [CARD, TENSORS]


def test_the_question_that_it_was_trained_with_is_asked_when_it_scores(tmp_path: Path, llama_dir: Path) -> None:
    made = train_reward(llama_dir, toy_pairs(40), tmp_path, replace(QUICK, question="<|user|>"))
    assert json.loads((tmp_path / CARD).read_text())["question"] == "<|user|>"
    reward = load_reward(tmp_path, bases=[str(llama_dir)])
    pair = made.held_out[0]
    assert reward.rows(pair.prompt, pair.chosen)[-1:] == reward.rows.chat.encode("<|user|>")
    assert pair_accuracy(made.held_out, pair_margins(reward, made.held_out)) == made.accuracy


def test_all_layers_on_a_base_without_padding_token_or_template(tmp_path: Path, gpt2_dir: Path) -> None:
    made = train_reward(gpt2_dir, toy_pairs(40), tmp_path, replace(QUICK, layers="all"))
    assert "transformer.wte.weight" in load_file(tmp_path / TENSORS)
    assert all(map(math.isfinite, pair_margins(load_reward(tmp_path, bases=[str(gpt2_dir)]), made.held_out)))


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, llama_dir: Path) -> None:
    pairs = toy_pairs(100)

    def kill_at_6(step: int, facts: dict[str, float]) -> None:
        if step == 6:
            raise Killed

    train_reward(llama_dir, pairs, tmp_path / "whole", QUICK)
    with pytest.raises(Killed):
        train_reward(llama_dir, pairs, tmp_path / "killed", QUICK, on_step=kill_at_6)
    with pytest.raises(RunError, match="another training"):
        train_reward(llama_dir, pairs[:-20], tmp_path / "killed", QUICK)
    with pytest.raises(RunError, match="another training"):
        train_reward(llama_dir, pairs, tmp_path / "killed", replace(QUICK, seed=1))
    steps: list[int] = []
    train_reward(llama_dir, pairs, tmp_path / "killed", QUICK, on_step=lambda step, facts: steps.append(step))
    assert steps[0] == 5
    again = load_file(tmp_path / "killed" / TENSORS)
    assert all(torch.equal(tensor, again[name]) for name, tensor in load_file(tmp_path / "whole" / TENSORS).items())
    assert not [path for path in (tmp_path / "killed").rglob("*") if path.suffix in (".pt", ".pth", ".bin")]
    with pytest.raises(RunError, match="finished reward model"):
        train_reward(llama_dir, pairs, tmp_path / "killed", QUICK)


def test_the_seed_decides_the_weights(tmp_path: Path, llama_dir: Path) -> None:
    pairs = toy_pairs(40)

    def head(name: str, settings: RewardSettings) -> torch.Tensor:
        train_reward(llama_dir, pairs, tmp_path / name, settings)
        return load_file(tmp_path / name / TENSORS)["score.weight"]

    first = head("a", QUICK)
    assert torch.equal(first, head("again", QUICK))
    assert not torch.equal(first, head("seed", replace(QUICK, seed=1)))


def test_replies_that_do_not_fit_are_left_out_and_counted(tmp_path: Path, llama_dir: Path) -> None:
    pairs = toy_pairs(40)
    long = replace(pairs[0], rejected=replace(pairs[0].rejected, token_ids=(50,) * 400))
    assert train_reward(llama_dir, [*pairs, long], tmp_path, QUICK).too_long == 1


def test_who_is_killed_while_measuring_has_lost_nothing(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> list[float]:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("inferalign.sandbox.reward.pair_margins", killed)
        with pytest.raises(Killed):
            train_reward(llama_dir, toy_pairs(40), tmp_path, QUICK)
    assert not (tmp_path / CARD).exists(), "a card would say that it is finished"
    assert train_reward(llama_dir, toy_pairs(40), tmp_path, QUICK).accuracy.mean is not None
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", CARD, TENSORS}


def test_pairs_of_another_tokenizer_and_a_place_that_is_none_are_refused(tmp_path: Path, llama_dir: Path) -> None:
    pairs = toy_pairs(40)
    foreign = replace(pairs[3], chosen=replace(pairs[3].chosen, token_ids=(40, 99_999)))
    with pytest.raises(InputError, match=r"prompt 'p1' holds the token 99999 and the base embeds \d+"):
        train_reward(llama_dir, [*pairs, foreign], tmp_path / "out", QUICK)
    other = replace(pairs[5], rejected=replace(pairs[5].rejected, text="Keep it warm."))
    with pytest.raises(InputError, match=r"prompt 'p2' is 'Keep it warm\.', and the base reads its tokens as"):
        train_reward(llama_dir, [*pairs[:5], other, *pairs[6:]], tmp_path / "out", QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot train into"):
        train_reward(llama_dir, pairs, tmp_path / "file" / "out", QUICK)


def test_a_base_is_no_place_for_its_reward(tmp_path: Path, llama_dir: Path) -> None:
    """Weights beside the base's would change what it is known by, and no delta would fit it any more."""
    base = shutil.copytree(llama_dir, tmp_path / "base")
    with pytest.raises(RunError, match="would overwrite"):
        train_reward(base, toy_pairs(40), base, QUICK)
    assert weights_digest(str(base)) == weights_digest(str(llama_dir))


def test_too_few_pairs_and_unusable_bases_are_refused(tmp_path: Path, llama_dir: Path) -> None:
    with pytest.raises(InputError, match="expected at least 16"):
        train_reward(llama_dir, toy_pairs(5), tmp_path / "few", QUICK)
    with pytest.raises(ModelError, match="there is no model directory"):
        train_reward(tmp_path / "none", toy_pairs(5), tmp_path / "out", QUICK)


def test_rewards_are_kept_near_0(tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs leave a constant free: the same training pulls the mean reward to 0 the harder, the more that weighs."""

    def mean_reward(weight: float) -> float:
        monkeypatch.setattr("inferalign.sandbox.reward_fit.CENTRE", weight)
        made = train_reward(llama_dir, toy_pairs(100), tmp_path / str(weight), QUICK)
        reward = load_reward(made.folder, bases=[str(llama_dir)])
        rows = [reward.rows(p.prompt, reply) for p in made.held_out for reply in (p.chosen, p.rejected)]
        return abs(sum(reward.values(rows, RoleUsage())) / len(rows))

    assert mean_reward(1.0) < 0.5 * mean_reward(0.0)


def test_matrices_alone_decay() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.AdamW(_groups({"matrix": matrix, "vector": vector}, 0.1), lr=0.1)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert torch.allclose(matrix, torch.tensor(1 - 0.1 * 0.05))
    assert torch.equal(vector, torch.ones(2))


def test_the_order_is_whole_batches_and_each_epoch_a_permutation() -> None:
    settings = replace(QUICK, epochs=2.5, batch_size=4)
    order = batches(10, settings)
    assert len(order) == 24
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10] != order[10:20]
    assert order == batches(10, settings)
    assert order != batches(10, replace(settings, seed=1))


def test_the_share_held_out_is_that_of_prompts() -> None:
    prompts = [as_prompt(f"How {i}?", name=f"p{i}") for i in range(4000)]
    tenth, quarter = ({p.id for p in prompts if held_out(p, share)} for share in (0.1, 0.25))
    assert len(quarter) == pytest.approx(1000, abs=120)
    assert tenth < quarter
    assert not any(held_out(p, 0.0) for p in prompts)


def test_what_was_asked_twice_is_held_out_twice_or_never() -> None:
    """Two prompt files put together ask the same under other ids."""
    twice = [[held_out(as_prompt(f"How {i}?", name=f"{name}{i}"), 0.5) for i in range(200)] for name in "ab"]
    assert twice[0] == twice[1]
    assert 60 < sum(twice[0]) < 140


def test_accuracy_by_hand() -> None:
    pairs = toy_pairs(3, each=2)
    found = pair_accuracy(pairs, [1.0, -1.0, 0.5, 0.0, 2.0, math.nan])
    assert found.mean == pytest.approx(3 / 6)
    assert found.n == 3
