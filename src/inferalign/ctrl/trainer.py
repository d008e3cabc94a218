"""KL-regularised REINFORCE with a leave-one-out baseline: TRL's RLOOTrainer, held to what the theory assumes.

The objective is E[Phi(C)] - beta KL(pi || p), KL over whole sequences, as InfAlign (arXiv 2412.19792) asks. TRL puts
beta * sum_t log(pi / p) into the reward of each response and subtracts the mean of its siblings (arXiv 2402.14740),
which is an unbiased gradient of that objective as long as nothing normalises, clips or masks, and responses are drawn
from the policy itself: `rloo` sets it so, `CtrlTrainer` looks whether it is so when training starts.

Each step's draws have a seed of their own, derived from the step: what was drawn before, or by another process that
was stopped, changes nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PrinterCallback
from trl import RLOOConfig, RLOOTrainer

from inferalign.core.errors import InputError, RunError
from inferalign.core.seeds import derive
from inferalign.ctrl import engine_draws, shared_prompts
from inferalign.ctrl.by_length import by_length, positions
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.rloo import check_calibrated, check_no_dropout, check_same_weights, diverged, own_law
from inferalign.ctrl.shared_prompts import Packed, by_prompt, responses_a_row
from inferalign.ctrl.vllm_draws import (
    APART_METRIC,
    EFFECTIVE_METRIC,
    VllmDraws,
    check_effective,
    effective,
    truncated_weights,
)
from inferalign.engines.draws import NotFinite

Reward = Callable[..., Any]
"""TRL's reward signature: `(prompts, completions, completion_ids, prompt_id=[...], **columns)` to one number or None a
response, or an async callable of that kind. `prompts` are token ids here."""
Control = Callable[[int, float, float], float]
"""The next beta, from the steps taken, this beta and the KL measured under it."""

KL_METRIC = "kl_sequence"
BETA_METRIC = "beta"
CALIBRATED_METRIC = "calibrated/mean"
"""Logged by a calibrated reward: the mean calibrated value of what it has just seen."""

SAMPLES = 8
"""Responses of a step that are kept to be read."""
ZERO_KL = {"float32": 1e-3, "bfloat16": 0.05}
"""How far from 0 the mean |log pi/p| of a response may be before anything was trained, by arithmetic."""


class CtrlTrainer(RLOOTrainer):  # type: ignore[misc]  # TRL is untyped here
    """RLOO on prompts that are token ids, with exact sequence KL, seeds by step, and checks of the first step.

    A row of `dataset` has `prompt` (token ids) and `prompt_id`. What the very first step must show is checked then, and
    `skip` says that it was taken before. Raises `ModelError` for dropout, and for a reference that is not `model`;
    `InputError` for a beta of 0, under which there is no reference.
    """

    beta: float
    train_dataset: Any
    vllm_generation: Any
    ref_model: Any
    """The second copy of the starting model, that KL is measured to; None under an adapter, which is switched off."""

    def __init__(
        self,
        model: Any,
        reward: Reward,
        config: RLOOConfig,
        dataset: Any,
        tokenizer: Any,
        *,
        seed: int,
        control: Control | None = None,
        adapter: Any = None,
    ) -> None:
        if not config.beta > 0:
            raise InputError(
                f"beta is {config.beta:g}: expected a positive number; without a KL nothing holds the model"
            )
        own_law(model)
        super().__init__(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=adapter,
        )
        self.remove_callback(PrinterCallback)  # it prints on stdout
        self._seed, self._control, self._done = seed, control, 0
        self._seen: list[Tensor] = []
        self._judged: list[str] = []
        self.samples: list[dict[str, Any]] = []
        """Of what was drawn last, on the first process: prompt, text, and the reward that training saw."""
        bare = self.accelerator.unwrap_model(self.model)
        bare = bare.get_base_model() if self.is_adapted else bare
        self._takes_positions = "position_ids" in inspect.signature(bare.forward).parameters
        self._shares_prompts, self._width = shared_prompts.suits(bare), getattr(bare.config, "hidden_size", 1)
        self.draws_by_engine = not (config.use_vllm or config.bf16 or self.is_sharded) and engine_draws.suits(bare)
        if config.use_vllm:
            self.vllm_generation = VllmDraws(self.vllm_generation)
        check_no_dropout(self.model)
        if self.ref_model is not None and not self.is_sharded:
            # sharded weights cannot be laid side by side; there the KL of the first step tells
            check_same_weights(self.model, self.accelerator.unwrap_model(self.ref_model))

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter is trained, which is switched off for the reference."""
        return self.ref_model is None

    @property
    def step(self) -> int:
        """Steps done, those of earlier processes included."""
        return int(self._done + self.state.global_step)

    def skip(self, done: int) -> None:
        """Go on after `done` steps of another process: with the prompts and the number of steps that are left."""
        self._done = done
        each = self.args.generation_batch_size // self.num_generations
        self.train_dataset = self.train_dataset.select(range(done * each, len(self.train_dataset)))
        self.args.max_steps -= done

    def log_before_step(self, name: str, value: float) -> None:
        """Put a number into the line of the step that comes."""
        self._metrics["train"][name].append(value)

    def _send_telemetry(self) -> None:
        """A training tells nobody that it ran."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """They are token ids already; encoding rendered text would put a second start token before many."""
        return prompts, None, {}

    def _generate_single_turn(self, prompts: list[list[int]], *rest: Any) -> list[list[int]]:
        """By the engine where it can: a row that has ended costs nothing there, and draws are keyed."""
        if self.draws_by_engine:
            return self.draw(self.accelerator.unwrap_model(self.model), prompts, "draws", self.max_completion_length)
        drawn: list[list[int]] = super()._generate_single_turn(prompts, *rest)
        return drawn

    def draw(self, model: Any, prompts: Sequence[Sequence[int]], what: str, most: int) -> list[list[int]]:
        """Responses of this step by the engine, at most `most` tokens long, an end token included.

        what: names the draws; under another name they are others. Raises `RunError` when steps have ruined the model.
        """
        seed = derive(self._seed, what, self.step, self.accelerator.process_index)
        try:
            return engine_draws.draw(
                model.get_base_model() if self.is_adapted else model,
                self.processing_class,
                [tuple(ids) for ids in prompts],
                [derive(seed, "row", at) for at in range(len(prompts))],
                ends=self.eos_token_ids,
                max_new_tokens=most,
            )
        except NotFinite:
            if not self.step:
                raise
            raise diverged(self.step, "its logits are not finite any more") from None

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Tensor, mask: Tensor, kept: int, batch_size: int | None = None, **more: Any
    ) -> tuple[Any, ...]:
        """By prompt or by length where one process holds everything: DDP and FSDP want one pass for each backward.

        A model of experts is left whole too, since the loss that balances them is not a mean over rows.
        """
        work = super()._get_per_token_logps_and_entropies

        def packed_pass(rows: Packed) -> tuple[Tensor, Tensor | None]:
            told = {"input_ids": rows.ids, "attention_mask": rows.sees, "position_ids": rows.positions}
            with self.accelerator.autocast():
                out = model(**told, shift_labels=rows.labels, fused_lm_head=True)
            return out.log_probs, out.entropy if more.get("compute_entropy") else None

        def placed(**told: Any) -> Any:
            return model(**told, position_ids=positions(told["attention_mask"]))

        read = placed if self._takes_positions else model

        def one_pass(ids: Tensor, mask: Tensor, kept: int) -> tuple[Any, ...]:
            found: tuple[Any, ...] = work(read, ids, mask, kept, **more)
            return found

        alone = self.accelerator.num_processes == 1 and not self.is_sharded and not more.get("compute_aux_loss")
        together = self._responses_a_row(mask, kept) if alone else 1
        found: tuple[Any, ...]
        if together > 1:
            found = (*by_prompt(packed_pass, ids, mask, kept, together, batch_size), None)
        elif alone:
            found = (*by_length(one_pass, ids, mask, kept, batch_size), None)
        else:
            found = work(read, ids, mask, kept, batch_size, **more)
        self._seen.append(found[0].detach())
        return found

    def _responses_a_row(self, mask: Tensor, kept: int) -> int:
        """1 where the model cannot share a prompt, or nothing would be saved."""
        if not self._shares_prompts:
            return 1
        before, after = mask[:, :-kept].sum() / len(mask), mask[:, -kept:].sum() / len(mask)
        return responses_a_row(float(before), float(after), self._width)

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Sequence[str], *rest: Any
    ) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, *rest)
        # the rewards of all processes, each process's own in their order: those of the first one are the first
        own, kept = rewards[: len(inputs), 0].tolist(), min(SAMPLES, len(inputs))
        self.samples = [
            {"prompt_id": inputs[at]["prompt_id"], "response": completions[at], "reward": _known(own[at])}
            for at in (len(inputs) * i // kept for i in range(kept))
        ]
        if self.step == 0:
            # of all processes, as the rewards are
            asked: list[str] = gather_object([row["prompt_id"] for row in inputs])
            failed = rewards.isnan().all(dim=1).tolist()
            self._judged = [name for name, missing in zip(asked, failed, strict=True) if not missing]
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        torch.manual_seed(derive(self._seed, "draws", self.step, self.accelerator.process_index))
        self._seen.clear()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        policy, reference = self._seen
        mask = output["completion_mask"]
        weights = self._weights((policy * mask).sum(dim=1))
        output["advantages"] = output["advantages"] * weights
        log_ratios = ((policy - reference) * mask).sum(dim=1)
        kl = float(self.accelerator.gather(weights * log_ratios).double().mean())
        log_ratios = self.accelerator.gather(log_ratios).double()
        logged = self._metrics["train"]
        logged[KL_METRIC].append(kl)
        logged[BETA_METRIC].append(self.beta)
        if self.step == 0:
            self._check_start(float(log_ratios.abs().mean()))
            reward = self.reward_funcs[0]
            if isinstance(reward, RewardFunction) and self._judged:
                spread = reward.calibration.standard_error(self._judged)
                check_calibrated(logged[CALIBRATED_METRIC][-1], len(self._judged), spread)
        if self._control is not None:
            self.beta = self._control(self.step, self.beta, kl)
        return output

    def _weights(self, log_pi: Tensor) -> Tensor:
        """Importance weights of responses [B] with these log-probabilities: 1, unless vLLM drew them.

        Raises `RunError` when too few draws are left of those that vLLM made.
        """
        if not self.use_vllm:
            return torch.ones_like(log_pi)
        log_ratios = log_pi - torch.tensor(self.vllm_generation.log_q, dtype=log_pi.dtype, device=log_pi.device)
        every = self.accelerator.gather(log_ratios)
        share = effective(every)
        self.log_before_step(APART_METRIC, float(every.abs().mean()))
        self.log_before_step(EFFECTIVE_METRIC, share)
        check_effective(share, every)
        return truncated_weights(log_ratios)

    def _check_start(self, apart: float) -> None:
        """Raises `RunError` when policy and reference are not one model before the first step."""
        allowed = ZERO_KL["bfloat16" if self.args.bf16 else "float32"]
        if not apart <= allowed:
            raise RunError(
                f"before the first step the model is {apart:.3g} nats a response from its reference, which should be "
                f"itself (at most {allowed:g}): it was changed after loading, drops out units, or is computed in "
                "another arithmetic; give a saved model, and report it if it is one"
            )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._seen.clear()
        loss: Tensor = super()._compute_loss(model, inputs)
        clipped = self._metrics["train"]["clip_ratio/region_mean"]
        if self.step == 0 and clipped and clipped[-1] > 0:
            raise RunError(
                f"{100 * clipped[-1]:.1f} % of the first responses have another probability in training than when "
                "they were drawn, so that TRL clips them: something is random in the model's forward pass (dropout?), "
                "or the arithmetic is too coarse (give precision float32)"
            )
        return loss


def _known(reward: float) -> float | None:
    return None if math.isnan(reward) else reward
