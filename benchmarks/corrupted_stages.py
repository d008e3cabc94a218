"""The stages of `ctrl_corrupted`, each kept in a folder of its own: pairs, reward models, anchors, policies, pools.

ROOT/pairs              replies that the preference pairs are made of
ROOT/rollouts           K reference rollouts a training prompt, drawn once for all rewards
ROOT/base               the base model's draws on the test prompts, and each reward's scores of them
ROOT/share-25/reward    the reward model of a quarter of corrupted pairs
ROOT/share-25/anchors   the rollouts under it
ROOT/share-25/raw       a recipe's training, with its draws on the test prompts in `test`
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import inferalign
from benchmarks.corrupted_pairs import Neutral, graded
from inferalign.cli.progress import Bar
from inferalign.core.seeds import derive
from inferalign.core.types import Completion, Prompt, RoleUsage
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, facts, prompts_sha256
from inferalign.ctrl.beta import reward_kind
from inferalign.ctrl.reward import CalibratedReward
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.roller import Roller
from inferalign.ctrl.rollout_records import Rollouts, read_rollouts
from inferalign.ctrl.rollouts import Local, calibrate
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.scored import Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.table import LoadedModel, ModelOptions
from inferalign.procedures.base import Sampling
from inferalign.sandbox.oracle import OracleScorer
from inferalign.sandbox.pairs import Pair, make_pairs
from inferalign.sandbox.reward import planned_steps, train_reward
from inferalign.sandbox.reward_fit import RewardSettings
from inferalign.sandbox.world import prompts
from inferalign.scorers.reward_model import RewardModel, load_reward
from inferalign.winrate.pools import Pool
from inferalign.winrate.run import POOL, judged_pool

KINDS = ("harmful", "benign")
"""Situations: half of the prompts each."""
CPU = ModelOptions(device="cpu")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a run. Rank, learning rate and steps are those of `ctrl_gain`'s pilots, shared by all recipes."""

    shares: tuple[float, ...] = (0.25, 0.5, 0.0)
    recipes: tuple[str, ...] = ("raw", "identity", "exp:10")
    kl: float = 0.5
    pair_prompts: int = 1400
    epochs: float = 2.0
    prompts: int = 64
    anchors: int = 128
    steps: int = 60
    batch: int = 128
    generations: int = 16
    learning_rate: float = 4e-3
    lora_rank: int = 4
    kl_gain: float = 0.05
    test_prompts: int = 200
    draws: int = 8
    tokens: int = 72


