"""Trains the sandbox model from scratch: tokenizer, small Llama, one resumable loop. CPU is enough.

Batch t is a fixed slice of the conversations of `curriculum`, so a resumed run sees what an uninterrupted one would.
Checkpoints are safetensors only (weights, optimiser moments) with a JSON card beside them.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inferalign.core.errors import RunError
from inferalign.core.seeds import derive
from inferalign.sandbox import curriculum, world
from inferalign.sandbox.curriculum import ASSISTANT, END, PAD, SPECIALS, USER

CARD = "sandbox.json"
"""Written last: its presence says that a training is finished."""
POOL = 8
"""Steps whose conversations are drawn together, to be batched by length (a third less padding)."""
MODEL_VERSION = "sandbox-1"
"""The name that every number measured on the shipped weights cites."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}" + ASSISTANT + "{{ message['content'] }}" + END + ""
    "{% else %}{{ raise_exception('the sandbox model knows user and assistant turns only') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    """Root of the data order and of the initial weights."""
    steps: int = 4400
    """Optimiser steps."""
    batch_size: int = 32
    """Conversations a step."""
    learning_rate: float = 2e-3
    """Peak; warm-up over 2 % of the steps, then cosine to a twentieth."""
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    mlp: int = 512
    vocabulary: int = 1024
    tokenizer_dialogues: int = 20_000
    """Conversations that the tokenizer is trained on."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE over training dialogues: any text can be encoded, the world's words are mostly one token."""
    texts = []
    for i in range(recipe.tokenizer_dialogues):
        request, clauses, _ = curriculum.dialogue(recipe.seed, i)
        texts.append(f"{request} {world.render(clauses)}")
    texts += [
        question.removeprefix(curriculum.JUDGE) + good + bad for question, good, bad in curriculum.QUESTIONS
    ] * 2000
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=recipe.vocabulary,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=PAD, extra_special_tokens=list(SPECIALS), model_max_length=1024
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.mlp,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(
    out: Path,
    recipe: Recipe,
    *,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, facts: None,
) -> Path:
    """Train into `out` (resuming from `out/checkpoint` if it is there) and save an `AutoModelForCausalLM` directory.

    Raises `RunError` when `out` holds a finished model, or a checkpoint of another recipe.
    """
    if (out / CARD).exists():
        raise RunError(f"{out} holds a finished model: name another --out, or remove it to train it again")
    state_dir = out / "checkpoint"
    state_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(recipe)
    encode = _encoder(tokenizer)
    ends = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)
    model = new_model(recipe, tokenizer)
    optimiser = torch.optim.AdamW(_groups(model), lr=recipe.learning_rate, betas=(0.9, 0.98))
    start = _resume(state_dir, recipe, model, optimiser)
    began, seen = time.monotonic(), 0
    pool: list[list[curriculum.Packed]] = []
    model.train()
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, recipe.steps)
        if not pool:
            pool = _pool(encode, ends, recipe, step // POOL)[step % POOL :]
        batch = {k: torch.from_numpy(v) for k, v in curriculum.collate(pool.pop(0), tokenizer.pad_token_id).items()}
        loss, facts = _losses(model, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += batch["ids"].numel()
        on_step(step + 1, facts | {"tokens_per_second": seen / (time.monotonic() - began)})
        if (step + 1) % recipe.checkpoint_every == 0 and step + 1 < recipe.steps:
            _save_state(state_dir, recipe, model, optimiser, step + 1)
    return _export(out, recipe, model, tokenizer)


def _pool(
    encode: curriculum.Encoder, ends: frozenset[int], recipe: Recipe, index: int
) -> list[list[curriculum.Packed]]:
    """The batches of steps [index*POOL, (index+1)*POOL): sequences of like length together, in a seeded order."""
    size = POOL * recipe.batch_size
    made = [curriculum.build(encode, ends, recipe.seed, index * size + i) for i in range(size)]
    made.sort(key=lambda packed: len(packed.ids))
    batches = [made[i : i + recipe.batch_size] for i in range(0, size, recipe.batch_size)]
    random.Random(derive(recipe.seed, "pool", index)).shuffle(batches)
    return batches


def schedule(step: int, steps: int) -> float:
    """Learning-rate factor in (0, 1]: linear warm-up over 2 %, cosine to 0.05."""
    warmup = max(1, steps // 50)
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _encoder(tokenizer: PreTrainedTokenizerFast) -> curriculum.Encoder:
    backend = tokenizer.backend_tokenizer

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def _losses(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross-entropy of the reply tokens plus that of the verdicts, each averaged over its own tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(
            input_ids=batch["ids"], position_ids=batch["positions"], attention_mask=batch["mask"], use_cache=False
        ).logits
    targets = batch["targets"]
    wanted = targets != -100
    losses = torch.nn.functional.cross_entropy(logits[wanted].float(), targets[wanted], reduction="none")
    # The only target on a branch is its verdict; a branch's tokens sit later in the row than in their position.
    row = torch.arange(targets.shape[1])[None]
    in_reply = (row == batch["positions"])[wanted]
    speech, verdicts = losses[in_reply].mean(), losses[~in_reply].mean()
    return speech + verdicts, {"speech": speech.item(), "verdict": verdicts.item()}


def _save_state(folder: Path, recipe: Recipe, model: Any, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Atomic: the new state lies beside the old one before it takes its place."""
    tensors = {f"weight.{name}": p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        moments = optimiser.state[p]
        tensors |= {f"m.{name}": moments["exp_avg"], f"v.{name}": moments["exp_avg_sq"]}
    temporary = folder / "state.safetensors.new"
    save_file(tensors, temporary, metadata={"step": str(step), "recipe": json.dumps(asdict(recipe), sort_keys=True)})
    os.replace(temporary, folder / "state.safetensors")


def _resume(folder: Path, recipe: Recipe, model: Any, optimiser: torch.optim.Optimizer) -> int:
    """Load a checkpoint, if there is one; returns the steps that are done."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if json.loads(metadata["recipe"]) != asdict(recipe):
        raise RunError(f"{folder} holds a checkpoint of another recipe: name another --out, or remove {folder}")
    tensors, step = load_file(path), int(metadata["step"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"weight.{name}"])
            optimiser.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"m.{name}"],
                "exp_avg_sq": tensors[f"v.{name}"],
            }
    return step


def _export(out: Path, recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = {"version": MODEL_VERSION, "world": world.WORLD_VERSION, "recipe": asdict(recipe)}
    (out / CARD).write_text(json.dumps(card, indent=2) + "\n")
    return out
