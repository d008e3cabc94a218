"""TRL's RewardTrainer over pairs that are token ids already, in a fixed order, resumable without a pickle.

The loss is Bradley and Terry's, -log sigmoid(r(chosen) - r(rejected)), plus TRL's 0.01 * mean (r(chosen) +
r(rejected))^2, which keeps rewards near 0 (arXiv 2312.09244, equation 2): pairs alone leave a constant free.

Which pairs a step sees is fixed beforehand, and TRL is given those that are left, in order: a resumed run takes the
steps of an uninterrupted one. TRL's own checkpoints would pickle the optimiser.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, get_cosine_schedule_with_warmup
from trl import RewardConfig, RewardTrainer

from inferalign.core.files import dump_json
from inferalign.core.seeds import derive
from inferalign.core.types import TokenIds
from inferalign.engines.checkpoint import load_state, save_state, saved_step
from inferalign.sandbox.pairs import Pair

CENTRE = 0.01
LOGGED_EVERY = 10
"""Steps whose losses are averaged for one report."""

OnStep = Callable[[int, dict[str, float]], None]
"""Called with the steps done and the newest facts (loss, accuracy on what was trained on)."""


class Encoded(NamedTuple):
    """A pair with the token ids of its better and of its worse reply, each behind the prompt."""

    pair: Pair
    chosen_ids: TokenIds
    rejected_ids: TokenIds


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Everything that decides the weights, beside base and pairs."""

    seed: int = 0
    """Root of the head's first weights and of the order of the pairs."""
    layers: int | Literal["all"] = 3
    """How many of the last layers are trained, beside the head and the final norm; `all` trains everything."""
    question: str = ""
    """What follows an answer, at whose end the head reads; empty: the end of the turn."""
    epochs: float = 2.0
    """How often each pair is seen."""
    batch_size: int = 32
    """Pairs a step."""
    learning_rate: float = 1e-3
    """Peak of AdamW's; warm-up over a twentieth of the steps, then cosine to 0."""
    held_out: float = 0.1
    """Share of prompts that accuracy is measured on and nothing is trained on."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""


def fit(
    model: Any,
    tokenizer: Any,
    names: Sequence[str],
    pairs: Sequence[Encoded],
    settings: RewardSettings,
    *,
    base: str,
    checkpoint: Path,
    on_step: OnStep,
) -> None:
    """Train the parameters `names` of `model` in place, from the state in the folder `checkpoint` if there is one.

    `base` is the hash of the weights that the model came with. Raises `RunError` for a checkpoint of another training.
    """
    order = batches(len(pairs), settings)
    steps = len(order) // settings.batch_size
    parameters = {name: p for name, p in model.named_parameters() if name in names}
    optimiser = torch.optim.AdamW(_groups(parameters, settings.learning_rate), lr=settings.learning_rate)
    made_by = {"settings": asdict(settings), "base": base, "pairs": _digest(pairs)}
    done = saved_step(checkpoint, made_by)
    if done:
        load_state(checkpoint, parameters, [optimiser])
    scheduler = get_cosine_schedule_with_warmup(optimiser, max(1, steps // 20), steps, last_epoch=done - 1)

    def keep(step: int) -> None:
        if step % settings.checkpoint_every == 0 and step < steps:
            save_state(checkpoint, parameters, [optimiser], step, made_by)

    left = _dataset(pairs).select(order[done * settings.batch_size :])
    trainer = _Trainer(
        model=model,
        args=_config(checkpoint, settings, steps - done),
        train_dataset=left,
        processing_class=tokenizer,
        optimizers=(optimiser, scheduler),
        callbacks=[_Report(done, keep, on_step)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    trainer.train()
    model.eval()


def batches(pairs: int, settings: RewardSettings) -> list[int]:
    """Places of pairs in the order of training, whole batches only: each epoch is a permutation of its own."""
    total = max(1, int(settings.epochs * pairs) // settings.batch_size) * settings.batch_size
    order: list[int] = []
    epoch = 0
    while len(order) < total:
        places = list(range(pairs))
        random.Random(derive(settings.seed, "order", epoch)).shuffle(places)
        order += places
        epoch += 1
    return order[:total]


class _Trainer(RewardTrainer):  # type: ignore[misc]  # TRL is untyped here
    def _send_telemetry(self) -> None:
        """A training tells nobody that it ran."""


class _Report(TrainerCallback):  # type: ignore[misc]
    """Passes on each step, counted from the start of the training rather than of this process."""

    def __init__(self, done: int, keep: Callable[[int], None], on_step: OnStep) -> None:
        self._done, self._keep, self._on_step = done, keep, on_step
        self._facts: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self._facts = {name: (logs or {})[name] for name in ("loss", "accuracy") if name in (logs or {})}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = self._done + state.global_step
        self._keep(step)
        self._on_step(step, self._facts)


def _config(folder: Path, settings: RewardSettings, steps: int) -> RewardConfig:
    """One CPU process in mixed precision (weights in float32), nothing saved, shuffled, dropped or reported by TRL."""
    return RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        max_steps=steps,
        center_rewards_coefficient=CENTRE,
        seed=derive(settings.seed, "trl") % 2**32,
        train_sampling_strategy="sequential",
        max_length=None,
        use_cpu=True,
        bf16=True,
        activation_checkpointing=False,
        save_strategy="no",
        logging_steps=LOGGED_EVERY,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _groups(parameters: dict[str, Any], learning_rate: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only. A schedule that goes on where another stopped asks for the initial rate."""
    common = {"lr": learning_rate, "initial_lr": learning_rate}
    return [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": 0.05, **common},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0, **common},
    ]


def _dataset(pairs: Sequence[Encoded]) -> Dataset:
    return Dataset.from_dict(
        {
            "chosen_ids": [list(e.chosen_ids) for e in pairs],
            "rejected_ids": [list(e.rejected_ids) for e in pairs],
        }
    )


def _digest(pairs: Sequence[Encoded]) -> str:
    return hashlib.sha256(dump_json([[e.chosen_ids, e.rejected_ids, e.pair.margin] for e in pairs])).hexdigest()
