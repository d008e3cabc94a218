"""One training from a saved model to a saved model: prepared, checked, resumable, and written down step by step.

    OUT/model/              the trained model, its tokenizer and card, once it is finished
    OUT/adapter/            of a LoRA training, the adapter alone
    OUT/steps.jsonl         one line a step: KL, beta, rewards, lengths, what the reward logged
    OUT/samples.jsonl       some responses of the first step and of every `check_every`-th after it, with their rewards
    OUT/training.lock       held by the process that trains
    OUT/checkpoint/         weights and optimiser of an unfinished training, as safetensors

A step depends on the weights, the optimiser, beta and the step's number alone: draws have seeds of their own, and the
order of prompts is fixed. So a training that was stopped ends at the same weights as one that was not (near them under
vLLM, whose draws have no seeds).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup
from trl import RLOOConfig

from inferalign.core.errors import InputError, ModelError, RunError
from inferalign.core.shards import training_into
from inferalign.core.types import Prompt
from inferalign.ctrl.anchors import AnchorCard, AnchorSet, prompts_sha256, sampling_facts
from inferalign.ctrl.beta import KlController, beta_for
from inferalign.ctrl.card import card_of
from inferalign.ctrl.data import dataset, digest, order, render
from inferalign.ctrl.offline import OfflineTrainer, end_token
from inferalign.ctrl.processes import Checkpoints, check_processes
from inferalign.ctrl.reference_draws import ReferenceDraws
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.rloo import quiet_trl, rloo_arguments
from inferalign.ctrl.saving import CHECKPOINT, MODEL, lora, save_trained
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.step_log import NEXT_BETA, SCORING, OnStep, StepLog
from inferalign.ctrl.stored import StoredRollouts
from inferalign.ctrl.trainer import BETA_METRIC, KL_METRIC, CtrlTrainer, Reward
from inferalign.ctrl.vllm_draws import vllm_arguments
from inferalign.engines.chat import ChatFormat
from inferalign.engines.weights import check_folder, check_loaded, quiet, weights_digest
from inferalign.procedures.base import Sampling

LOG = "steps.jsonl"
ADAM_BETAS = (0.9, 0.99)
HOW_OFTEN = ("checkpoint_every", "check_every")
"""Settings that decide no weight."""


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
    scoring: Mapping[str, float] | None
    """What scoring has cost in all processes, as `RoleUsage` counts it; None where the reward does not say."""


def train_ctrl(
    settings: CtrlSettings,
    model: Path | str,
    prompts: Sequence[Prompt],
    reward: Reward,
    out: Path,
    *,
    anchors: AnchorSet | None = None,
    rollouts: StoredRollouts | None = None,
    chat_template: str | None = None,
    on_begin: Callable[[int], None] = lambda done: None,
    on_step: OnStep = lambda step, facts: None,
    on_end: Callable[[Trained], None] = lambda made: None,
) -> Trained:
    """Train `model` on `reward` into `out`, taking up an unfinished training there.

    reward: TRL's signature. It says what is maximised; of `settings`, transform and procedure only find beta from
    `anchors`, and are recorded. anchors: refused unless they are of this model, template, sampling and prompts.
    rollouts: what algorithm `offline` trains on, made with the same reward; then `reward` only scores what is drawn for
    the log.
    chat_template: Jinja, in the place of the tokenizer's own.
    on_begin: called once before a step is taken, when nobody else can write `out` any more, with the steps that an
    earlier process took. on_end: called by every process when all steps were taken, before the model is put in its
    place: where that stands, `on_end` has run.

    Raises `InputError`, `ModelError` and `RunError` before anything is trained when it could not mean what it should,
    `RunError` also when the first step or fresh draws of the starting model show it, when `out` is finished or another
    training's, and when not every step was taken.
    """
    check_processes(settings)
    _check_algorithm(settings, rollouts)
    _refuse_finished(out)
    opened = _open(str(model), chat_template)
    if anchors is not None:
        anchors.require(_card_of_now(anchors, settings, opened, prompts))
    rendered = render(prompts, opened.chat, room=opened.context - settings.max_new_tokens)
    if isinstance(reward, RewardFunction):
        reward.require_room(settings.max_new_tokens)
    places = order(len(rendered), settings)
    beta = beta_for(settings, anchors)
    made_by = {
        "settings": {key: value for key, value in asdict(settings).items() if key not in HOW_OFTEN},
        "beta": beta,
        "model": opened.weights,
        "chat": dict(opened.chat.describe()),
        "prompts": digest(rendered),
        "anchors": None if anchors is None else anchors.card.digest,
        "rollouts": None if rollouts is None else rollouts.digest,
    }
    with _writing(out):
        law = copy.deepcopy(opened.model.generation_config)
        trainer = _trainer(settings, opened, reward, rollouts, out, dataset(rendered, places), beta)
        if isinstance(reward, RewardFunction) and not trainer.is_sharded:
            trainer.add_callback(ReferenceDraws(trainer, reward, rendered, settings))
        log = _resumed(trainer, settings, out, made_by, on_step)
        on_begin(len(log.lines))
        with quiet_trl():
            trainer.train()
        if trainer.step != settings.steps:
            raise RunError(
                f"{trainer.step} of {settings.steps} steps were taken: TRL stopped early; repeat the command"
            )
        beta, kls = log.lines[-1][BETA_METRIC], [line[KL_METRIC] for line in log.lines[-max(1, settings.steps // 10) :]]
        made = Trained(
            model=out / MODEL,
            steps=trainer.step,
            beta=beta,
            kl=math.fsum(kls) / len(kls),
            scoring=log.lines[-1].get(SCORING),
        )
        on_end(made)
        card = card_of(settings, anchors, reward, model=str(model), weights=opened.weights, beta=beta, kls=kls)
        save_trained(trainer, opened.tokenizer, law, card, out, base=str(model))
    return made


def _refuse_finished(out: Path) -> None:
    if (out / MODEL).exists():
        raise RunError(f"{out} holds a finished model: name another --run, or remove it to train it again")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """The right to write the run, of the first process for all. Raises `RunError` where another training has it."""
    if int(os.environ.get("RANK", "0")):
        yield
        return
    with training_into(out):
        _refuse_finished(out)  # by a training that ended since this one looked
        yield


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


def _check_algorithm(settings: CtrlSettings, rollouts: StoredRollouts | None) -> None:
    """Raises `InputError` for rollouts that are missing, or that nothing would read."""
    if (settings.algorithm == "offline") != (rollouts is not None):
        given = "none are given" if rollouts is None else "some are given"
        raise InputError(
            f"algorithm is {settings.algorithm}, which takes stored rollouts if it is offline only, and {given}: give "
            "`rollouts=StoredRollouts.read(...)` with algorithm='offline'"
        )


def _trainer(
    settings: CtrlSettings,
    opened: _Opened,
    reward: Reward,
    rollouts: StoredRollouts | None,
    out: Path,
    rows: Any,
    beta: float,
) -> CtrlTrainer:
    drawn = vllm_arguments(settings, longest_prompt=max(map(len, rows["prompt"])), end_ids=opened.chat.end_ids)
    config = RLOOConfig(**rloo_arguments(settings, out / CHECKPOINT, steps=settings.steps, beta=beta) | drawn)
    check_processes(settings, config.world_size)
    control = None
    if settings.kl_gain:
        control = KlController(settings.kl, settings.kl_gain, start=beta, warmup=settings.warmup)
    parts = (opened.model, reward, config, rows, opened.tokenizer)
    seed, rank = settings.seed, settings.lora_rank
    adapter = None if rank is None else lora(rank, opened.model.name_or_path)
    with quiet(), quiet_trl():
        if rollouts is None:
            return CtrlTrainer(*parts, seed=seed, control=control, adapter=adapter)
        return OfflineTrainer(*parts, seed=seed, adapter=adapter, stored=rollouts, end=end_token(opened.chat))


def _resumed(
    trainer: CtrlTrainer, settings: CtrlSettings, out: Path, made_by: Mapping[str, Any], on_step: OnStep
) -> StepLog:
    """Optimiser, schedule and log in place, where an earlier process left them. Raises `RunError` if it was another."""
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    rate = settings.learning_rate
    # a schedule that goes on where another stopped asks for the initial rate
    group = {"params": parameters, "lr": rate, "initial_lr": rate}
    optimiser = torch.optim.AdamW([group], lr=rate, betas=ADAM_BETAS, weight_decay=0.0)
    trainer.optimizer = optimiser
    checkpoints = Checkpoints(trainer, optimiser, out / CHECKPOINT, made_by)
    done = checkpoints.done
    trainer.lr_scheduler = get_cosine_schedule_with_warmup(
        optimiser, settings.warmup, settings.steps, last_epoch=done - 1
    )

    def keep(step: int) -> None:
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            checkpoints.keep(step)

    log = StepLog(out / LOG, trainer, keep, on_step, samples_every=settings.check_every)
    log.take_up(done)
    if done:
        trainer.skip(done)
        trainer.beta = log.lines[-1][NEXT_BETA]
    trainer.add_callback(checkpoints)
    trainer.add_callback(log)
    return log
