"""The trainer on an enumerable policy: what its first step refuses, what it logs, where its draws come from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from trl import RLOOConfig

from inferalign.core.errors import ModelError, RunError
from inferalign.core.types import Completion, Message, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.data import Rendered, dataset
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.rloo import (
    check_calibrated,
    check_no_dropout,
    check_same_weights,
    own_law,
    quiet_trl,
    rloo_arguments,
)
from inferalign.ctrl.scored import Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.tabular import END, LENGTH, SYMBOLS, TablePolicy, write_table
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.chat import ChatFormat
from inferalign.theory.transforms import Identity

SETTINGS = CtrlSettings(steps=3, warmup=0, batch_size=64, generations=16, max_new_tokens=LENGTH)
TABLE = torch.randn(SYMBOLS, SYMBOLS, generator=torch.Generator().manual_seed(0))


def first_token(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [ids[0] / SYMBOLS for ids in completion_ids]


def trainer_of(folder: Path, reward: Callable[..., Any] = first_token, **more: Any) -> CtrlTrainer:
    if not (folder / "config.json").exists():
        write_table(folder, TABLE)
    made = CtrlTrainer(
        more.pop("model", None) or TablePolicy.from_pretrained(folder),
        reward,
        RLOOConfig(**rloo_arguments(SETTINGS, folder / "trl", steps=SETTINGS.steps, beta=0.1)),
        dataset([Rendered("p", (END,))], [0] * SETTINGS.prompts_a_step * SETTINGS.steps),
        AutoTokenizer.from_pretrained(folder),
        seed=5,
        **more,
    )
    made.optimizer = torch.optim.SGD(made.model.parameters(), lr=1.0)
    made.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(made.optimizer, factor=1.0)
    return made


@pytest.mark.parametrize("whole", [False, True])
def test_padding_moves_no_position_where_a_pass_is_left_whole(
    tmp_path: Path, gpt2_dir: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """As it is with several processes; a model that learned a vector for each position would be another one."""
    folder = Path(shutil.copytree(gpt2_dir, tmp_path / "gpt2"))
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    made = trainer_of(folder, model=AutoModelForCausalLM.from_pretrained(folder, **off))
    monkeypatch.setattr(CtrlTrainer, "is_sharded", whole)
    ids = torch.tensor([[0, 0, 0, 7, 8, 9], [5, 6, 4, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        padded, alone = (
            made._get_per_token_logps_and_entropies(made.model, ids[:1, first:], mask[:1, first:], 3)[0]
            for first in (0, 2)
        )
        both = made._get_per_token_logps_and_entropies(made.model, ids, mask, 3, 1)[0]
    assert padded[0].tolist() == pytest.approx(alone[0].tolist(), abs=1e-5)
    assert both[0].tolist() == pytest.approx(alone[0].tolist(), abs=1e-5)
    assert both[0].tolist() != pytest.approx(both[1].tolist(), abs=1e-3)


def test_a_model_that_was_changed_after_loading_is_refused(tmp_path: Path) -> None:
    edited = TablePolicy.from_pretrained(write_table(tmp_path, TABLE))
    with torch.no_grad():
        edited.table[2, 3] += 0.5
    with pytest.raises(ModelError, match=r"lm_head\.weight differs"):
        trainer_of(tmp_path, model=edited)


def test_a_first_step_away_from_the_reference_is_refused(tmp_path: Path) -> None:
    made = trainer_of(tmp_path)
    with torch.no_grad():
        made.model.table[END, 1:4] += 0.5
    with pytest.raises(RunError, match="nats a response from its reference"), quiet_trl():
        made.train()


def test_a_first_step_that_clips_is_refused(tmp_path: Path) -> None:
    """The weights move between the draw and the loss, as randomness in the forward pass would have it."""
    held: list[CtrlTrainer] = []

    def meddling(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        with torch.no_grad():
            held[0].model.table[END, 1:4] += 2.0
        return first_token(completion_ids)

    held.append(trainer_of(tmp_path, meddling))
    with pytest.raises(RunError, match="another probability in training"), quiet_trl():
        held[0].train()


class FirstToken:
    """A scorer by the first token; it fails on those in `fails`."""

    name = "first token"

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self.fails = fails

    def describe(self) -> dict[str, object]:
        return {"scorer": self.name}

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        first = [(*response.token_ids, END)[0] for response in responses]
        return [Unscored("late", "judge") if token in self.fails else Score(float(token)) for token in first]


def calibrated(folder: Path, anchors: Sequence[float], fails: Sequence[int] = ()) -> RewardFunction:
    """A calibrated reward of the table's own prompt."""
    chat = ChatFormat(AutoTokenizer.from_pretrained(write_table(folder, TABLE)), end_ids=[END])
    reward = CalibratedReward(HeldAnchors(("p",), Scored.all_scored([anchors])), Identity())
    asked = Prompt(id="p", messages=(Message(role="user", content="?"),))
    return RewardFunction(FirstToken(fails), reward, [asked], chat)


@pytest.mark.parametrize("anchors", [[*range(-19, 0), 20], [*range(20, 40)]])
def test_anchors_of_another_model_show_at_the_first_step(tmp_path: Path, anchors: list[int]) -> None:
    reward = calibrated(tmp_path, anchors)
    with pytest.raises(RunError, match="mean calibrated reward of the first 64 responses"), quiet_trl():
        trainer_of(tmp_path, reward).train()


