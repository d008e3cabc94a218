"""A trainer of your own on calibrated rewards: TRL's GRPO, with the anchors as a column of its dataset.

    inferalign sandbox sample --kind all --n 8 --split train --seed 81 --out asked.jsonl
    inferalign calibrate --model sandbox --prompts asked.jsonl --run runs/anchors --k 64 --max-new-tokens 64
    python examples/grpo.py asked.jsonl runs/anchors runs/grpo [STEPS [MODEL [SCORER]]]

The scorer and the model are those of the anchors. `grpo_settings` keeps what GRPO's own settings undo, the transform.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from inferalign.core.prompts import read_prompts
from inferalign.core.types import RoleUsage
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.beta import beta_for
from inferalign.ctrl.columns import column_rewards, grpo_settings, with_ref_rewards
from inferalign.ctrl.reward_function import completion_of, or_none
from inferalign.ctrl.scored import Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.table import ModelOptions, is_sandbox, load
from inferalign.scorers.table import build_scorer
from inferalign.theory.transforms import Exponential

GROUP, TOKENS = 8, 64


def main(
    file: str, anchors_dir: str, out: str, steps: str = "20", model: str = "sandbox", judge: str = "reward"
) -> None:
    prompts, anchors = read_prompts(file), AnchorSet.load(anchors_dir)
    engine, chat = load(model, ModelOptions())
    scorer = build_scorer(judge, engine=engine, chat=chat, sandbox=is_sandbox(engine.name), options=ModelOptions())
    asked, usage = {prompt.id: prompt for prompt in prompts}, RoleUsage()

    def reward(completion_ids: Any, id: Any, ref_rewards: Any, **columns: Any) -> list[float | None]:
        answers = [completion_of(ids, chat) for ids in completion_ids]
        verdicts = [
            asyncio.run(scorer.score(asked[name], [answer], usage))[0] for name, answer in zip(id, answers, strict=True)
        ]
        return or_none(column_rewards(Scored.of(verdicts), ref_rewards, Exponential(10)))

    rows = [
        {"id": prompt.id, "prompt": [{"role": each.role, "content": each.content} for each in prompt.messages]}
        for prompt in prompts
    ]
    beta = beta_for(CtrlSettings(transform="exp:10", kl=0.5, max_new_tokens=TOKENS), anchors)
    trainer = GRPOTrainer(
        model=engine.name,
        reward_funcs=reward,
        args=GRPOConfig(
            out,
            **grpo_settings(beta, num_generations=GROUP),
            max_steps=int(steps),
            per_device_train_batch_size=4 * GROUP,
            learning_rate=1e-3,
            max_completion_length=TOKENS,
            bf16=False,
            report_to=[],
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(list(with_ref_rewards(rows, anchors))),
        processing_class=AutoTokenizer.from_pretrained(engine.name),
    )
    trainer.train()
    trainer.model.save_pretrained(out)
    trainer.processing_class.save_pretrained(out)
    kl = [line["kl"] for line in trainer.state.log_history if "kl" in line]
    print(f"{steps} steps at beta {beta:.3f}, KL by token {kl[-1]:.4f}: {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
