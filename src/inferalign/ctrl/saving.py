"""What a finished training leaves: a model that loads by itself, and the adapter too where one was trained.

    OUT/model/      the trained model, its tokenizer and card; of a LoRA training, the starting model with the adapter
                    added to its weights, so that everything that loads a model loads it
    OUT/adapter/    the LoRA adapter alone, a hundredth of the size, for `peft` on the starting model

Both are made elsewhere and then put in their place, `model` last: where it stands, the training is finished.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from inferalign.core.errors import ModelError
from inferalign.core.files import disk_errors, read_json, write_json_atomic
from inferalign.core.lookup import load
from inferalign.ctrl.rloo import quiet_trl
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.table import SANDBOX_CARD
from inferalign.engines.weights import quiet
from inferalign.winrate.card import Card, write_card

CHECKPOINT = "checkpoint"
MODEL = "model"
ADAPTER = "adapter"


def lora(rank: int, base: str) -> Any:
    """LoRA (arXiv 2106.09685) on all linear layers but the head. Raises `InputError` without peft.

    base: what the adapter says it belongs to; the whole path of a directory, to load from anywhere.
    """
    return load("peft:LoraConfig")(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
    )


def save_trained(trainer: CtrlTrainer, tokenizer: Any, law: Any, card: Card, out: Path, *, base: str) -> None:
    """Save what was trained in `out`, and remove its checkpoint. Every process calls it, and the first one writes.

    law: the model's own generation settings, which training has set aside. base: what training started from. Raises
    `RunError` when it cannot be written.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    made, adapter = out / CHECKPOINT / MODEL, out / CHECKPOINT / ADAPTER
    if trainer.is_adapted:
        with disk_errors(out, "save the adapter in"), quiet():
            model.save_pretrained(adapter, state_dict=state)
        with quiet():
            model, state = merged(base, adapter), None
    with disk_errors(out, "save the model in"), quiet():
        model.generation_config = law
        model.save_pretrained(made, state_dict=state)
        tokenizer.save_pretrained(made)
        write_card(made, card)
        if card.sandbox:
            # it still speaks the sandbox's language, and knows the questions that are asked in it
            told = {
                "version": "trained",
                "world": read_json(Path(base) / SANDBOX_CARD).get("world"),
                "start": card.base_weights,
            }
            write_json_atomic(made / SANDBOX_CARD, told)
        if adapter.exists():
            shutil.rmtree(out / ADAPTER, ignore_errors=True)  # of a training that was stopped right here
            os.replace(adapter, out / ADAPTER)
        os.replace(made, out / MODEL)
        shutil.rmtree(out / CHECKPOINT)


def merged(base: str, adapter: Path) -> Any:
    """The starting model in float32 with the adapter's products added to its weights: W + (alpha / r) B A."""
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    except OSError as error:
        raise ModelError(
            f"cannot read {base!r} again to add the adapter to it ({str(error).splitlines()[0]}): the adapter is in "
            f"{adapter}; put the model back, then repeat the command"
        ) from error
    with quiet_trl():
        return load("peft:PeftModel").from_pretrained(model, adapter).merge_and_unload()
