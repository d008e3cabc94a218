"""One training from a saved model to a saved model: prepared, checked, resumable, and written down step by step.

    OUT/model/              the trained model (or LoRA adapter) and its tokenizer, once it is finished
    OUT/steps.jsonl         one line a step: KL, beta, rewards, lengths, what the reward logged
    OUT/checkpoint/         weights and optimiser of an unfinished training, as safetensors

A step depends on the weights, the optimiser, beta and the step's number alone: draws have seeds of their own, and the
order of prompts is fixed. So a training that was stopped ends at the same weights as one that was not.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup
from trl import RLOOConfig

from inferalign.core.errors import ModelError, RunError
from inferalign.core.files import disk_errors
from inferalign.core.lookup import load
from inferalign.core.types import Prompt
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, prompts_sha256, sampling_facts
from inferalign.ctrl.beta import KlController, beta_for
from inferalign.ctrl.data import dataset, digest, order, render
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.step_log import NEXT_BETA, OnStep, StepLog
from inferalign.ctrl.trainer import ADAM_BETAS, BETA_METRIC, KL_METRIC, CtrlTrainer, Reward, quiet_trl, rloo_arguments
from inferalign.engines.chat import ChatFormat
from inferalign.engines.checkpoint import load_state, save_state, saved_step
from inferalign.engines.weights import check_folder, check_loaded, quiet, weights_digest
from inferalign.procedures.base import Sampling

LOG = "steps.jsonl"
CHECKPOINT = "checkpoint"
MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training made."""

    model: Path
    """A directory that any transformers model is loaded from."""
    steps: int
    beta: float
    """That of the last step."""
    kl: float
    """The mean sequence KL measured over the last tenth of the steps, in nats: each before its step's update."""


