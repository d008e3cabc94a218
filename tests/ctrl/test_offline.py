"""Offline regression: it ends at the closed form, its log says what was measured, and a kill changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from trl import RLOOConfig

from inferalign.core.errors import InputError
from inferalign.core.types import Completion, Message, Prompt, Score
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.data import Rendered, dataset
from inferalign.ctrl.offline import OfflineTrainer, end_token
from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.reward_kinds import Kind
from inferalign.ctrl.rloo import quiet_trl, rloo_arguments
from inferalign.ctrl.roller import Roller
from inferalign.ctrl.rollouts import Local, calibrate
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.scored import Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.stored import StoredRollouts
from inferalign.ctrl.tabular import END, LENGTH, SYMBOLS, TablePolicy, log_probabilities, responses, write_table
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.scorers.scripted import ScriptedScorer
from inferalign.theory.transforms import Exponential, Identity
from tests.ctrl.test_run import Killed, kill_at, lines, tensors

STEPS, BETA, ROLLOUTS = 100, 0.2, SYMBOLS**2
LEVELS = np.random.default_rng(4).integers(0, 5, size=len(responses())).astype(np.float64)
"""A judge's five marks, one a response of the table policy."""


def every_response(kind: Kind) -> tuple[StoredRollouts, np.ndarray]:
    """K = 64 rollouts of a uniform table in exactly its shares: the end alone 8 times, every pair once; and rewards."""
    drawn = [()] * SYMBOLS + [pair if pair[1] != END else pair[:1] for pair in responses()[1:]]
    scores = Scored.all_scored(np.append(np.full(SYMBOLS, LEVELS[0]), LEVELS[1:])[None])
    rewards = CalibratedReward(HeldAnchors(("p",), scores), kind).rewards(("p",), scores)
    stored = StoredRollouts(
        prompt_ids=("p",),
        token_ids=np.array([token for ids in drawn for token in ids], dtype=np.int32),
        starts=np.append(0, np.cumsum([len(ids) for ids in drawn])),
        ended=np.array([[len(ids) < LENGTH for ids in drawn]]),
        rewards=rewards,
        fresh=rewards,  # the rollouts are the law itself, not draws of it
    )
    return stored, rewards[0, SYMBOLS - 1 :]


def trainer_of(folder: Path, stored: StoredRollouts, *, steps: int = STEPS, rate: float = 0.3) -> OfflineTrainer:
    settings = CtrlSettings(
        steps=steps, warmup=0, batch_size=ROLLOUTS, generations=ROLLOUTS, max_new_tokens=LENGTH, algorithm="offline"
    )
    place = write_table(folder, torch.zeros(SYMBOLS, SYMBOLS))
    made = OfflineTrainer(
        TablePolicy.from_pretrained(place),
        lambda completion_ids, **_: [0.0] * len(completion_ids),
        RLOOConfig(**rloo_arguments(settings, place / "trl", steps=steps, beta=BETA)),
        dataset([Rendered("p", (END,))], [0] * steps),
        AutoTokenizer.from_pretrained(place),
        seed=1,
        stored=stored,
        end=END,
    )
    made.optimizer = torch.optim.Adam(made.model.parameters(), lr=rate)
    made.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made.optimizer, steps)
    return made


@pytest.mark.parametrize("kind", [Identity(), Exponential(10.0)])
def test_a_table_policy_ends_at_the_closed_form(tmp_path: Path, kind: Kind) -> None:
    stored, rewards = every_response(kind)
    made = trainer_of(tmp_path, stored)
    with quiet_trl():
        made.train()
    reference = log_probabilities(torch.zeros(SYMBOLS, SYMBOLS, dtype=torch.float64)).numpy()
    weights = np.exp(reference + rewards / BETA)
    optimum = weights / weights.sum()
    found = np.exp(log_probabilities(made.model.table.detach().double()).numpy())
    assert abs(found - optimum).sum() / 2 < 4e-3
    kl = float(optimum @ np.log(optimum / np.exp(reference)))
    assert kl > 0.05
    assert float(found @ np.log(found / np.exp(reference))) == pytest.approx(kl, abs=5e-3)
    logged = made.state.log_history
    # all of p's mass is in the rollouts in its own shares, so that the weighted estimate is the KL itself
    assert [line["kl_stored"] for line in logged if "kl_stored" in line][-1] == pytest.approx(kl, abs=5e-3)
    fresh = [line["kl_sequence"] for line in logged if "kl_sequence" in line]
    assert len(fresh) == 10 + 9  # every tenth, and the last tenth
    assert float(np.mean(fresh[-10:])) == pytest.approx(kl, abs=0.15)


def test_the_first_errors_are_the_targets(tmp_path: Path) -> None:
    """At the start log pi/p is 0, so that the error of a response is its target; the gradient pulls towards it."""
    stored, rewards = every_response(Identity())
    made = trainer_of(tmp_path, stored, steps=2)
    with quiet_trl():
        made.train()
    targets = stored.targets(BETA)[0]
    first, second = (line for line in made.state.log_history if "regression/rms" in line)
    assert first["regression/rms"] == pytest.approx(float(np.sqrt(np.mean(targets**2))) / BETA, rel=1e-5)
    assert first["kl_stored"] == pytest.approx(0, abs=1e-6)
    assert first["kl_sequence"] == 0
    assert second["regression/rms"] < first["regression/rms"]
    moved = log_probabilities(made.model.table.detach()).numpy()
    assert np.corrcoef(moved, rewards)[0, 1] > 0.5