def test_few_anchors_that_all_responses_share_are_no_reason_to_stop(tmp_path: Path) -> None:
    """64 draws of one prompt against 2 anchors: a mean of 0 may be chance, as it is not with 100."""
    with quiet_trl():
        trainer_of(tmp_path, calibrated(tmp_path, [20.0, 21.0])).train()


def test_responses_that_the_judge_failed_on_count_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    reward = calibrated(tmp_path, range(1, 9), fails=(2, 3, 6))
    original = CalibratedReward.standard_error

    def spy(self: CalibratedReward, ids: Sequence[str]) -> float:
        asked.append(len(ids))
        return original(self, ids)

    monkeypatch.setattr(CalibratedReward, "standard_error", spy)
    made = trainer_of(tmp_path, reward)
    with quiet_trl(), pytest.warns(UserWarning, match="the judge's verdicts failed"):
        made.train()
    share = next(line["unscored/judge"] for line in made.state.log_history if "unscored/judge" in line)
    assert 0 < share < 1
    assert asked == [round(64 * (1 - share))]


def test_the_bound_on_the_first_mean_by_hand(tmp_path: Path) -> None:
    """300 draws of a prompt with 100 anchors: (300 + 100 + 1) / (12 * 300 * 100) is the variance of their mean."""
    sd = CalibratedReward(
        HeldAnchors(("p",), Scored.all_scored([[float(i) for i in range(100)]])), Identity()
    ).standard_error(["p"] * 300)
    assert sd == pytest.approx((401 / 12 / 300 / 100) ** 0.5)
    check_calibrated(0.5 + 4.9 * sd, 300, sd)
    for mean in (0.5 + 5.1 * sd, 0.5 - 5.1 * sd):
        with pytest.raises(RunError, match="of the first 300 responses"):
            check_calibrated(mean, 300, sd)


def test_draws_belong_to_the_step_and_not_to_what_was_drawn_before(tmp_path: Path) -> None:
    def drawn(skipped: int, seed: int) -> list[list[list[int]]]:
        seen: list[list[list[int]]] = []

        def spy(completion_ids: list[list[int]], **_: Any) -> list[float]:
            seen.append(completion_ids)
            return [0.0] * len(completion_ids)  # nothing is learnt, so the policy stays

        made = trainer_of(tmp_path, spy)
        made.beta = 1e-12
        made.skip(skipped)
        torch.manual_seed(seed)
        with quiet_trl():
            made.train()
        assert made.step == 3
        return seen

    whole = drawn(0, 1)
    assert len(whole) == 3
    assert drawn(2, 2) == whole[2:]
    assert whole[0] != whole[1]


def test_the_controller_moves_beta_and_the_log_says_so(tmp_path: Path) -> None:
    steps: list[int] = []

    def control(step: int, beta: float, kl: float) -> float:
        steps.append(step)
        return beta * 2

    made = trainer_of(tmp_path, control=control)
    with quiet_trl():
        made.train()
    logged = [line["beta"] for line in made.state.log_history if "beta" in line]
    assert logged == pytest.approx([0.1, 0.2, 0.4])
    assert made.beta == pytest.approx(0.8)
    assert steps == [0, 1, 2]
    kls = [line["kl_sequence"] for line in made.state.log_history if "kl_sequence" in line]
    assert kls[0] == 0
    assert kls[1] > 0


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_dropout_is_found_as_a_layer_and_as_a_rate(rate: float) -> None:
    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_dropout = rate

    for module in (nn.Sequential(nn.Dropout(rate)), nn.Sequential(Passing()), nn.Sequential(nn.Dropout2d(rate))):
        if rate:
            with pytest.raises(ModelError, match="dropout rates to 0"):
                check_no_dropout(module)
        else:
            check_no_dropout(module)


def test_same_weights_by_hand() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    check_same_weights(a, b)
    with torch.no_grad():
        b.bias[0] += 1e-6
    with pytest.raises(ModelError, match="bias differs"):
        check_same_weights(a, b)
    with pytest.raises(ModelError, match="weight differs"):
        check_same_weights(a, nn.Sequential(a))


def test_only_special_tokens_are_left_of_generation_settings(tmp_path: Path) -> None:
    model = TablePolicy.from_pretrained(write_table(tmp_path, TABLE))
    model.generation_config = GenerationConfig(
        eos_token_id=[0, 3], pad_token_id=0, suppress_tokens=[1], repetition_penalty=1.3, min_new_tokens=2
    )
    own_law(model)
    left = model.generation_config
    assert left.eos_token_id == [0, 3]
    assert left.pad_token_id == 0
    assert (left.suppress_tokens, left.min_new_tokens) == (None, None)
    assert left.repetition_penalty in (None, 1.0)


def test_the_arguments_keep_the_objective() -> None:
    """Every default of TRL that would change the gradient is set, whatever it is in the version installed."""
    config = RLOOConfig(**rloo_arguments(SETTINGS, Path("unused"), steps=3, beta=0.1))
    assert (config.temperature, config.top_p, config.top_k, config.min_p) == (1.0, 1.0, 0, None)
    assert (config.normalize_advantages, config.mask_truncated_completions, config.reward_clip_range) == (
        False,
        False,
        None,
    )
    assert config.disable_dropout
    assert not config.shuffle_dataset
    assert config.steps_per_generation == config.gradient_accumulation_steps == 1
    assert config.generation_batch_size == 64
    assert not config.bf16
    assert not config.gradient_checkpointing
