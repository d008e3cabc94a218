"""A policy near a random base model, and pools of its answers, for tests of win rates and KL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inferalign import api
from inferalign.core.types import Message, Prompt
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.procedures.base import Sampling

PROMPTS = [Prompt(id=f"p{i}", messages=(Message(role="user", content=f"Question {i}?"),)) for i in range(4)]


def perturbed(base: Path, path: Path, size: float, seed: int = 0) -> Path:
    """The base model with noise of relative size `size` in its head: another policy, the same tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head = model.lm_head.weight
        head.add_(size * head.std() * torch.randn(head.shape, generator=generator))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(base).save_pretrained(path)
    return path


def opened(folder: Path) -> LoadedModel:
    return load(str(folder), ModelOptions())


def draw_pool(model: LoadedModel, run: Path, m: int, seed: int, tokens: int = 8) -> Path:
    """A pool of m answers to each of `PROMPTS`, as `inferalign generate` draws it."""
    asyncio.run(
        api.agenerate(model, f"random-of-n:{m}", PROMPTS, seed=seed, run=run, sampling=Sampling(max_new_tokens=tokens))
    )
    return run
