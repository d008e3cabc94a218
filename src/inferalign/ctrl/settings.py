"""What decides a training, in one frozen dataclass whose fields are the keys of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inferalign.core.errors import InputError

COLOCATED = "colocate"
"""vLLM in the training processes, on their GPUs."""
FEWEST_GENERATIONS = 8
"""Fewer responses a prompt make the leave-one-out baseline, and so the gradient, needlessly noisy."""


@dataclass(frozen=True, kw_only=True)
class CtrlSettings:
    """Everything that decides the weights, beside the model, the prompts and the reward."""

    seed: int = 0
    """Root of the prompts' order, of every draw, and of LoRA's first weights."""
    procedure: str = "best-of-n:4"
    """What the model is trained for: how it will be decoded."""
    transform: str = "optimal"
    """What is made of the calibrated reward: identity, log, exp:T, power:K, one-shot, optimal; or raw, standardised."""
    algorithm: Literal["reinforce", "offline"] = "reinforce"
    """How: by fresh draws of the policy, or by regression on the anchors' own rollouts (a baseline; draws none)."""
    kl: float = 0.5
    """The mean sequence KL to the starting model that is aimed at, in nats."""
    beta: float | None = None
    """Weight of the KL; without it, the one that theory gives for `kl` and the anchors at hand."""
    kl_gain: float = 0.0
    """Holds the KL at `kl` once warm: log beta moves so much a step, times the relative error; 0 leaves beta alone."""
    steps: int = 300
    """Optimiser steps."""
    batch_size: int = 256
    """Responses a step, over all processes."""
    generations: int = 32
    """Responses a prompt; the others of a prompt are each one's baseline."""
    micro_batch: int | None = None
    """Responses that one process holds in memory at once; without it, its whole share of a step."""
    max_new_tokens: int = 256
    """Tokens that a response may have; as many as the anchors had."""
    learning_rate: float = 1e-4
    """Peak of AdamW's, after the warm-up; cosine to 0."""
    warmup: int = 20
    """Steps over which the learning rate rises."""
    lora_rank: int | None = None
    """Train low-rank adapters of this rank on all linear layers but the head (needs peft); without it, all weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of forward and backward passes; weights and optimiser stay in float32."""
    gradient_checkpointing: bool = False
    """Less memory for about a fifth more time."""
    vllm: str | None = None
    """Let vLLM draw the responses: `colocate` on the training GPUs, or a server's address, http://HOST:PORT."""
    vllm_memory: float = 0.3
    """Share of each GPU's memory that a colocated vLLM takes."""
    processes: int = 1
    """Processes that train together; a training started with another number is refused."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    check_every: int = 50
    """Steps between checks that the anchors still belong to the starting model, on fresh draws of it."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "max_new_tokens", "processes", "checkpoint_every", "check_every"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("micro_batch", "lora_rank"):
            _require((getattr(self, key) or 1) >= 1 and getattr(self, key) != 0, key, getattr(self, key), "at least 1")
        for key in ("kl", "learning_rate"):
            _require(0 < getattr(self, key) < math.inf, key, getattr(self, key), "a positive number")
        _require(self.beta is None or 0 < self.beta < math.inf, "beta", self.beta, "a positive number")
        _require(0 <= self.kl_gain <= 1, "kl_gain", self.kl_gain, "from 0 (off) to 1, for example 0.02")
        _require(0 <= self.warmup < self.steps, "warmup", self.warmup, f"from 0 to below steps ({self.steps})")
        _require(self.precision in ("float32", "bfloat16"), "precision", self.precision, "float32 or bfloat16")
        known = ("reinforce", "offline")
        _require(self.algorithm in known, "algorithm", self.algorithm, "reinforce or offline")
        still = self.algorithm == "reinforce" or self.kl_gain == 0
        _require(still, "kl_gain", self.kl_gain, "0 with algorithm offline, whose targets belong to one beta")
        address = (self.vllm or COLOCATED) == COLOCATED or str(self.vllm).startswith(("http://", "https://"))
        _require(address, "vllm", self.vllm, f"{COLOCATED}, or the address of a server such as http://127.0.0.1:8000")
        _require(0 < self.vllm_memory < 1, "vllm_memory", self.vllm_memory, "between 0 and 1")
        least = FEWEST_GENERATIONS
        _require(self.generations >= least, "generations", self.generations, f"at least {least}")
        self._check_division()

    def _check_division(self) -> None:
        given = f"batch_size {self.batch_size}"
        if self.batch_size % self.generations:
            raise InputError(f"{given} is no multiple of generations ({self.generations}): give whole prompts a step")
        if self.batch_size % self.processes:
            raise InputError(f"{given} is no multiple of processes ({self.processes}): give each an equal share")
        if self.share % self.at_once:
            raise InputError(
                f"micro_batch {self.micro_batch} does not divide a process's {self.share} responses a step: give a "
                "divisor"
            )

    @property
    def prompts_a_step(self) -> int:
        return self.batch_size // self.generations

    @property
    def share(self) -> int:
        """Responses of one process a step."""
        return self.batch_size // self.processes

    @property
    def at_once(self) -> int:
        """Responses in one forward pass of one process."""
        return self.share if self.micro_batch is None else self.micro_batch


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{key} is {value}: expected {expected}")