def train_ctrl(
    settings: CtrlSettings,
    model: Path | str,
    prompts: Sequence[Prompt],
    reward: Reward,
    out: Path,
    *,
    anchors: AnchorSet | None = None,
    chat_template: str | None = None,
    on_step: OnStep = lambda step, facts: None,
) -> Trained:
    """Train `model` on `reward` into `out`, taking up an unfinished training there.

    reward: TRL's signature. It says what is maximised; of `settings`, transform and procedure only find beta from
    `anchors`, and are recorded. anchors: refused unless they are of this model, template, sampling and prompts.
    chat_template: Jinja, in the place of the tokenizer's own.

    Raises `InputError`, `ModelError` and `RunError` before anything is trained when it could not mean what it should,
    `RunError` also when the first step shows it, when `out` is finished or another training's, and when not every
    step was taken.
    """
    _check_processes(int(os.environ.get("WORLD_SIZE", "1")), settings)
    if (out / MODEL).exists():
        raise RunError(f"{out} holds a finished model: name another --run, or remove it to train it again")
    opened = _open(str(model), chat_template)
    if anchors is not None:
        anchors.require(_card_of_now(anchors, settings, opened, prompts))
    rendered = render(prompts, opened.chat, room=opened.context - settings.max_new_tokens)
    places = order(len(rendered), settings)
    beta = beta_for(settings, anchors)
    made_by = {
        "settings": {key: value for key, value in asdict(settings).items() if key != "checkpoint_every"},
        "beta": beta,
        "model": opened.weights,
        "chat": dict(opened.chat.describe()),
        "prompts": digest(rendered),
        "anchors": None if anchors is None else anchors.card.digest,
    }
    law = copy.deepcopy(opened.model.generation_config)
    trainer = _trainer(settings, opened, reward, out, dataset(rendered, places), beta)
    log = _resumed(trainer, settings, out, made_by, on_step)
    with quiet_trl():
        trainer.train()
    if trainer.step != settings.steps:
        raise RunError(f"{trainer.step} of {settings.steps} steps were taken: TRL stopped early; repeat the command")
    _save(trainer, opened.tokenizer, law, out)
    last = log.lines[-max(1, settings.steps // 10) :]
    kl = math.fsum(line[KL_METRIC] for line in last) / len(last)
    return Trained(model=out / MODEL, steps=trainer.step, beta=log.lines[-1][BETA_METRIC], kl=kl)


class _Opened(NamedTuple):
    model: Any
    tokenizer: Any
    chat: ChatFormat
    context: int
    weights: str


def _open(name: str, chat_template: str | None) -> _Opened:
    """The model in float32, loaded from where TRL will load the reference. Raises `ModelError`."""
    check_folder(name)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name)
            model, info = AutoModelForCausalLM.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the model {name!r} for training: {str(error).splitlines()[0]}") from error
    check_loaded(name, model, tokenizer, info)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    ends = model.generation_config.eos_token_id
    chat = ChatFormat(tokenizer, end_ids=ends if isinstance(ends, list) else [] if ends is None else [ends])
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
    return _Opened(model, tokenizer, chat, context, weights_digest(name))


def _check_processes(found: int, settings: CtrlSettings) -> None:
    """Raises `RunError` for another number than asked: `accelerate launch --cpu`, for one, silently starts one."""
    if found != settings.processes:
        raise RunError(
            f"{found} processes are training and {settings.processes} were asked for: start them with "
            f"`torchrun --nproc_per_node {settings.processes} -m inferalign.cli.main train ...`, or set processes to "
            f"{found}"
        )


def _card_of_now(anchors: AnchorSet, settings: CtrlSettings, opened: _Opened, prompts: Sequence[Prompt]) -> AnchorCard:
    """What anchors for this training would say; the scorer is not known here and is taken as it was."""
    sampling = Sampling(temperature=1.0, max_new_tokens=settings.max_new_tokens)
    return replace(
        anchors.card,
        weights=opened.weights,
        chat=dict(opened.chat.describe()),
        sampling=sampling_facts(sampling, opened.chat),
        prompts_sha256=prompts_sha256(prompts),
    )


def _trainer(settings: CtrlSettings, opened: _Opened, reward: Reward, out: Path, rows: Any, beta: float) -> CtrlTrainer:
    config = RLOOConfig(**rloo_arguments(settings, out / CHECKPOINT, steps=settings.steps, beta=beta))
    _check_processes(config.world_size, settings)
    control = KlController(settings.kl, settings.kl_gain, start=beta) if settings.kl_gain else None
    with quiet():
        return CtrlTrainer(
            opened.model,
            reward,
            config,
            rows,
            opened.tokenizer,
            seed=settings.seed,
            control=control,
            adapter=_adapter(settings),
        )


def _adapter(settings: CtrlSettings) -> Any:
    """LoRA (arXiv 2106.09685) on all linear layers; None for full training. Raises `InputError` without peft."""
    if settings.lora_rank is None:
        return None
    return load("peft:LoraConfig")(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _resumed(
    trainer: CtrlTrainer, settings: CtrlSettings, out: Path, made_by: Mapping[str, Any], on_step: OnStep
) -> StepLog:
    """Optimiser, schedule and log in place, where an earlier process left them. Raises `RunError` if it was another."""
    parameters = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    rate = settings.learning_rate
    # a schedule that goes on where another stopped asks for the initial rate
    group = {"params": list(parameters.values()), "lr": rate, "initial_lr": rate}
    optimiser = torch.optim.AdamW([group], lr=rate, betas=ADAM_BETAS, weight_decay=0.0)
    done = saved_step(out / CHECKPOINT, made_by)
    if done:
        load_state(out / CHECKPOINT, parameters, [optimiser])
    trainer.optimizer = optimiser
    trainer.lr_scheduler = get_cosine_schedule_with_warmup(
        optimiser, settings.warmup, settings.steps, last_epoch=done - 1
    )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded:
        warnings.warn("sharded weights: no checkpoints are kept, a training that is stopped begins again", stacklevel=3)

    def keep(step: int) -> None:
        due = step % settings.checkpoint_every == 0 and step < settings.steps
        if due and not sharded and trainer.is_world_process_zero():
            save_state(out / CHECKPOINT, parameters, [optimiser], step, made_by)

    log = StepLog(out / LOG, trainer, keep, on_step)
    log.take_up(done)
    if done:
        trainer.skip(done)
        trainer.beta = log.lines[-1][NEXT_BETA]
    trainer.add_callback(log)
    return log


def _save(trainer: CtrlTrainer, tokenizer: Any, law: Any, out: Path) -> None:
    """Whole or not at all: made elsewhere, then put in its place."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.is_world_process_zero():
        return
    made = out / CHECKPOINT / MODEL
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    model.generation_config = law
    with disk_errors(out, "save the model in"), quiet():
        model.save_pretrained(made, state_dict=state)
        tokenizer.save_pretrained(made)
        os.replace(made, out / MODEL)
        shutil.rmtree(out / CHECKPOINT)