PROMPTS = [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"How {i}?"),)) for i in range(5)]
SHORT = CtrlSettings(
    algorithm="offline",
    transform="identity",
    procedure="sample",
    kl=0.3,
    steps=6,
    batch_size=16,
    generations=8,
    warmup=1,
    learning_rate=1e-3,
    max_new_tokens=4,
    checkpoint_every=2,
)


def even_share(prompt: Prompt, answer: Completion) -> Score:
    ids = answer.token_ids
    return Score(sum(token % 2 == 0 for token in ids) / max(len(ids), 1) + len(ids) / 100)


def calibrated(model: Path, run: Path) -> tuple[AnchorSet, StoredRollouts, RewardFunction]:
    engine, chat = load(str(model), ModelOptions())
    scorer = ScriptedScorer(even_share)
    roller = Roller(engine, chat, scorer, k=40, seed=3, sampling=Sampling(max_new_tokens=4))
    anchors = calibrate(Local(roller, 4), PROMPTS, run, k=40, seed=3).anchors
    assert anchors
    reward = CalibratedReward(anchors, Identity())
    return anchors, StoredRollouts.read(run, anchors, reward), RewardFunction(scorer, reward, PROMPTS, chat)


def test_killed_twice_and_resumed_it_ends_at_the_same_weights(tmp_path: Path, llama_dir: Path) -> None:
    anchors, stored, reward = calibrated(llama_dir, tmp_path / "anchors")

    def trained(name: str, **more: Any) -> Any:
        return train_ctrl(SHORT, llama_dir, PROMPTS, reward, tmp_path / name, anchors=anchors, rollouts=stored, **more)

    whole = trained("whole")
    for last in (3, 5):
        with pytest.raises(Killed):
            trained("killed", on_step=kill_at(last))
    again = trained("killed")
    a, b = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert (whole.kl, whole.beta) == (again.kl, again.beta)
    logged = [[line.get("kl_sequence", line["kl_stored"]) for line in lines(tmp_path / n)] for n in ("whole", "killed")]
    assert logged[0] == logged[1]
    assert [("kl_sequence" in line, "kl_stored" in line) for line in lines(tmp_path / "whole")] == [
        (True, True),
        *[(False, True)] * 4,
        (True, True),
    ]
    # what was not drawn at a step is absent from its line
    second = lines(tmp_path / "whole")[1]
    assert {"step", "loss", "beta", "next_beta", "regression/rms"} <= second.keys()
    assert "reward" not in second
    assert lines(tmp_path / "whole")[0]["calibrated/mean"] == pytest.approx(0.5, abs=0.2)


def test_it_learns_what_the_rollouts_show(tmp_path: Path, llama_dir: Path) -> None:
    anchors, stored, reward = calibrated(llama_dir, tmp_path / "anchors")
    longer = CtrlSettings(
        **{**vars(SHORT), "steps": 30, "batch_size": 64, "generations": 32, "learning_rate": 3e-3, "kl": 0.5}
    )
    made = train_ctrl(longer, llama_dir, PROMPTS, reward, tmp_path / "out", anchors=anchors, rollouts=stored)
    found = lines(tmp_path / "out")
    assert found[-1]["regression/rms"] < 0.7 * found[0]["regression/rms"]
    assert found[-1]["calibrated/mean"] > found[0]["calibrated/mean"] + 0.05
    assert made.kl == pytest.approx(math.fsum(line["kl_sequence"] for line in found[-3:]) / 3)
    assert made.kl > 0.05


def test_rollouts_and_algorithm_go_together(tmp_path: Path, llama_dir: Path) -> None:
    anchors, stored, reward = calibrated(llama_dir, tmp_path / "anchors")
    fresh = CtrlSettings(**{**vars(SHORT), "algorithm": "reinforce"})
    for settings, rollouts in ((SHORT, None), (fresh, stored)):
        with pytest.raises(InputError, match="stored rollouts"):
            train_ctrl(settings, llama_dir, PROMPTS, reward, tmp_path / "out", anchors=anchors, rollouts=rollouts)
    with pytest.raises(InputError, match=r"kl_gain is 0\.1: expected 0 with algorithm offline"):
        CtrlSettings(**{**vars(SHORT), "kl_gain": 0.1})
    with pytest.raises(InputError, match="reinforce or offline"):
        CtrlSettings(algorithm="online")  # type: ignore[arg-type]


def test_prompts_without_rollouts_are_refused(tmp_path: Path) -> None:
    stored, _ = every_response(Identity())
    other = StoredRollouts(("q",), stored.token_ids, stored.starts, stored.ended, stored.rewards, stored.fresh)
    with pytest.raises(InputError, match="'p' has no stored rollouts"):
        trainer_of(tmp_path, other)


@pytest.mark.parametrize(("turn_ends", "expected"), [((7, 5), 5), ((7,), 3)])
def test_the_end_is_the_templates_or_the_lowest(turn_ends: Sequence[int], expected: int) -> None:
    chat = SimpleNamespace(turn_end_ids=tuple(turn_ends), end_ids=frozenset({3, 5}))
    assert end_token(chat) == expected  # type: ignore[arg-type]