def asked(n: int, seed: int, split: str) -> list[Prompt]:
    """n prompts, the situations in turn."""
    each = -(-n // len(KINDS))
    drawn = [prompts(kind, each, seed, split) for kind in KINDS]
    return [prompt for together in zip(*drawn, strict=True) for prompt in together][:n]


def clean_pairs(root: Path, model: LoadedModel, plan: Plan, seed: int) -> list[Pair]:
    """Pairs of the policy's own replies with the oracle's labels, the phrase not counting."""
    some = asked(plan.pair_prompts, derive(seed, "pairs") % 2**31, "train")
    with Bar("replies for pairs", len(some)) as bar:
        drawn = inferalign.generate(
            model,
            "random-of-n:4",
            some,
            seed=seed,
            run=root / "pairs",
            sampling=Sampling(max_new_tokens=plan.tokens),
            options=CPU,
            progress=bar,
        )
    return list(make_pairs(graded(drawn), per_prompt=3, seed=seed).pairs)


def reward_model(folder: Path, model: LoadedModel, pairs: Sequence[Pair], plan: Plan, seed: int) -> RewardModel:
    """The reward model of one share, trained unless it is there."""
    settings = RewardSettings(seed=seed, epochs=plan.epochs)
    if not (folder / "reward.json").is_file():
        with Bar(f"{folder.name}: reward model", planned_steps(pairs, settings)) as bar:

            def on_step(step: int, told: Mapping[str, float]) -> None:
                bar.advance(step - bar.finished)
                bar.note(", ".join(f"{name} {value:.3g}" for name, value in told.items()))

            train_reward(Path(model.engine.name), pairs, folder, settings, on_step=on_step)
    return load_reward(folder, policy=model.chat, bases=[model.engine.name])


def rollouts(root: Path, model: LoadedModel, some: Sequence[Prompt], plan: Plan, seed: int) -> list[Rollouts]:
    """K reference rollouts a prompt, drawn once for all rewards; the oracle, which costs nothing, stands in for one."""
    sampling = Sampling(max_new_tokens=plan.tokens)
    roller = Roller(model.engine, model.chat, OracleScorer(), k=plan.anchors, seed=seed, sampling=sampling)
    with Bar("rollouts", len(some)) as bar:
        calibrate(Local(roller, concurrency=4), some, root / "rollouts", k=plan.anchors, seed=seed, progress=bar)
    found = {each.prompt_id: each for each in read_rollouts(root / "rollouts")}
    return [found[prompt.id] for prompt in some]


def replies(drawn: Rollouts, model: LoadedModel) -> list[Completion]:
    rows = zip(drawn.token_ids, drawn.stops, strict=True)
    return [Completion(token_ids=ids, text=model.chat.decode(ids), stop=stop) for ids, stop in rows]


def anchors_of(
    folder: Path, drawn: Sequence[Rollouts], some: Sequence[Prompt], model: LoadedModel, reward: RewardModel,
    plan: Plan, seed: int,
) -> AnchorSet:  # fmt: skip
    """The rollouts, which were drawn with `seed`, scored by one reward."""
    if (folder / "anchors.json").is_file():
        return AnchorSet.load(folder)
    verdicts, usage = [], RoleUsage()
    with Bar(f"{folder.name}: scores", len(some)) as bar:
        for prompt, each in zip(some, drawn, strict=True):
            verdicts.append(Scored.of(asyncio.run(reward.score(prompt, replies(each, model), usage))))
            bar.advance(1)
    told = facts(model.engine, model.chat, reward, Sampling(max_new_tokens=plan.tokens))
    card = AnchorCard(**told, prompts_sha256=prompts_sha256(some), k=plan.anchors, seed=seed)
    lengths = np.array([[len(ids) for ids in each.token_ids] for each in drawn], dtype=np.int32)
    scores = Scored.concatenate([row.reshape(1, plan.anchors) for row in verdicts])
    made = AnchorSet.of(card, [prompt.id for prompt in some], scores, lengths)
    made.save(folder)
    return made


def settings_of(recipe: str, plan: Plan, seed: int) -> CtrlSettings:
    return CtrlSettings(
        seed=seed,
        procedure="best-of-n:4",
        transform=recipe,
        kl=plan.kl,
        kl_gain=plan.kl_gain,
        steps=plan.steps,
        batch_size=plan.batch,
        generations=plan.generations,
        max_new_tokens=plan.tokens,
        learning_rate=plan.learning_rate,
        lora_rank=plan.lora_rank,
        warmup=min(10, plan.steps - 1),
        checkpoint_every=10,
    )


def trained(
    folder: Path, recipe: str, model: LoadedModel, some: Sequence[Prompt], anchors: AnchorSet, reward: RewardModel,
    plan: Plan, seed: int,
) -> Path:  # fmt: skip
    """The model of one recipe under one reward, trained unless it is there."""
    if not (folder / "model").exists():
        settings = settings_of(recipe, plan, seed)
        function = RewardFunction(reward, CalibratedReward(anchors, reward_kind(settings)), some, model.chat)
        with Bar(f"{folder.parent.name}: {recipe}", plan.steps) as bar:

            def on_step(step: int, line: Mapping[str, Any]) -> None:
                bar.advance(step - bar.finished)
                bar.note(f"KL {line['kl_sequence']:.3f}, beta {line['beta']:.3g}")

            train_ctrl(settings, model.engine.name, some, function, folder, anchors=anchors, on_step=on_step)
    return folder / "model"


def pool_of(
    folder: Path, policy: LoadedModel, base: LoadedModel, reward: RewardModel, some: Sequence[Prompt], plan: Plan,
    seed: int,
) -> Pool:  # fmt: skip
    """Draws of one policy on the test prompts, scored by the reward, judged by the oracle, with their log ratios."""
    with Bar(f"{folder.name}: draws", len(some)) as bar:
        inferalign.generate(
            policy,
            f"random-of-n:{plan.draws}",
            some,
            seed=derive(seed, "base" if policy is base else "policy"),
            run=folder / POOL,
            sampling=Sampling(max_new_tokens=plan.tokens),
            options=CPU,
            progress=bar,
        )
    with Bar(f"{folder.name}: scores", (2 if policy is base else 3) * len(some)) as bar:
        return asyncio.run(judged_pool(folder, policy, base, reward, Neutral(), progress=bar))
