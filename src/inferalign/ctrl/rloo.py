"""What holds TRL's RLOO to the objective: its arguments, and what has to be so before the first step.

Nothing here draws or trains; `trainer` does, and asks here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from inferalign.core.errors import ModelError, RunError
from inferalign.core.seeds import derive
from inferalign.ctrl.settings import CtrlSettings

MAX_GRAD_NORM = 1.0
WIDE = 5.0
"""Standard errors that the first mean calibrated reward may be away from 1/2."""


def rloo_arguments(settings: CtrlSettings, folder: Path, *, steps: int, beta: float) -> dict[str, Any]:
    """Arguments of `RLOOConfig` that keep the objective; TRL's own defaults for these are others, or may become so."""
    return {
        "output_dir": str(folder),
        "beta": beta,
        # the estimator: on-policy, nothing between reward and gradient
        "num_generations": settings.generations,
        "num_iterations": 1,
        "normalize_advantages": False,
        "reward_clip_range": None,
        "mask_truncated_completions": False,
        "sync_ref_model": False,
        "disable_dropout": True,
        # responses come from the policy itself
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "max_completion_length": settings.max_new_tokens,
        # the optimisation
        "max_steps": steps,
        "per_device_train_batch_size": settings.at_once,
        "gradient_accumulation_steps": settings.share // settings.at_once,
        "learning_rate": settings.learning_rate,
        "max_grad_norm": MAX_GRAD_NORM,
        "weight_decay": 0.0,
        "seed": derive(settings.seed, "trl") % 2**32,
        "shuffle_dataset": False,
        # the machine
        "bf16": settings.precision == "bfloat16",
        "activation_checkpointing": settings.gradient_checkpointing,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        # nothing is saved, printed or sent by TRL
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


@contextmanager
def quiet_trl() -> Iterator[None]:
    """Without the warning that TRL's own use of transformers draws at every step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing\w*` is deprecated", FutureWarning)
        yield


def own_law(model: Any) -> None:
    """Take from the model's generation settings all but its special tokens: TRL passes the rest on to the draws.

    A list of suppressed tokens, a smallest length or a penalty there would draw from another law than the policy's.
    """
    kept = ("bos_token_id", "eos_token_id", "pad_token_id")
    settings = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(settings, name) for name in kept})


def check_no_dropout(model: nn.Module) -> None:
    """Raises `ModelError` for a module that drops units in training: as a layer, or as a rate that it passes on."""
    for name, module in model.named_modules():
        rates = {key: rate for key, rate in vars(module).items() if "drop" in key and isinstance(rate, float)}
        if isinstance(module, nn.modules.dropout._DropoutNd):
            rates["p"] = module.p
        for key, rate in rates.items():
            if rate > 0:
                raise ModelError(
                    f"{name}.{key} is {rate}: with dropout the policy is not the model that answers, and its KL is "
                    "wrong. Set the model's dropout rates to 0 in its config.json"
                )


def check_same_weights(model: nn.Module, reference: nn.Module) -> None:
    """Raises `ModelError` unless both hold the same numbers: TRL loads the reference anew by the model's name."""
    others = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in others or not torch.equal(parameter, others[name]):
            raise ModelError(
                f"the reference is not the model that training starts from: {name} differs. TRL loads the reference "
                "from where the model came from, so save the model, then train from that directory"
            )


def check_calibrated(mean: float, responses: int, standard_error: float) -> None:
    """Raises `RunError` when the mean calibrated reward of the first responses that were judged is far from 1/2.

    They are draws of the reference, so that it is 1/2 but for the error of so many draws from so many prompts, and of
    the anchors that those of one prompt share (`CalibratedReward.standard_error`).
    """
    allowed = WIDE * standard_error
    if abs(mean - 0.5) > allowed:
        raise RunError(
            f"the mean calibrated reward of the first {responses} responses is {mean:.3f}, and of draws from the "
            f"anchors' model it is 0.5 (within {allowed:.3f}): the anchors are of another model, template or "
            "reward: draw them again with `inferalign calibrate`"
        )


def diverged(step: int, how: str) -> RunError:
    """What is said of a training that ran away by its step `step`."""
    return RunError(
        f"the training diverged at step {step}: {how}. Repeat it from its beginning with a smaller --learning-rate, a "
        "longer --warmup or a smaller --kl"
    )
